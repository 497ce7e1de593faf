"""The result of the lab: `LabResults`.

Cross-entropies, entropies, KLs and surprisals are in nats/token unless the name says *sentence*.
Accuracies, confidences and weights are fractions in [0, 1].  KL is KL(reference‖model):
``kl_truth`` is KL(truth‖model), ``kl_original`` is KL(original‖quantised model).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from kullback.errors import InvalidValueError
from kullback.results.base import Data, Result
from kullback.results.source import LanguagePart, PartEvaluation

__all__ = [
    "CurvePoint",
    "LabResults",
    "MinimalPairAccuracy",
    "ModelFacts",
    "PairGroup",
    "Quantisation",
    "QuantisedSlot",
    "Seconds",
    "SentenceReport",
    "SourceFacts",
    "TokenReport",
    "TrainingFacts",
]

#: What pairs are grouped by.
PairGroup: TypeAlias = Literal["all", "tense", "person", "verb", "regularity"]


class Seconds(Data, frozen=True, kw_only=True):
    """Wall-clock time."""

    training: float
    total: float


class SourceFacts(Data, frozen=True, kw_only=True):
    """The language, and what is known of it exactly."""

    name: str
    vocabulary_size: int
    log_vocabulary_size: float
    entropy_per_token: float
    entropy_per_sentence: float
    tokens_per_sentence: float
    number_of_sentences: float
    number_of_prefixes: float
    holdout: tuple[tuple[str, ...], ...]
    """The (verb, tense, person) cells that the training language does not contain."""
    held_out_entropy_per_token: float | None


class ModelFacts(Data, frozen=True, kw_only=True):
    """The shape of the mini-GPT."""

    parameters: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    context: int


class CurvePoint(Data, frozen=True, kw_only=True):
    """A logged stretch of training steps: its loss, its true surprisal, and their difference."""

    step: int
    tokens: int
    cross_entropy: float
    entropy: float
    """The mean true surprisal of the batches: the entropy, up to sampling noise."""
    kl: float
    kl_standard_error: float


class TrainingFacts(Data, frozen=True, kw_only=True):
    """The course of the training."""

    floor: float
    untrained_cross_entropy: float
    steps: int
    tokens: int
    tokens_per_second: float
    curve: tuple[CurvePoint, ...]


class MinimalPairAccuracy(Data, frozen=True, kw_only=True):
    """How often a model gives the right form a higher probability than the wrong one."""

    model: str
    side: str
    """The language of the pair: ``"english"`` or ``"spanish"``."""
    held_out: bool
    group: PairGroup
    value: str
    pairs: int
    accuracy: float


class QuantisedSlot(Data, frozen=True, kw_only=True):
    """KL(original‖quantised) at the tokens of one slot."""

    slot: str
    kl_original: float


class Quantisation(Data, frozen=True, kw_only=True):
    """The model with quantised weights."""

    scheme: str
    bytes: int
    cross_entropy: float
    delta_cross_entropy: float
    kl_original: float
    kl_truth: float
    top1_agreement: float
    by_slot: tuple[QuantisedSlot, ...]


class TokenReport(Data, frozen=True, kw_only=True):
    """One token of a sentence, with the model's and the true distribution before it."""

    text: str
    slot: str
    surprisal: float
    true_surprisal: float
    kl: float
    """KL(truth‖model) of the whole distribution at this prefix."""
    model_top: tuple[tuple[str, float], ...]
    """The model's most probable tokens and their probabilities."""
    true_top: tuple[tuple[str, float], ...]


class SentenceReport(Data, frozen=True, kw_only=True):
    """A sentence, token by token."""

    language: LanguagePart
    tokens: tuple[TokenReport, ...]


class LabResults(Result, frozen=True, kw_only=True, tag="kullback.lab/1"):
    """Everything that `kullback lab` measures."""

    title: str
    created: str
    command: str
    versions: dict[str, str]
    seconds: Seconds
    peak_memory_mb: float
    source: SourceFacts
    model: ModelFacts
    training: TrainingFacts
    evaluations: tuple[PartEvaluation, ...]
    minimal_pairs: tuple[MinimalPairAccuracy, ...]
    quantisations: tuple[Quantisation, ...]
    sentences: tuple[SentenceReport, ...]

    @property
    def headline(self) -> PartEvaluation:
        """The first evaluation on the training language, which the report opens with.

        Its ``name`` is the model's; evaluations of other names are baselines.  Raises
        `InvalidValueError` where no evaluation is on the training language.
        """
        for evaluation in self.evaluations:
            if evaluation.language == "training":
                return evaluation
        languages = [evaluation.language for evaluation in self.evaluations]
        raise InvalidValueError(
            f"evaluations has the languages {languages}: one must be 'training'; evaluate the "
            "model on its training language first"
        )
