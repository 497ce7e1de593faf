"""What does a lab run hand to its report?

These types are the contract between the code that measures and the page that shows.  A
`LabResults` is plain data: written with ``json.dumps`` and read back, it gives the same page.

Units and conventions.  Every cross-entropy, entropy, KL and surprisal is in nats per token, unless
the name says *sentence*.  Accuracies, ECE, confidences and weights are fractions in [0, 1].  KL is
always KL(reference‖model), the reference being the first-named: ``kl_truth`` is KL(truth‖model).
The numbers of a slot are nats per token *of that slot*: weighted by ``tokens_per_sentence`` they
add up to those of a sentence.  Infinity is an answer and is shown as ∞.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict

from kullback.errors import InvalidValueError

__all__ = [
    "CurvePoint",
    "Evaluation",
    "LabResults",
    "LanguagePart",
    "MinimalPairAccuracy",
    "ModelFacts",
    "Quantisation",
    "QuantisedSlot",
    "ReliabilityBin",
    "Seconds",
    "SentenceReport",
    "SlotLoss",
    "SourceFacts",
    "TokenReport",
    "TrainingFacts",
    "headline_evaluation",
]

#: The sentences that the model was trained on the language of, or those of the held-out cells.
LanguagePart: TypeAlias = Literal["training", "held out"]


class Seconds(TypedDict):
    """Wall-clock time."""

    training: float
    total: float


class SourceFacts(TypedDict):
    """The language, and what is known of it exactly."""

    name: str
    vocabulary_size: int
    log_vocabulary_size: float
    entropy_per_token: float
    entropy_per_sentence: float
    tokens_per_sentence: float
    number_of_sentences: float
    number_of_prefixes: float
    holdout: Sequence[Sequence[str]]
    """The (verb, tense, person) cells that the training language never says."""
    held_out_entropy_per_token: float | None


class ModelFacts(TypedDict):
    """The shape of the mini-GPT."""

    parameters: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    context: int


class CurvePoint(TypedDict):
    """One batch of fresh sentences: its loss, its true surprisal, and their difference."""

    step: int
    tokens: int
    cross_entropy: float
    entropy: float
    """The mean true surprisal of the batch: the entropy, up to the luck of the draw."""
    kl: float
    kl_standard_error: float


class TrainingFacts(TypedDict):
    """How the training went."""

    floor: float
    untrained_cross_entropy: float
    steps: int
    tokens: int
    tokens_per_second: float
    curve: Sequence[CurvePoint]


class ReliabilityBin(TypedDict):
    """The predictions whose confidence is in (low, high], or [low, high] where low is 0."""

    low: float
    high: float
    confidence: float
    accuracy: float
    weight: float


class SlotLoss(TypedDict):
    """The three terms of the identity at the tokens of one slot."""

    slot: str
    tokens_per_sentence: float
    cross_entropy: float
    entropy: float
    kl: float


class Evaluation(TypedDict):
    """One model on one part of the language."""

    name: str
    language: LanguagePart
    exact: bool
    """Whether every prefix of the language was visited, or a sample of them."""
    prefixes: int
    cross_entropy: float
    entropy: float
    kl: float
    identity_residual: float
    perplexity: float
    top1_accuracy: float
    top5_accuracy: float
    best_top1_accuracy: float
    ece: float
    reliability: Sequence[ReliabilityBin]
    by_slot: Sequence[SlotLoss]


class MinimalPairAccuracy(TypedDict):
    """How often a model gives the right form more probability than the wrong one."""

    model: str
    side: Literal["english", "spanish"]
    held_out: bool
    group: Literal["all", "tense", "person", "verb", "regularity"]
    value: str
    pairs: int
    accuracy: float


class QuantisedSlot(TypedDict):
    """KL(original‖quantised) at the tokens of one slot."""

    slot: str
    kl_original: float


class Quantisation(TypedDict):
    """The model with its weights in fewer bits."""

    scheme: str
    bytes: int
    cross_entropy: float
    delta_cross_entropy: float
    kl_original: float
    kl_truth: float
    top1_agreement: float
    by_slot: Sequence[QuantisedSlot]


class TokenReport(TypedDict):
    """One token of a sentence, and what model and truth expected in its place."""

    text: str
    slot: str
    surprisal: float
    true_surprisal: float
    kl: float
    """KL(truth‖model) of the whole distribution at this prefix."""
    model_top: Sequence[tuple[str, float]]
    true_top: Sequence[tuple[str, float]]


class SentenceReport(TypedDict):
    """A sentence, token by token."""

    language: LanguagePart
    tokens: Sequence[TokenReport]


class LabResults(TypedDict):
    """Everything that the report shows."""

    title: str
    created: str
    command: str
    versions: Mapping[str, str]
    seconds: Seconds
    peak_memory_mb: float
    source: SourceFacts
    model: ModelFacts
    training: TrainingFacts
    evaluations: Sequence[Evaluation]
    minimal_pairs: Sequence[MinimalPairAccuracy]
    quantisations: Sequence[Quantisation]
    sentences: Sequence[SentenceReport]


def headline_evaluation(results: LabResults) -> Evaluation:
    """The evaluation that the page opens with: the first one on the training language.

    Its ``name`` is the model's; evaluations of other names are baselines.  Raises
    `InvalidValueError` where no evaluation is on the training language.

    >>> evaluation = {"name": "mini-GPT", "language": "training"}
    >>> headline_evaluation({"evaluations": [evaluation]})["name"]
    'mini-GPT'
    """
    for evaluation in results["evaluations"]:
        if evaluation["language"] == "training":
            return evaluation
    found = [evaluation["language"] for evaluation in results["evaluations"]]
    raise InvalidValueError(
        f"results['evaluations'] has the languages {found}: one must be 'training'; "
        "evaluate the model on its training language first"
    )
