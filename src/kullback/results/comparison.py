"""The result of comparing models on the same text: `Comparison`.

KL is KL(reference‖candidate) in nats per token unless named otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kullback.errors import InvalidValueError
from kullback.results.base import Data, Result
from kullback.results.evaluation import Curve, Histogram, Passage
from kullback.results.measurement import Measurement
from kullback.results.table import Table

__all__ = [
    "BATCH_SHAPE",
    "MOVED_IS_NOT_WORSE",
    "CandidateComparison",
    "Comparison",
    "ComparisonKind",
    "DifferentBytes",
    "LayerSensitivity",
    "Operand",
    "RankedCandidate",
    "WorstToken",
]

#: Of the noise floors, that of the reference in another batch shape.
BATCH_SHAPE = "batch shape"
#: A note of every comparison that has a KL.
MOVED_IS_NOT_WORSE = (
    "KL says how far the candidate moved from the reference, not that it is worse; "
    "ΔCE says how much worse it predicts this text"
)

#: Measures that say how much worse a candidate predicts the text.
CHANGES = (
    "delta_cross_entropy", "delta_cross_entropy_per_byte", "delta_cross_entropy_per_document",
)  # fmt: skip

#: What the operands are, and so what can be said of them.
ComparisonKind = Literal["models", "recordings", "bounds", "token records", "llama.cpp", "by bytes"]


class Operand(Data, frozen=True, kw_only=True):
    """A model, a recording or a file, and what its numbers depend on."""

    name: str
    size_bytes: int | None = None
    """Of the weights; None where it is unknown."""
    fingerprint: str = ""
    """Empty where a file does not say what its numbers depend on."""
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the fingerprint is of, part by part."""


class WorstToken(Data, frozen=True, kw_only=True):
    """One of the tokens with the largest KL, in its context."""

    document: str
    byte_start: int
    before: str
    token: str
    after: str
    kl: float
    reference_nll: float
    candidate_nll: float
    reference_top: tuple[tuple[str, float], ...]
    candidate_top: tuple[tuple[str, float], ...]


class DifferentBytes(Data, frozen=True, kw_only=True):
    """A stretch between two boundaries that both tokenizers have."""

    document: str
    byte_start: int
    text: str
    reference_nll: float
    candidate_nll: float


class CandidateComparison(Data, frozen=True, kw_only=True):
    """How far one candidate is from the reference."""

    operand: Operand
    measures: dict[str, Measurement]
    """By name, in the order to show, each with its own paired interval."""
    identical: bool = False
    """Whether every KL is 0."""
    above_noise: bool | None = None
    """Whether the KL is above the noise floor; None where that was not measured."""
    kl_quantiles: dict[str, float] = msgspec.field(default_factory=dict)
    """median, 90 %, 95 %, 99 %, 99.9 %, maximum."""
    kl_histogram: Histogram | None = None
    """Over log10 KL; edges in decades."""
    kl_by_position: Curve | None = None
    kl_by_confidence: Curve | None = None
    """x: the reference's top-1 probability."""
    kl_by_token_class: dict[str, Measurement] = msgspec.field(default_factory=dict)
    worst_tokens: tuple[WorstToken, ...] = ()
    spans: tuple[DifferentBytes, ...] = ()
    """Where two models with different tokenizers differ most."""
    passages: tuple[Passage, ...] = ()

    @property
    def name(self) -> str:
        """The candidate's."""
        return self.operand.name


class RankedCandidate(Data, frozen=True, kw_only=True):
    """A candidate among several; the intervals of all of them hold at once."""

    name: str
    size_bytes: int | None
    """None where it is unknown: such a candidate is on no front."""
    share_of_original: float | None
    """Its size over the reference's."""
    kl: Measurement
    delta_cross_entropy: Measurement
    delta_perplexity: Measurement
    """exp(ΔCE) − 1: the relative change of the perplexity."""
    top1_agreement: Measurement
    on_pareto_front: bool
    """Whether no other candidate is both smaller and nearer."""
    dominated_by: str | None
    """The nearest of those that are."""
    above_noise: bool | None
    noise_ratio: float | None
    """KL over the largest noise floor that was measured."""
    within_tolerance: bool
    """Whether ΔCE is at most the tolerance."""
    fits_budget: bool | None = None
    """Whether its size is at most the budget; None without one, or where the size is unknown."""
    farther: Measurement | None = None
    """Its KL less that of the candidate before it, token by token; None for the first, and where
    one of the two is infinite."""
    group: int = 0
    """Candidates of one group, from 1 on, cannot be told apart on this text; 0 is unknown.

    One that is `undecided` begins a group, too.
    """
    undecided: bool = False
    """Whether the text has too few independent pieces to say if it is farther than the group before
    it, or tied with it."""
    tied_with_best: bool | None = False
    """Whether the text cannot tell it from the nearest, of those that fit the budget.

    None where the text has too few independent pieces to say it.
    """


class LayerSensitivity(Data, frozen=True, kw_only=True):
    """What quantising this layer (or module group) alone costs."""

    layer: str
    kl: Measurement
    bytes_saved: int


class Comparison(Result, frozen=True, kw_only=True, tag="kullback.comparison/1"):
    """Candidates against a reference on one text: `kullback compare`, `kullback.compare`."""

    title: str
    created: str
    command: str
    kind: ComparisonKind
    reference: Operand
    candidates: tuple[CandidateComparison, ...]
    """In the order in which they were named."""
    scored_tokens: int
    """Of the reference."""
    text: str = ""
    """The name of the file, and the number of documents; empty where only files were read."""
    documents: int | None = None
    """None where only files were read, which do not keep it."""
    bytes: int | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    ranked: tuple[RankedCandidate, ...] = ()
    """The nearest first."""
    tolerance: float = 0.01
    """Nats/token of ΔCE that are accepted."""
    budget: int | None = None
    """Bytes that the candidate may take; where it is given, it takes the tolerance's place."""
    choice: str | None = None
    """The smallest candidate within the tolerance that is not larger than the reference; with a
    budget, the smallest of those that cannot be told from the nearest that fits.

    None where there is none, or no size is known.
    """
    noise_floor: dict[str, Measurement] = msgspec.field(default_factory=dict)
    """KL of the reference from itself in another batch shape or type, by what was changed."""
    sensitivity: tuple[LayerSensitivity, ...] = ()
    """The costliest first."""
    sensitivity_sum: float | None = None
    """The layers' KL added up, to set beside the KL of all of them quantised together."""
    sensitivity_whole: float | None = None
    llama_cpp: str = ""
    """What llama.cpp prints of the same files."""

    @property
    def measures(self) -> dict[str, Measurement]:
        """Those of the first candidate."""
        return self.candidates[0].measures

    @property
    def ranking(self) -> Table:
        """One row a candidate, the nearest first; the intervals hold for all at once.

        Where the KL is unknown, so that there is no ranking, the ΔCE of the candidates as they were
        named.  Raises `InvalidValueError` where that is unknown, too.
        """
        if not self.ranked:
            return self._changes()
        columns: dict[str, list[object]] = {
            "candidate": [row.name for row in self.ranked],
            "size_bytes": [row.size_bytes for row in self.ranked],
            "share_of_original": [row.share_of_original for row in self.ranked],
        }
        for name in ("kl", "delta_cross_entropy", "delta_perplexity", "top1_agreement"):
            measured: list[Measurement] = [getattr(row, name) for row in self.ranked]
            columns[name] = [measurement.value for measurement in measured]
            columns[f"{name}_low"] = [measurement.interval[0] for measurement in measured]
            columns[f"{name}_high"] = [measurement.interval[1] for measurement in measured]
        decided = ("on_pareto_front", "dominated_by", "above_noise", "within_tolerance")
        for name in (*decided, "group", "undecided"):
            columns[name] = [getattr(row, name) for row in self.ranked]
        return Table(columns)

    def _changes(self) -> Table:
        """One row a candidate, with its ΔCE."""
        changes = [
            {name: row.measures[name] for name in CHANGES if name in row.measures}
            for row in self.candidates
        ]
        names = list(changes[0]) if changes else []
        if not names:
            raise InvalidValueError(
                f"there is no ranking, since this comparison ({self.kind}) measures no ΔCE: "
                "`measures` has what it measures"
            )
        columns: dict[str, list[object]] = {
            "candidate": [row.name for row in self.candidates],
            "size_bytes": [row.operand.size_bytes for row in self.candidates],
        }
        for name in names:
            columns[name] = [row[name].value for row in changes]
            columns[f"{name}_low"] = [row[name].interval[0] for row in changes]
            columns[f"{name}_high"] = [row[name].interval[1] for row in changes]
        return Table(columns)

    @property
    def worst_tokens(self) -> Table:
        """The tokens with the largest KL of each candidate, with their context."""
        pairs = [(row.name, token) for row in self.candidates for token in row.worst_tokens]
        names = WorstToken.__struct_fields__
        return Table(
            {
                "candidate": [name for name, _ in pairs],
                **{name: [getattr(token, name) for _, token in pairs] for name in names},
            }
        )
