"""Measures of a model on a text, from one row a token.

Every measure is a mean over scored tokens with an interval that allows for the correlation of
tokens of one text (:mod:`kullback.uncertainty.intervals`).  Bytes and words are those of the source
text, whatever the tokenizer; entropies are in nats, bits only where the name says bits.

Axes: M scored tokens, in text order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError
from kullback.results.measurement import Measurement
from kullback.scoring.token_statistics import TokenStatistics
from kullback.uncertainty.calibration import Calibration, brier_scores, measure_calibration
from kullback.uncertainty.intervals import mean_with_interval, perplexity

__all__ = ["Places", "TextMeasures", "means_by", "measure_text", "position_edges", "weighted_mean"]

POSITION_BINS = 24
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


@dataclass(frozen=True)
class TextMeasures:
    """Everything that is said of a model on a text."""

    measures: dict[str, Measurement]
    """By name, in the order to show."""
    calibration: Calibration
    """Of the most probable token."""
    target_calibration: Calibration
    """Of the probability of the target token: Σ q² is what the model expects it to be."""


def measure_text(statistics: TokenStatistics, places: Places) -> TextMeasures:
    """Cross-entropy, perplexities, accuracies and calibration, each with its interval.

    ``bits_per_byte = Σ nll / (log 2 × Σ bytes)``, ``word_perplexity = exp(Σ nll / Σ words)`` and
    likewise for bytes; the Brier score is that over all tokens of the vocabulary.  Raises
    `InvalidValueError` where nothing was scored.
    """
    if not len(places):
        raise InvalidValueError(
            "no token was scored: the text has no more than one token, or the protocol scores none "
            "of it"
        )
    document_M, weight_M = places.document_M, places.weight_M
    nll_M = statistics.nll * weight_M

    def mean(values_M: np.ndarray, unit: str, per_M: np.ndarray = weight_M) -> Measurement:
        return mean_with_interval(values_M, document_M, unit, per_M)

    cross_entropy = mean(nll_M, "nats/token")
    measures = {
        "cross_entropy": cross_entropy,
        "bits_per_byte": mean(nll_M / math.log(2), "bits/byte", places.bytes_M * weight_M),
        "perplexity": perplexity(cross_entropy),
    }
    if places.bytes_M.any():
        per_byte = mean(nll_M, "nats/byte", places.bytes_M * weight_M)
        measures["byte_perplexity"] = perplexity(per_byte)
    if places.words_M.any():
        per_word = mean(nll_M, "nats/word", places.words_M * weight_M)
        measures["word_perplexity"] = perplexity(per_word)
    measures["entropy"] = mean(statistics.entropy * weight_M, "nats/token")
    for k in (1, 5, 10):
        measures[f"top{k}_accuracy"] = mean((statistics.rank <= k) * weight_M, "")
    brier_M = brier_scores(statistics.sum_of_squares, np.exp(-statistics.nll))
    measures["brier"] = mean(brier_M * weight_M, "")
    hit_M: Bool[np.ndarray, "M"] = statistics.rank == 1
    forecast_M = np.clip(statistics.top1_probability, 0.0, 1.0)
    calibration = measure_calibration(forecast_M, hit_M, document_M)
    measures["ece"] = calibration.ece
    measures["rms_calibration_error"] = calibration.rms_error
    measures["smooth_ece"] = calibration.smooth_ece
    measures["overconfidence"] = calibration.mean_gap
    expected_M = np.clip(statistics.sum_of_squares, 0.0, 1.0)
    target_calibration = measure_calibration(expected_M, np.exp(-statistics.nll), document_M)
    measures["target_ece"] = target_calibration.ece
    return TextMeasures(measures, calibration, target_calibration)


@dataclass(frozen=True, eq=False)
class MeansBy:
    """Means of a value in bins of another."""

    x_B: Float[np.ndarray, "B"]
    means: list[Measurement]


def means_by(
    values_M: Float[np.ndarray, "M"],
    by_M: Float[np.ndarray, "M"],
    edges: Float[np.ndarray, "edges"],
    places: Places,
    unit: str = "nats/token",
) -> MeansBy:
    """The weighted mean of `values_M` where `by_M` is in [edges[i], edges[i + 1]); filled bins."""
    index_M = np.clip(np.searchsorted(edges, by_M, side="right") - 1, 0, len(edges) - 2)
    x, means = [], []
    for b in range(len(edges) - 1):
        rows = np.flatnonzero(index_M == b)
        if len(rows):
            x.append(float(by_M[rows].mean()))
            means.append(weighted_mean(values_M, places, unit, rows))
    return MeansBy(np.array(x), means)


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
    last = int(position_M.max()) + 1
    edges = np.unique(np.geomspace(1, last + 1, POSITION_BINS + 1).astype(np.int64))
    return np.concatenate([[0], edges]).astype(np.float64)
