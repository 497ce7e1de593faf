"""The result of one model on a source whose entropy is known exactly: `SourceEvaluation`.

Cross-entropy, entropy and KL are in nats/token, KL is KL(truth‖model), and accuracies, ECE,
confidences and weights are fractions in [0, 1].  The numbers of a slot are nats per token *of that
slot*: weighted by ``tokens_per_sentence`` they add up to those of a sentence.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from kullback.results.base import Data, Result
from kullback.results.evaluation import ReliabilityBin
from kullback.results.measurement import Measurement

__all__ = ["LanguagePart", "PartEvaluation", "PositionLoss", "SlotLoss", "SourceEvaluation"]

#: The language that the model is trained on, or that of the cells held out from it.
LanguagePart: TypeAlias = Literal["training", "held out"]


class SlotLoss(Data, frozen=True, kw_only=True):
    """The three terms of the identity at the tokens of one slot."""

    slot: str
    tokens_per_sentence: float
    cross_entropy: float
    entropy: float
    kl: float
    kl_from_reference: float | None = None
    """KL(reference‖model) at the prefixes where this slot comes next."""


class PositionLoss(Data, frozen=True, kw_only=True):
    """The three terms of the identity at the tokens of one position."""

    tokens_before: int
    """Of the sentence, ``<s>`` not counted; of a window: how many symbols the model was given."""
    share: float
    """Of all tokens."""
    cross_entropy: float
    entropy: float
    kl: float


class PartEvaluation(Data, frozen=True, kw_only=True):
    """One model on one part of a source's language."""

    name: str
    """Of the model."""
    language: LanguagePart
    exact: bool
    """Whether the sums are over every prefix of the language, or over sampled sentences."""
    prefixes: int
    cross_entropy: Measurement
    entropy: Measurement
    kl: Measurement
    identity_residual: float
    """CE − (H + KL): rounding, since the three are computed independently."""
    perplexity: float
    top1_accuracy: float
    """E[p(most probable token of the model | prefix)]."""
    top5_accuracy: float
    best_top1_accuracy: float
    """The top-1 accuracy of the true distribution."""
    ece: float
    reliability: tuple[ReliabilityBin, ...]
    by_slot: tuple[SlotLoss, ...]
    by_position: tuple[PositionLoss, ...] = ()
    """The first positions: nats per token there."""
    floor: float | None = None
    """The exact entropy per token of the whole language; `entropy` is that of the prefixes read."""
    floor_error: float = 0.0
    """The most by which it is off, where its last digits are not known."""
    window: int | None = None
    """Symbols of a window of a process, whose first one is given."""
    kl_from_reference: Measurement | None = None
    """KL(reference‖model), where the model was compared with another one."""
    top1_agreement: float | None = None
    """How often model and reference have the same most probable token."""


class SourceEvaluation(Result, frozen=True, kw_only=True, tag="kullback.source_evaluation/1"):
    """One model on a source: `kullback evaluate MODEL` without ``--text``."""

    named_by: ClassVar[str] = "model"

    model: str
    source: str
    parts: tuple[PartEvaluation, ...]
    """The training language first; the held-out one where the source has one."""
