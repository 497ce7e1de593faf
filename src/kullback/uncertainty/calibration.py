"""Calibration measures of forecasts, with intervals.

A forecast f is what the model expects, an outcome y what is observed; a calibrated model has
E[y|f] = f.  Three pairs of per-token statistics can be compared:

========================  =====================  =================================================
forecast                  outcome                calibrated if
========================  =====================  =================================================
probability of its top-1  top-1 was right (0/1)  of the tokens predicted with 70 %, 70 % are right
Σ q² over the vocabulary  q of the target        targets have the probability that q expects
entropy, nats             nll, nats              it is as surprised as it expects (`mean_gap`)
========================  =====================  =================================================

The expected calibration error is the mean of |E[y|f] − f| over bins of f (Guo et al. 2017, eq. 3).
It is above 0 even for a calibrated model, since the absolute value of noise is positive; so each
measure here comes with its mean by chance, with an interval, or with its bias subtracted.

On a source the accuracy is not counted but known: p(most probable token | prefix).

Axes: M tokens in text order, m those of one part, P pieces of documents, B bins or cells of the
forecast, C independent contributions, D draws of the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.bin_sums import BinnedResiduals, bin_sums
from kullback.uncertainty.calibration_noise import BinNoise, InPieces, NoisePieces
from kullback.uncertainty.documents import documents_of
from kullback.uncertainty.forecasts import (
    ForecastRows,
    ResidualRows,
    checked,
    document_rows,
    forecast_rows,
)
from kullback.uncertainty.means import MeanRows, means
from kullback.uncertainty.reliability import (
    BINS,
    DiagramSums,
    ReliabilityBin,
    bin_numbers,
    edges_of_equal_mass,
)
from kullback.uncertainty.smooth_calibration import SmoothSums
from kullback.uncertainty.sweeps import Computation, Task, compute, together

__all__ = ["Calibration", "brier_scores", "calibration", "measure_calibration"]


def brier_scores(
    sum_of_squares_M: Float[np.ndarray, "M"], target_probability_M: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """The Brier score of each token, in [0, 2].

    ``Σ_v (q_v − [v = target])² = Σ_v q_v² − 2 q_target + 1`` (Brier 1950, Monthly Weather Review
    78:1, eq. 2).

    >>> brier_scores(np.array([0.5]), np.array([0.5]))
    array([0.5])
    """
    scores: Float[np.ndarray, "M"] = sum_of_squares_M - 2 * target_probability_M + 1
    return scores


@dataclass(frozen=True)
class Calibration:
    """Calibration measures of one pair of forecasts and outcomes."""

    diagram: list[ReliabilityBin]
    """Bins of equal mass."""
    mean_gap: Measurement
    """Forecast − outcome over all tokens: above 0 the model is overconfident."""
    ece: Measurement
    """Over bins of equal mass."""
    ece_by_chance: float
    """The mean ECE that a calibrated model would have on such a text."""
    squared_error: Measurement
    """The debiased mean square of the bins' gaps: 0 on average for a calibrated model."""
    rms_error: Measurement
    """The root of `squared_error`, 0 where that is negative."""
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

    * ``ECE = Σ |s|``.  Its interval uses ``| |s| − |µ| | ≤ |s − µ|``: it extends downwards by the
      97.5 % quantile of Σ|noise|, so that it reaches 0 unless the ECE is larger than chance allows,
      and upwards by ``t √Σ|S|``.  Its coverage is at least its level.
    * the squared error ``Σ (s² − diag S) / w``: the debiased estimator of Kumar, Liang and Ma 2019,
      "Verified uncertainty calibration", with the clustered variance instead of that of
      independent tokens.
    * the smooth ECE of Błasiok and Nakkiran 2023 (`smooth_calibration_error`).

    Raises `InvalidValueError` for forecasts outside [0, 1], NaN, and unequal lengths.

    >>> rng = np.random.default_rng(0)
    >>> f = rng.random(20_000)
    >>> calibration = measure_calibration(f, rng.random(20_000) < f, np.arange(20_000) // 100)
    >>> calibration.ece.interval[0], calibration.squared_error.value < 1e-4
    (0.0, True)
    """
    rows = forecast_rows(forecast_M, outcome_M, document_M)
    return compute(calibration(bins, seed), lambda: [rows])


def calibration(bins: int = BINS, seed: int = 0) -> Computation[ForecastRows, Calibration]:
    """`measure_calibration` of rows that come in parts, with the same errors.

    Takes three passes; one more where forecasts are not numbers of 32 bits, and one where documents
    are very many.
    """
    return checked(_calibration(bins, seed))


def _calibration(bins: int, seed: int) -> Computation[ResidualRows, Calibration]:
    documents = Task(documents_of(document_rows))
    edge = Task(edges_of_equal_mass(_forecasts, bins))
    mean_gap = Task(means(_overconfidence, [""]))
    yield from together(documents, edge, mean_gap)
    pieces = NoisePieces(documents.result)
    binned, smooth = _BinnedSums(pieces, edge.result), SmoothSums(pieces)
    yield InPieces(pieces, [binned.add, smooth.add])
    if binned.residuals.again() and smooth.residuals.again():
        yield InPieces(pieces, [binned.add_residuals, smooth.add_residuals])
    # Empty bins, from equal forecasts, are left out as in the diagram.
    kept_b = np.flatnonzero(binned.count_B)
    weight_B = binned.count_B[kept_b] / pieces.tokens
    noise = binned.residuals.noise(kept_b)
    s_B = binned.residuals.residual_B[kept_b] / pieces.tokens
    by_chance_D = np.abs(noise.draws(seed)).sum(axis=1)
    squared = _squared_error(s_B, weight_B, noise, seed)
    return Calibration(
        diagram=binned.diagram.diagram(),
        mean_gap=mean_gap.result[0],
        ece=_norm(s_B, noise, by_chance_D),
        ece_by_chance=float(by_chance_D.mean()),
        squared_error=squared,
        rms_error=_root(squared),
        smooth_ece=smooth.measurement(seed),
    )


def _forecasts(rows: ResidualRows) -> Float[np.ndarray, "m"]:
    return rows.forecast_m


def _overconfidence(rows: ResidualRows) -> MeanRows:
    return MeanRows(rows.document_m, np.ones(len(rows.residual_m)), [-rows.residual_m])


class _BinnedSums:
    """What the bins of equal mass need of the residuals of a text, in parts."""

    def __init__(self, pieces: NoisePieces, edge: Float[np.ndarray, "edges"]) -> None:
        bins = len(edge) - 1
        self.diagram = DiagramSums(edge)
        self.residuals = bin_sums(pieces, bins)
        self.count_B = np.zeros(bins, np.int64)

    def add(self, piece_m: Int[np.ndarray, "m"], rows: ResidualRows) -> None:
        """The next tokens, and their pieces."""
        index_m = bin_numbers(rows.forecast_m, self.diagram.edge)
        outcome_m = rows.forecast_m + rows.residual_m
        self.diagram.add(index_m, rows.forecast_m, outcome_m, np.ones(len(index_m)))
        self.residuals.add(BinnedResiduals(piece_m, index_m, rows.residual_m))
        self.count_B += np.bincount(index_m, minlength=len(self.count_B))

    def add_residuals(self, piece_m: Int[np.ndarray, "m"], rows: ResidualRows) -> None:
        """The same tokens for the second time."""
        index_m = bin_numbers(rows.forecast_m, self.diagram.edge)
        self.residuals.add(BinnedResiduals(piece_m, index_m, rows.residual_m))


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

    Its distribution is skewed, so the interval is that of the norm √(Σ s² / w), as for the ECE.
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
    """√squared, with the roots of the interval."""
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
