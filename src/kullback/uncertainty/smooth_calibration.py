"""The smooth calibration error, which needs no bins, and its interval.

A reliability diagram depends on the edges of its bins.  A Gaussian kernel has no edges, but a
width; the smooth ECE uses the width that equals its own result (Błasiok and Nakkiran 2023).

Axes: M tokens in text order, B cells of the forecast, C independent contributions, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import fft, optimize

from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.calibration_noise import bin_noise, checked_residuals
from kullback.uncertainty.documents import Documents

__all__ = ["measure_smooth_calibration", "smooth_calibration_error"]

# Cells of the forecast: for the value, and for its error.
FINE_CELLS, COARSE_CELLS = 8192, 64


def smooth_calibration_error(
    forecast_M: Float[np.ndarray, "M"],
    outcome_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
) -> float:
    """The smooth ECE: a Gaussian kernel instead of bins, with a width equal to the result.

    ``smECE_σ = ∫₀¹ |mean of (y − f) K_σ(t, f)| dt`` with K the normal density reflected at 0 and 1,
    and the result is the σ with smECE_σ = σ (Błasiok and Nakkiran 2023, "Smooth ECE: principled
    reliability diagrams via kernel smoothing").  The reflected Gaussian is the heat
    kernel of the unit interval: in the cosine basis it multiplies coefficient k by
    ``exp(−(π k σ)² / 2)``.

    >>> round(smooth_calibration_error(np.full(100, 0.7), np.ones(100)), 3)
    0.3
    """
    forecast_M, residual_M = checked_residuals(forecast_M, outcome_M)
    spectrum = _spectrum(forecast_M, residual_M)
    return _fixed_point(lambda sigma: float(np.abs(_smoothed(spectrum, sigma)).sum()))


def measure_smooth_calibration(
    forecast_M: Float[np.ndarray, "M"],
    outcome_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    document_M: Int[np.ndarray, "M"] | None,
    seed: int = 0,
) -> Measurement:
    """The smooth ECE with an interval whose coverage is at least its level.

    At each width σ the integral is a norm of the residuals, so that its error is at most the norm
    of the noise: the interval extends downwards by the 97.5 % quantile of that norm, and upwards by
    ``t √Σ|S_σ|`` with S_σ the covariance of the smoothed residuals.  The bounds are the fixed
    points of these two functions of σ, which preserves their order.

    >>> f = np.full(20_000, 0.7)
    >>> outcome = np.random.default_rng(0).random(20_000) < 0.6
    >>> print(measure_smooth_calibration(f, outcome, np.arange(20_000) // 100))
    0.1028 [0.0944, 0.1101]
    """
    forecast_M, residual_M = checked_residuals(forecast_M, outcome_M)
    documents = Documents.of(document_M, len(forecast_M))
    spectrum = _spectrum(forecast_M, residual_M)
    cell_M = np.minimum((forecast_M * COARSE_CELLS).astype(np.int64), COARSE_CELLS - 1)
    noise = bin_noise(cell_M, residual_M, COARSE_CELLS, documents)
    mean_B = np.bincount(cell_M, residual_M, COARSE_CELLS) / len(forecast_M)
    coarse = fft.dct(mean_B, norm="ortho")
    draws_DB = fft.dct(noise.draws(seed), axis=1, norm="ortho")
    contribution_BC = fft.dct(noise.contribution_BC, axis=0, norm="ortho")

    def size(sigma: float) -> float:
        return float(np.abs(_smoothed(spectrum, sigma)).sum())

    def below(sigma: float) -> float:
        return float(np.quantile(np.abs(_smoothed(draws_DB, sigma)).sum(axis=1), (1 + LEVEL) / 2))

    def error(sigma: float) -> float:
        smooth_BC = _smoothed(contribution_BC.T, sigma).T
        return math.sqrt(float(np.abs(smooth_BC @ smooth_BC.T).sum()))

    value = _fixed_point(size)
    # The noise is known over coarse cells, so the residuals must be over the same cells.
    low = _fixed_point(lambda sigma: float(np.abs(_smoothed(coarse, sigma)).sum()) - below(sigma))
    high = _fixed_point(lambda sigma: size(sigma) + noise.critical_value * error(sigma))
    return noise.measurement(value, error(value), low, high)


def _spectrum(
    forecast_M: Float[np.ndarray, "M"], residual_M: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "B"]:
    """The cosine coefficients of the residuals over [0, 1], each divided between two cells."""
    position_M = np.clip(forecast_M * FINE_CELLS - 0.5, 0, FINE_CELLS - 1)
    left_M = np.minimum(position_M.astype(np.int64), FINE_CELLS - 2)
    right_M = (position_M - left_M) * residual_M
    mass = np.bincount(left_M, residual_M - right_M, FINE_CELLS)
    mass += np.bincount(left_M + 1, right_M, FINE_CELLS)
    coefficients: Float[np.ndarray, "B"] = fft.dct(mass / len(forecast_M), norm="ortho")
    return coefficients


def _smoothed(spectrum: Float[np.ndarray, "... B"], sigma: float) -> Float[np.ndarray, "... B"]:
    """Mass over cells after smoothing by the reflected Gaussian of width sigma."""
    k = np.arange(spectrum.shape[-1])
    smooth: Float[np.ndarray, "... B"] = fft.idct(
        spectrum * np.exp(-((math.pi * sigma * k) ** 2) / 2), axis=-1, norm="ortho"
    )
    return smooth


def _fixed_point(size: Callable[[float], float]) -> float:
    """σ with size(σ) = σ, for a size that does not grow with σ; 0 where size(0) ≤ 0."""
    if size(0.0) <= 0.0:
        return 0.0
    if size(1.0) >= 1.0:
        return 1.0
    return float(optimize.brentq(lambda sigma: size(sigma) - sigma, 0.0, 1.0, xtol=1e-9))
