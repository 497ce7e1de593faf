"""Measures of a model on a text, from one row a token.

Every measure is a mean over scored tokens with an interval that allows for the correlation of
tokens of one text (:mod:`kullback.uncertainty.intervals`).  Bytes and words are those of the source
text, whatever the tokenizer; entropies are in nats, bits only where the name says bits.

Axes: M scored tokens, in text order, m those of one part, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError
from kullback.results.build import HistogramSums
from kullback.results.evaluation import Histogram
from kullback.results.measurement import Measurement
from kullback.scoring.token_statistics import TokenStatistics
from kullback.uncertainty.calibration import Calibration, brier_scores, calibration
from kullback.uncertainty.documents import document_order
from kullback.uncertainty.forecasts import ForecastRows
from kullback.uncertainty.intervals import mean_with_interval, perplexity, within_unit_interval
from kullback.uncertainty.means import MeanRows, means
from kullback.uncertainty.sweeps import Computation, Task, compute, mapped, one_pass, together

__all__ = [
    "NLL_EDGES",
    "InMemory",
    "Places",
    "TextMeasures",
    "TokenParts",
    "means_by",
    "measure_text",
    "position_edges",
    "weighted_mean",
]

TOP_K = (1, 5, 10)
ACCURACIES = [f"top{k}_accuracy" for k in TOP_K]
# The means over tokens, in the order to show.
TOKEN_UNITS = {
    "cross_entropy": "nats/token",
    "entropy": "nats/token",
    **dict.fromkeys(ACCURACIES, ""),
    "brier": "",
}
POSITION_BINS = 24
# Of the means that share a pass; each takes about 40 bytes a document.
MOST_DOCUMENT_SUMS = 3 << 20
NLL_EDGES = np.concatenate([np.arange(0.0, 12.5, 0.25), [math.inf]])


@dataclass(frozen=True, eq=False)
class Places:
    """Where M scored tokens are."""

    document_M: Int[np.ndarray, "M"]
    position_M: Int[np.ndarray, "M"]
    """Tokens that the model had read when it predicted this one, BOS included."""
    bytes_M: Int[np.ndarray, "M"]
    """The token's bytes in the source text."""
    words_M: Float[np.ndarray, "M"]
    """Its share of the words of its document, or of the part of them that is scored."""
    weight_M: Float[np.ndarray, "M"]
    """How often it counts: 1, unless a preset weighs windows."""

    def __len__(self) -> int:
        return len(self.document_M)


TextPart: TypeAlias = tuple[TokenStatistics, Places]


class TokenParts(Protocol):
    """The rows of a text, one a scored token, which may be too many for the memory."""

    def __len__(self) -> int:
        """M."""

    def parts(self) -> Iterator[TextPart]:
        """The rows from the first on, in consecutive parts, in text order.

        Called once for each pass.  The tokens of a document are contiguous; a part may begin or end
        within a document.
        """


@dataclass(frozen=True, eq=False)
class InMemory:
    """Rows as one part."""

    statistics: TokenStatistics
    places: Places

    def __len__(self) -> int:
        return len(self.places)

    def parts(self) -> Iterator[TextPart]:
        """The part."""
        yield self.statistics, self.places


@dataclass(frozen=True, eq=False)
class MeansBy:
    """Means of a value in bins of another."""

    x_B: Float[np.ndarray, "B"]
    means: list[Measurement]


@dataclass(frozen=True, eq=False)
class TextMeasures:
    """Everything that is said of a model on a text."""

    measures: dict[str, Measurement]
    """By name, in the order to show."""
    calibration: Calibration
    """Of the most probable token."""
    target_calibration: Calibration
    """Of the probability of the target token: Σ q² is what the model expects it to be."""
    nll_by_position: MeansBy
    """By the position in the window."""
    nll_histogram: Histogram
    """The shares of the tokens, by weight, between `NLL_EDGES`."""


def measure_text(rows: TokenParts) -> TextMeasures:
    """Cross-entropy, perplexities, accuracies and calibration, each with its interval.

    ``bits_per_byte = Σ nll / (log 2 × Σ bytes)``, ``word_perplexity = exp(Σ nll / Σ words)`` and
    likewise for bytes; the Brier score is that over all tokens of the vocabulary.  The rows are
    read three times, a few times more where probabilities are not numbers of 32 bits or documents
    are very many; beside the largest part, memory grows with the number of documents only.

    Raises `InvalidValueError` where nothing was scored, or no byte of the text.
    """
    if not len(rows):
        raise InvalidValueError(
            "no token was scored: the text has no more than one token, or the protocol scores none "
            "of it"
        )
    return compute(_measures(), rows.parts)


def _measures() -> Computation[TextPart, TextMeasures]:
    by_token = Task(means(_by_token, list(TOKEN_UNITS.values())))
    by_byte = Task(means(_by_byte, ["bits/byte", "nats/byte"]))
    by_word = Task(means(_by_word, ["nats/word"]))
    of_top1 = Task(mapped(_top1_forecasts, calibration()))
    of_target = Task(mapped(_target_forecasts, calibration()))
    curve = Task(_nll_by_position())
    histogram = _NllHistogram()
    yield from together(
        by_token, by_byte, by_word, of_top1, of_target, curve, Task(one_pass(histogram))
    )
    if not by_byte.result:
        raise InvalidValueError("the scored tokens contain no byte of the text")
    per_token = dict(zip(TOKEN_UNITS, by_token.result, strict=True))
    bits_per_byte, nats_per_byte = by_byte.result
    measures = {
        "cross_entropy": per_token["cross_entropy"],
        "bits_per_byte": bits_per_byte,
        "perplexity": perplexity(per_token["cross_entropy"]),
        "byte_perplexity": perplexity(nats_per_byte),
    }
    for nats_per_word in by_word.result:  # none in a text without words
        measures["word_perplexity"] = perplexity(nats_per_word)
    measures |= {name: per_token[name] for name in TOKEN_UNITS if name != "cross_entropy"}
    measures |= {name: within_unit_interval(measures[name]) for name in ACCURACIES}
    measures["ece"] = of_top1.result.ece
    measures["rms_calibration_error"] = of_top1.result.rms_error
    measures["smooth_ece"] = of_top1.result.smooth_ece
    measures["overconfidence"] = of_top1.result.mean_gap
    measures["target_ece"] = of_target.result.ece
    return TextMeasures(
        measures, of_top1.result, of_target.result, curve.result, histogram.sums.histogram()
    )


def _by_token(part: TextPart) -> MeanRows:
    statistics, places = part
    weight_m = places.weight_M

    def values() -> Iterator[Float[np.ndarray, "m"]]:
        """In the order of `TOKEN_UNITS`."""
        yield statistics.nll * weight_m
        yield statistics.entropy * weight_m
        for k in TOP_K:
            yield (statistics.rank <= k) * weight_m
        yield brier_scores(statistics.sum_of_squares, np.exp(-statistics.nll)) * weight_m

    return MeanRows(places.document_M, weight_m, values())


def _by_byte(part: TextPart) -> MeanRows:
    statistics, places = part
    nll_m = statistics.nll * places.weight_M
    bytes_m = places.bytes_M * places.weight_M
    return MeanRows(places.document_M, bytes_m, [nll_m / math.log(2), nll_m])


def _by_word(part: TextPart) -> MeanRows:
    statistics, places = part
    nll_m = statistics.nll * places.weight_M
    return MeanRows(places.document_M, places.words_M * places.weight_M, [nll_m])


def _top1_forecasts(part: TextPart) -> ForecastRows:
    statistics, places = part
    forecast_m = np.clip(statistics.top1_probability, 0.0, 1.0)
    return ForecastRows(places.document_M, forecast_m, statistics.rank == 1)


def _target_forecasts(part: TextPart) -> ForecastRows:
    statistics, places = part
    forecast_m = np.clip(statistics.sum_of_squares, 0.0, 1.0)
    return ForecastRows(places.document_M, forecast_m, np.exp(-statistics.nll))


class _NllHistogram:
    """The histogram of the nll."""

    def __init__(self) -> None:
        self.sums = HistogramSums(NLL_EDGES)

    def add(self, part: TextPart, /) -> None:
        statistics, places = part
        self.sums.add(statistics.nll, places.weight_M)


class _Extent:
    """The largest position in a window, and the documents: at least as many as there are."""

    def __init__(self) -> None:
        self.position, self.documents = 0, 0

    def add(self, part: TextPart, /) -> None:
        _, places = part
        if len(places):
            self.position = max(self.position, int(places.position_M.max()))
            document_m = places.document_M
            self.documents += 1 + int(np.count_nonzero(document_m[1:] != document_m[:-1]))


def _nll_by_position() -> Computation[TextPart, MeansBy]:
    """The curve of the nll by position: three passes, or more for very many documents."""
    extent = _Extent()
    yield extent
    edges = _edges_to(extent.position)
    at_once = max(1, MOST_DOCUMENT_SUMS // extent.documents)

    def binned(part: TextPart) -> _Binned:
        statistics, places = part
        position_m = places.position_M.astype(np.float64)
        return _Binned.of(places.document_M, places.weight_M, statistics.nll, position_m, edges)

    curve = yield from mapped(binned, _means_by(len(edges) - 1, "nats/token", at_once))
    return curve


def means_by(
    values_M: Float[np.ndarray, "M"],
    by_M: Float[np.ndarray, "M"],
    edges: Float[np.ndarray, "edges"],
    places: Places,
    unit: str = "nats/token",
) -> MeansBy:
    """The weighted mean of `values_M` where `by_M` is in [edges[i], edges[i + 1]); filled bins."""
    columns = (places.document_M, places.weight_M, values_M, by_M)
    order_M = document_order(places.document_M)
    if order_M is not None:
        columns = tuple(column_M[order_M] for column_M in columns)
    rows = _Binned.of(*columns, edges)
    return compute(_means_by(len(edges) - 1, unit, len(edges)), lambda: [rows])


class _Binned(NamedTuple):
    """A part of the rows, each in a bin."""

    document_m: Int[np.ndarray, "m"]
    weight_m: Float[np.ndarray, "m"]
    values_m: Float[np.ndarray, "m"]
    by_m: Float[np.ndarray, "m"]
    index_m: Int[np.ndarray, "m"]

    @classmethod
    def of(
        cls,
        document_m: Int[np.ndarray, "m"],
        weight_m: Float[np.ndarray, "m"],
        values_m: Float[np.ndarray, "m"],
        by_m: Float[np.ndarray, "m"],
        edges: Float[np.ndarray, "edges"],
    ) -> _Binned:
        """Rows with the bins [edges[i], edges[i + 1])."""
        index_m = np.clip(np.searchsorted(edges, by_m, side="right") - 1, 0, len(edges) - 2)
        return cls(document_m, weight_m, values_m, by_m, index_m.astype(np.int16))

    def bin(self, b: int) -> MeanRows:
        """The rows of one bin, each counted as often as the protocol counts it."""
        rows = np.flatnonzero(self.index_m == b)
        weight_m = self.weight_m[rows]
        return MeanRows(self.document_m[rows], weight_m, [self.values_m[rows] * weight_m])


class _BinCentres:
    """For each bin the sum of the quantity that is binned, and the number of rows."""

    def __init__(self, bins: int) -> None:
        self.sums_B, self.rows_B = np.zeros((2, bins))

    def add(self, rows: _Binned, /) -> None:
        for b in range(len(self.sums_B)):
            by_m = rows.by_m[rows.index_m == b]
            self.sums_B[b] += by_m.sum()
            self.rows_B[b] += len(by_m)


def _means_by(bins: int, unit: str, at_once: int) -> Computation[_Binned, MeansBy]:
    """The mean of the values in each bin, and of the quantity that is binned.

    Two passes for every `at_once` bins.
    """
    centres = _BinCentres(bins)
    waiting: list[Task[_Binned, None]] = [Task(one_pass(centres))]
    measured: list[Measurement] = []
    for first in range(0, bins, at_once):
        tasks = [
            Task(means(partial(_Binned.bin, b=b), [unit]))
            for b in range(first, min(first + at_once, bins))
        ]
        yield from together(*waiting, *tasks)
        waiting = []
        measured += [mean for task in tasks for mean in task.result]
    filled = np.flatnonzero(centres.rows_B)
    return MeansBy(centres.sums_B[filled] / centres.rows_B[filled], measured)


def weighted_mean(
    values_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    places: Places,
    unit: str = "nats/token",
    rows: Int[np.ndarray, "m"] | None = None,
) -> Measurement:
    """The mean of some rows (all by default), each counted as often as the protocol counts it."""
    document_M, weight_M = places.document_M, places.weight_M
    if rows is not None:
        values_M, document_M, weight_M = values_M[rows], document_M[rows], weight_M[rows]
    return mean_with_interval(values_M * weight_M, document_M, unit, weight_M)


def position_edges(position_M: Int[np.ndarray, "M"]) -> Float[np.ndarray, "edges"]:
    """Bin edges over positions in the window, even in the logarithm: early ones differ most."""
    return _edges_to(int(position_M.max()))


def _edges_to(position: int) -> Float[np.ndarray, "edges"]:
    edges = np.unique(np.geomspace(1, position + 2, POSITION_BINS + 1).astype(np.int64))
    return np.concatenate([[0], edges]).astype(np.float64)
