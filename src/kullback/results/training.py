"""The result of a training run: what the model reached, beside an n-gram baseline.

All cross-entropies are means over tokens of the validation data, in nats/token, unless the name
says training.  Model and n-gram models are scored on the same target tokens, each after the tokens
before it in its window or sentence, so their numbers compare directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kullback.results.base import Data, Result
from kullback.results.measurement import Measurement

__all__ = ["NgramBaseline", "StepMetrics", "TrainingRun", "TrainingSeconds"]


class NgramBaseline(Data, frozen=True, kw_only=True):
    """An interpolated modified Kneser-Ney model fitted to the training data."""

    order: int
    """Tokens of an n-gram; 1 is the unigram model, 0 the uniform distribution."""
    cross_entropy: Measurement
    bits_per_byte: Measurement | None
    """None on a source."""


class TrainingSeconds(Data, frozen=True, kw_only=True):
    """Wall-clock time of this call."""

    training: float
    validation: float
    """Scoring the model on the validation data once more, token by token."""
    baseline: float
    """Fitting and scoring the n-gram models."""


@dataclass(frozen=True)
class StepMetrics:
    """A line of ``metrics.jsonl``: means over the steps since the line before, in nats/token.

    `entropy` and `kl` are None on a text, whose entropy is unknown.
    """

    step: int
    tokens: int
    cross_entropy: float
    entropy: float | None
    kl: float | None
    kl_standard_error: float | None
    tokens_per_second: float
    seconds_left: float
    learning_rate: float
    validation_cross_entropy: float | None = None
    validation_kl: float | None = None
    validation_bits_per_byte: float | None = None
    """None on a source."""


class TrainingRun(Result, frozen=True, kw_only=True, tag="kullback.training/1"):
    """A finished training run."""

    named_by: ClassVar[str] = "folder"

    folder: str
    """The run folder; `kullback evaluate`, `kullback sample` and transformers read it."""
    steps: int
    tokens: int
    """Target tokens of all steps."""
    training_cross_entropy: float
    """Mean over the steps `training_steps`, before the updates of the model that it measures."""
    training_steps: tuple[int, int]
    """First and last step of `training_cross_entropy`, from 1."""
    cross_entropy: Measurement
    bits_per_byte: Measurement | None
    """None on a source."""
    floor: float | None
    """The exact entropy of the source in nats/token; None on a text, where it is unknown.

    Of the tokens before `cut_at`, where it is given.
    """
    kl: Measurement | None
    """KL(source‖model), estimated by the mean of nll − true surprisal; None on a text."""
    baselines: tuple[NgramBaseline, ...]
    """By increasing order, from 2."""
    baseline_tokens: int
    """Tokens that the n-gram models are fitted to."""
    training_split_tokens: int
    """Tokens of the training split of the text, or of all training sentences of the source."""
    difference: Measurement
    """Cross-entropy of the model minus that of `best_baseline`, paired token by token."""
    seconds: TrainingSeconds
    uniform: NgramBaseline | None = None
    """Of a text: every entry of the vocabulary equally probable."""
    unigram: NgramBaseline | None = None
    """Of a text: the frequencies of its tokens."""
    running_text: NgramBaseline | None = None
    """Of a text: the best n-gram model where it sees the tokens before a window, too.

    The model does not see these.
    """
    cut_at: int | None = None
    """Tokens after which sentences of a source are cut; `floor` and losses are of those before."""

    @property
    def best_baseline(self) -> NgramBaseline:
        """The baseline with the lowest cross-entropy on the validation data."""
        return min(self.baselines, key=lambda baseline: baseline.cross_entropy.value)
