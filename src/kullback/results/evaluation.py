"""The result of one model on a text: `Evaluation`, and the parts that a comparison shares with it.

Entropies are in nats per token unless the unit says otherwise; accuracies and probabilities are
fractions.
"""

from __future__ import annotations

from typing import Any, ClassVar

from kullback.errors import InvalidValueError
from kullback.results.base import Data, Result
from kullback.results.measurement import Measurement
from kullback.results.table import Table

__all__ = [
    "Curve",
    "Evaluation",
    "Histogram",
    "NonZeroRank",
    "Passage",
    "ReliabilityBin",
    "TextToken",
]


class Curve(Data, frozen=True):
    """Means in bins of `x`, with the 95 % interval of each where it is known."""

    x: tuple[float, ...]
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    count: tuple[int, ...]


class Histogram(Data, frozen=True):
    """`share[i]` of the tokens are in [edges[i], edges[i + 1]); the last bin holds its end, too."""

    edges: tuple[float, ...]
    share: tuple[float, ...]


class ReliabilityBin(Data, frozen=True):
    """A bin of a reliability diagram: the forecasts in (low, high]."""

    low: float
    high: float
    confidence: float
    accuracy: float
    weight: float
    """The share of all forecasts."""


class TextToken(Data, frozen=True, kw_only=True, omit_defaults=True):
    """A token in its text; bytes that are only a part of a character are shown as ▒."""

    text: str
    nll: float | None
    """Nats; None where it was not scored."""
    rank: int | None = None
    top: tuple[tuple[str, float], ...] = ()
    """The most probable tokens and their probabilities."""
    kl: float | None = None
    """In a comparison: KL(reference‖candidate) at this token."""
    candidate_nll: float | None = None
    candidate_top: tuple[tuple[str, float], ...] = ()


class Passage(Data, frozen=True):
    """Consecutive tokens of one document."""

    document: str
    byte_start: int
    tokens: tuple[TextToken, ...]


class Evaluation(Result, frozen=True, kw_only=True, tag="kullback.evaluation/1"):
    """What one model makes of a text: `kullback evaluate MODEL --text`, `kullback.evaluate`.

    ``float(result.perplexity)`` is a number, ``result.perplexity.interval`` its 95 % interval.
    """

    unwritten: ClassVar[tuple[str, ...]] = ("token_table",)

    title: str
    created: str
    command: str
    model: str
    text: str
    """The name of the file, and the number of documents."""
    fingerprint: str
    protocol: dict[str, Any]
    """Everything that the numbers depend on, part by part."""
    notes: tuple[str, ...]
    documents: int
    total_tokens: int
    scored_tokens: int
    bytes: int
    words: int
    seconds: float
    tokens_per_second: float
    measures: dict[str, Measurement]
    """By name, in the order to show."""
    nll_by_position: Curve
    nll_histogram: Histogram
    reliability: tuple[ReliabilityBin, ...]
    """Of the most probable token: its probability, and how often it is the target."""
    target_reliability: tuple[ReliabilityBin, ...]
    """Of the target token: the probability that the model expects it to have, Σ q², and has."""
    passages: tuple[Passage, ...] = ()
    """The beginning of the text, token by token, where a report was asked for."""
    token_table: Table | None = None
    """Behind `tokens`; not written to JSON."""

    @property
    def cross_entropy(self) -> Measurement:
        """The mean nll, nats/token."""
        return self.measures["cross_entropy"]

    @property
    def bits_per_byte(self) -> Measurement:
        """Σ nll / (log 2 × bytes of the source text)."""
        return self.measures["bits_per_byte"]

    @property
    def perplexity(self) -> Measurement:
        """exp(cross-entropy)."""
        return self.measures["perplexity"]

    @property
    def entropy(self) -> Measurement:
        """The mean entropy of the model's own distributions, nats/token."""
        return self.measures["entropy"]

    @property
    def top1_accuracy(self) -> Measurement:
        """The share of tokens that the model finds most probable."""
        return self.measures["top1_accuracy"]

    @property
    def top5_accuracy(self) -> Measurement:
        """The share of tokens that are among the five most probable."""
        return self.measures["top5_accuracy"]

    @property
    def expected_calibration_error(self) -> Measurement:
        """ECE of the most probable token, in bins of equal mass."""
        return self.measures["ece"]

    @property
    def tokens(self) -> Table:
        """One row a scored token: document, bytes, id, text, nll, entropy, rank, top-1.

        Raises `InvalidValueError` where the result was read from JSON, which does not contain them.
        """
        if self.token_table is None:
            raise InvalidValueError(
                "this evaluation has no rows of tokens, since JSON does not contain them: evaluate "
                "with records=FILE.parquet (--records), and read that file with pandas or polars"
            )
        return self.token_table


class NonZeroRank(Result, frozen=True, kw_only=True, tag="kullback.rank/1"):
    """What a process of `torchrun` other than the first gets: the measures are in rank 0."""

    rank: int
    world_size: int

    def __getattr__(self, name: str) -> object:
        raise AttributeError(
            f"rank {self.rank} of {self.world_size} has no {name!r}: rank 0 collects the results"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: rank {self.rank} of {self.world_size}>"

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}: the results are in rank 0"

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>"
