"""Calibration: of the words that the model gives 70 %, are 70 % right?

A forecast f is what the model expects, an outcome y what came; a calibrated model has E[y|f] = f.
Three pairs of per-token statistics can be asked:

========================  =========================  ==========================================
forecast                  outcome                    question
========================  =========================  ==========================================
probability of its top-1  top-1 was right (0 or 1)   is it as often right as it says?
Σ q² over the words       q of the target            does it give words what they turn out to have?
entropy, nats             nll, nats                  is it as surprised as it expects? (`mean gap`)
========================  =========================  ==========================================

The expected calibration error is the mean of |E[y|f] − f| over bins of f (Guo et al. 2017, eq. 3).
It is never 0, not even for a calibrated model, since noise has no sign once it is made absolute; so
each measure here comes with what it would be by chance, an interval, or its bias taken off.

On a source the accuracy is not counted but known: p(most probable word | prefix).

Axes: M tokens in text order, B bins or cells of the forecast, C independent contributions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError
from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.calibration_noise import BinNoise, bin_noise, checked_residuals
from kullback.uncertainty.clusters import Documents
from kullback.uncertainty.intervals import mean_with_interval
from kullback.uncertainty.smooth_calibration import measure_smooth_calibration

__all__ = [
    "Calibration",
    "ReliabilityBin",
    "brier_scores",
    "expected_calibration_error",
    "measure_calibration",
    "reliability",
]

BINS = 15  # the number that Guo et al. 2017 and most after them use


class ReliabilityBin(NamedTuple):
    """The predictions whose confidence lies in (low, high]."""

    low: float
    high: float
    confidence: float
    accuracy: float
    weight: float
    """Their share of all predictions."""


def reliability(
    confidence_M: Float[np.ndarray, "M"],
    accuracy_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    weight_M: Float[np.ndarray, "M"],
    bins: int = BINS,
    edges: Literal["equal width", "equal mass"] = "equal width",
) -> list[ReliabilityBin]:
    """The non-empty ones of `bins` bins; means are weighted by `weight_M`.

    Bins of equal mass hold equally many predictions; equal confidences share a bin, so there may be
    fewer of them.

    >>> reliability(np.array([0.9, 0.7]), np.array([1.0, 0.0]), np.ones(2), bins=2)
    [ReliabilityBin(low=0.5, high=1.0, confidence=0.8, accuracy=0.5, weight=1.0)]
    """
    edge = _edges(confidence_M, bins, edges)
    bins = len(edge) - 1
    index = _bin_of(confidence_M, edge)
    weight = np.bincount(index, weight_M, bins)
    confidence = np.bincount(index, weight_M * confidence_M, bins)
    accuracy = np.bincount(index, weight_M * accuracy_M, bins)
    total = weight.sum()
    return [
        ReliabilityBin(
            float(edge[i]),
            float(edge[i + 1]),
            float(confidence[i] / weight[i]),
            float(accuracy[i] / weight[i]),
            float(weight[i] / total),
        )
        for i in range(bins)
        if weight[i] > 0
    ]


def expected_calibration_error(diagram: list[ReliabilityBin]) -> float:
    """Σ weight × |confidence - accuracy|, in [0, 1]."""
    return sum(bin.weight * abs(bin.confidence - bin.accuracy) for bin in diagram)


def brier_scores(
    sum_of_squares_M: Float[np.ndarray, "M"], target_probability_M: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """The Brier score of each token, in [0, 2].

    ``Σ_w (q_w − [w = target])² = Σ_w q_w² − 2 q_target + 1`` (Brier 1950, Monthly Weather Review
    78:1, eq. 2).

    >>> brier_scores(np.array([0.5]), np.array([0.5]))
    array([0.5])
    """
    scores: Float[np.ndarray, "M"] = sum_of_squares_M - 2 * target_probability_M + 1
    return scores


@dataclass(frozen=True)
class Calibration:
    """How far forecasts are from what came."""

    diagram: list[ReliabilityBin]
    """Bins of equal mass."""
    gaps: list[Measurement]
    """Outcome − forecast of each bin."""
    mean_gap: Measurement
    """Forecast − outcome over all tokens: above 0 the model is overconfident."""
    ece: Measurement
    """Over bins of equal mass."""
    ece_by_chance: float
    """The mean ECE that a calibrated model would have on such a text."""
    squared_error: Measurement
    """The debiased mean square of the bins' gaps: 0 on average for a calibrated model."""
    rms_error: Measurement
    """The root of it, 0 where that is negative."""
    smooth_ece: Measurement


def measure_calibration(
    forecast_M: Float[np.ndarray, "M"],
    outcome_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    document_M: Int[np.ndarray, "M"] | None,
    bins: int = BINS,
    seed: int = 0,
) -> Calibration:
    """All calibration measures of forecasts in [0, 1], their intervals clustered as those of means.

    With s the mean residual y − f in each bin (over all tokens), S its covariance, from documents
    or the lowest frequencies of a long text (`kullback.uncertainty.calibration_noise`), w the bins'
    weights:

    * ``ECE = Σ |s|``.  Its interval uses ``| |s| − |µ| | ≤ |s − µ|``: below lies the 97.5 %
      quantile of Σ|noise|, so that it reaches 0 unless the ECE is larger than chance allows; above,
      ``t √Σ|S|``.  It covers at least as often as it says.
    * the squared error ``Σ (s² − diag S) / w``: the debiased estimator of Kumar, Liang and Ma 2019,
      "Verified uncertainty calibration", with the clustered variance where they have that of
      independent tokens.
    * the smooth ECE of Błasiok and Nakkiran 2023 (`smooth_calibration_error`).

    Raises `InvalidValueError` for forecasts outside [0, 1], NaN, and unequal lengths.

    >>> rng = np.random.default_rng(0)
    >>> f = rng.random(20_000)
    >>> found = measure_calibration(f, rng.random(20_000) < f, np.arange(20_000) // 100)
    >>> found.ece.interval[0], found.squared_error.value < 1e-4
    (0.0, True)
    """
    forecast_M, residual_M = checked_residuals(forecast_M, outcome_M)
    documents = Documents.of(
        None if document_M is None else np.asarray(document_M), len(forecast_M)
    )
    edge = _edges(forecast_M, bins, "equal mass")
    index_M = _bin_of(forecast_M, edge)
    # Bins that the ties of the forecast left empty are dropped here as in the diagram.
    index_M = np.unique(index_M, return_inverse=True)[1]
    weight_B = np.bincount(index_M) / len(index_M)
    noise = bin_noise(index_M, residual_M, len(weight_B), documents)
    s_B = np.bincount(index_M, residual_M) / len(index_M)
    by_chance_D = np.abs(noise.draws(seed)).sum(axis=1)
    ece = _norm(s_B, noise, by_chance_D)
    squared = _squared_error(s_B, weight_B, noise, seed)
    return Calibration(
        diagram=reliability(
            forecast_M, forecast_M + residual_M, np.ones(len(forecast_M)), bins, "equal mass"
        ),
        gaps=noise.gaps,
        mean_gap=mean_with_interval(-residual_M, document_M, ""),
        ece=ece,
        ece_by_chance=float(by_chance_D.mean()),
        squared_error=squared,
        rms_error=_root(squared),
        smooth_ece=measure_smooth_calibration(forecast_M, outcome_M, document_M, seed),
    )


def _norm(
    s_B: Float[np.ndarray, "B"], noise: BinNoise, size_D: Float[np.ndarray, "D"]
) -> Measurement:
    """Σ|s| with its interval."""
    value = float(np.abs(s_B).sum())
    error = math.sqrt(float(np.abs(noise.covariance).sum()))
    low = max(0.0, value - float(np.quantile(size_D, (1 + LEVEL) / 2)))
    high = value + noise.critical_value * error
    return noise.measurement(value, error, low, high)


def _squared_error(
    s_B: Float[np.ndarray, "B"], weight_B: Float[np.ndarray, "B"], noise: BinNoise, seed: int
) -> Measurement:
    """Σ (s² − diag S) / w; its variance is 4 µᵀ W S W µ + 2 tr (W S)², estimated without bias.

    Its distribution is skewed, so the interval comes from the norm √(Σ s² / w), as for the ECE.
    """
    covariance_BB = noise.covariance
    value = float(((s_B**2 - np.diag(covariance_BB)) / weight_B).sum())
    scaled_B = s_B / weight_B
    product_BB = covariance_BB / weight_B[:, None]
    square = float((product_BB * product_BB.T).sum())
    variance = max(4 * float(scaled_B @ covariance_BB @ scaled_B) - 2 * square, 2 * square)
    norm = math.sqrt(float((s_B**2 / weight_B).sum()))
    noise_D = np.sqrt((noise.draws(seed) ** 2 / weight_B).sum(axis=1))
    root_B = np.sqrt(weight_B)
    largest = float(np.linalg.eigvalsh(covariance_BB / np.outer(root_B, root_B))[-1])
    low = max(0.0, norm - float(np.quantile(noise_D, (1 + LEVEL) / 2)))
    high = norm + noise.critical_value * math.sqrt(largest)
    return noise.measurement(value, math.sqrt(variance), min(value, low**2), high**2)


def _root(squared: Measurement) -> Measurement:
    low, value, high = (
        math.sqrt(max(0.0, x)) for x in (squared.interval[0], squared.value, squared.interval[1])
    )
    error = squared.standard_error / (2 * value) if value else math.inf
    return Measurement(
        value,
        "",
        error if value else (high - value) / 2,
        squared.n,
        squared.clusters,
        squared.method,
        squared.degrees_of_freedom,
        bounds=(low, high),
        note=squared.note,
    )


def _edges(forecast_M: Float[np.ndarray, "M"], bins: int, edges: str) -> Float[np.ndarray, "edges"]:
    if bins < 1:
        raise InvalidValueError(f"bins is {bins}: give at least one")
    if edges == "equal width":
        return np.arange(bins + 1) / bins
    inner = np.quantile(forecast_M, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _bin_of(
    forecast_M: Float[np.ndarray, "M"], edge: Float[np.ndarray, "edges"]
) -> Int[np.ndarray, "M"]:
    """The number of the bin (edge[i], edge[i + 1]] of each forecast; 0 belongs to the first."""
    return np.maximum(np.searchsorted(edge, forecast_M, side="left") - 1, 0)
