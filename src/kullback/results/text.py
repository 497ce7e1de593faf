"""What do an evaluation on text and a comparison hand to their reports?

Plain data, written with ``json.dumps`` as they are: the document that ``--json`` prints is the one
that the page is made of.  Entropies and KL are in nats per token unless the unit says otherwise;
accuracies and probabilities are fractions; infinity is ∞ and, in JSON, null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

__all__ = [
    "ComparisonResults",
    "Curve",
    "DifferentBytes",
    "Histogram",
    "LayerSensitivity",
    "MeasurementData",
    "Passage",
    "ReliabilityData",
    "SchemeResult",
    "StoredResults",
    "TextResults",
    "TextToken",
    "WorstToken",
]


class MeasurementData(TypedDict):
    """A number with its interval; `interval` is None where there are too few independent pieces."""

    value: float | None
    unit: str
    interval: tuple[float, float] | None
    n: int
    effective_n: float | None
    design_effect: float | None
    method: str


class Curve(TypedDict):
    """Means by place: `low` and `high` are the 95 % interval at each place where known."""

    x: Sequence[float]
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    count: Sequence[int]


class Histogram(TypedDict):
    """`share[i]` of the tokens lie in [edges[i], edges[i + 1])."""

    edges: Sequence[float]
    share: Sequence[float]


class ReliabilityData(TypedDict):
    """The predictions whose confidence is in (low, high], or [low, high] where low is 0."""

    low: float
    high: float
    confidence: float
    accuracy: float
    weight: float


class TextToken(TypedDict):
    """A token as it stands in the text; `text` may be part of a character's bytes, shown as ▒."""

    text: str
    nll: float | None
    """None where it was not scored."""
    rank: NotRequired[int]
    top: NotRequired[Sequence[tuple[str, float]]]
    """The model's most probable tokens and their probabilities."""
    kl: NotRequired[float]
    candidate_nll: NotRequired[float]
    candidate_top: NotRequired[Sequence[tuple[str, float]]]


class Passage(TypedDict):
    """Consecutive tokens of one document."""

    document: str
    byte_start: int
    tokens: Sequence[TextToken]


class TextResults(TypedDict):
    """`kullback evaluate MODEL --text`."""

    title: str
    created: str
    command: str
    model: str
    fingerprint: str
    protocol: Mapping[str, object]
    """Everything that the numbers depend on, part by part."""
    notes: Sequence[str]
    documents: int
    tokens: int
    scored_tokens: int
    bytes: int
    words: int
    seconds: float
    tokens_per_second: float
    measures: Mapping[str, MeasurementData]
    """By name, in the order to show: cross_entropy, bits_per_byte, perplexity, word_perplexity,
    entropy, top1_accuracy, top5_accuracy, top10_accuracy, brier, ece, target_ece ..."""
    nll_by_position: Curve
    nll_histogram: Histogram
    reliability: Sequence[ReliabilityData]
    """Of the first guess: its probability, and how often it is right."""
    target_reliability: Sequence[ReliabilityData]
    """Of the token that comes: the probability that the model expects it to have, Σ q², and has."""
    passages: Sequence[Passage]


class WorstToken(TypedDict):
    """One of the tokens with the largest KL, in its context."""

    document: str
    byte_start: int
    before: str
    token: str
    after: str
    kl: float
    reference_nll: float
    candidate_nll: float
    reference_top: Sequence[tuple[str, float]]
    candidate_top: Sequence[tuple[str, float]]


class SchemeResult(TypedDict):
    """One candidate of several, as for `--schemes`."""

    name: str
    bytes: int | None
    """None for a recording that does not say it: such a candidate is on no front."""
    kl: MeasurementData
    delta_cross_entropy: MeasurementData
    top1_agreement: MeasurementData
    on_pareto_front: bool
    above_noise: bool | None
    """Whether the KL, with this interval, rises above the noise floor; None if not measured."""


class LayerSensitivity(TypedDict):
    """What quantising this layer (or module group) alone costs."""

    layer: str
    kl: MeasurementData
    bytes_saved: int


class ComparisonResults(TypedDict):
    """`kullback compare REFERENCE CANDIDATE --text`."""

    title: str
    created: str
    command: str
    reference: str
    candidate: str
    fingerprint: str
    protocol: Mapping[str, object]
    notes: Sequence[str]
    documents: int
    scored_tokens: int
    bytes: int
    seconds: float
    measures: Mapping[str, MeasurementData]
    """kl, reverse_kl, jensen_shannon, delta_cross_entropy, delta_p_mean, delta_p_rms,
    top1_agreement, top5_agreement ..."""
    noise_floor: Mapping[str, MeasurementData]
    """What the reference differs from itself by, in another batch shape or dtype; may be empty."""
    above_noise: bool | None
    kl_quantiles: Mapping[str, float]
    """median, 90 %, 95 %, 99 %, 99.9 %, maximum."""
    kl_histogram: Histogram
    """Over log10 KL; edges in decades."""
    kl_by_position: Curve
    kl_by_confidence: Curve
    """x: the reference's top-1 probability (the bin's middle)."""
    kl_by_token_class: Mapping[str, MeasurementData]
    worst: Sequence[WorstToken]
    passages: Sequence[Passage]
    schemes: Sequence[SchemeResult]
    sensitivity: Sequence[LayerSensitivity]
    sensitivity_sum: float | None
    """The layers' KL added up, to set beside the KL of all of them quantised together."""
    sensitivity_whole: float | None


class DifferentBytes(TypedDict):
    """A stretch between two boundaries that both tokenizers have."""

    document: str
    byte_start: int
    text: str
    reference_nll: float
    candidate_nll: float


class StoredResults(TypedDict):
    """A comparison from recordings, token statistics, logits files, or by bytes."""

    title: str
    created: str
    command: str
    reference: str
    candidate: str
    fingerprint: str
    """Of the reference's numbers; empty where the file does not say what they depend on."""
    protocol: Mapping[str, object]
    """The reference's, part by part; empty where there is no fingerprint."""
    candidate_fingerprint: str
    candidate_protocol: Mapping[str, object]
    notes: Sequence[str]
    scored_tokens: int
    """Of the reference."""
    measures: Mapping[str, MeasurementData]
    kl_quantiles: Mapping[str, float]
    spans: Sequence[DifferentBytes]
    """Where two models with different tokenizers differ most."""
    llama_cpp: NotRequired[str]
    """What llama.cpp prints of the same files."""
