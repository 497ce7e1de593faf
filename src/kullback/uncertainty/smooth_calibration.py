"""The smooth calibration error, which needs no bins, and its interval.

A reliability diagram depends on the edges of its bins.  A Gaussian kernel has no edges, but a
width; the smooth ECE uses the width that equals its own result (Błasiok and Nakkiran 2023).

Axes: M tokens in text order, m those of one part, B cells of the forecast, C independent
contributions, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import fft, optimize

from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.bin_sums import BinnedResiduals, bin_sums
from kullback.uncertainty.calibration_noise import InPieces, NoisePieces
from kullback.uncertainty.documents import documents_of
from kullback.uncertainty.forecasts import ResidualRows, checked, document_rows, forecast_rows
from kullback.uncertainty.sweeps import Computation, compute

__all__ = ["SmoothSums", "measure_smooth_calibration", "smooth_calibration_error"]

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
    rows = forecast_rows(forecast_M, outcome_M, None)
    return compute(checked(_smooth_error()), lambda: [rows])


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
    rows = forecast_rows(forecast_M, outcome_M, document_M)
    return compute(checked(_smooth_calibration(seed)), lambda: [rows])


def _smooth_error() -> Computation[ResidualRows, float]:
    sums = _FineSums()
    yield sums
    spectrum = sums.spectrum()
    return _fixed_point(lambda sigma: float(np.abs(_smoothed(spectrum, sigma)).sum()))


def _smooth_calibration(seed: int) -> Computation[ResidualRows, Measurement]:
    documents = yield from documents_of(document_rows)
    pieces = NoisePieces(documents)
    sums = SmoothSums(pieces)
    yield InPieces(pieces, [sums.add])
    if sums.residuals.again():
        yield InPieces(pieces, [sums.add_residuals])
    return sums.measurement(seed)


class SmoothSums:
    """What the smooth ECE needs of the residuals of a text, in parts."""

    def __init__(self, pieces: NoisePieces) -> None:
        self._fine = _FineSums()
        self.residuals = bin_sums(pieces, COARSE_CELLS)

    def add(self, piece_m: Int[np.ndarray, "m"], rows: ResidualRows) -> None:
        """The next tokens, and their pieces."""
        self._fine.add(rows)
        self.add_residuals(piece_m, rows)

    def add_residuals(self, piece_m: Int[np.ndarray, "m"], rows: ResidualRows) -> None:
        """The next tokens of a second pass."""
        cell_m = np.minimum((rows.forecast_m * COARSE_CELLS).astype(np.int64), COARSE_CELLS - 1)
        self.residuals.add(BinnedResiduals(piece_m, cell_m, rows.residual_m))

    def measurement(self, seed: int) -> Measurement:
        """The smooth ECE with its interval."""
        spectrum, noise = self._fine.spectrum(), self.residuals.noise()
        coarse = fft.dct(self.residuals.residual_B / noise.n, norm="ortho")
        draws_DB = fft.dct(noise.draws(seed), axis=1, norm="ortho")
        contribution_BC = fft.dct(noise.contribution_BC, axis=0, norm="ortho")

        def size(sigma: float) -> float:
            return float(np.abs(_smoothed(spectrum, sigma)).sum())

        def below(sigma: float) -> float:
            norm_D = np.abs(_smoothed(draws_DB, sigma)).sum(axis=1)
            return float(np.quantile(norm_D, (1 + LEVEL) / 2))

        def error(sigma: float) -> float:
            smooth_BC = _smoothed(contribution_BC.T, sigma).T
            return math.sqrt(float(np.abs(smooth_BC @ smooth_BC.T).sum()))

        def excess(sigma: float) -> float:
            # The noise is known over coarse cells, so the residuals must be over the same cells.
            return float(np.abs(_smoothed(coarse, sigma)).sum()) - below(sigma)

        value = _fixed_point(size)
        low = _fixed_point(excess)
        high = _fixed_point(lambda sigma: size(sigma) + noise.critical_value * error(sigma))
        return noise.measurement(value, error(value), low, high)


class _FineSums:
    """The residuals over fine cells of the forecast, each divided between two cells."""

    def __init__(self) -> None:
        self._left, self._right = np.zeros((2, FINE_CELLS))
        self._tokens = 0

    def add(self, rows: ResidualRows, /) -> None:
        """The next tokens."""
        position_m = np.clip(rows.forecast_m * FINE_CELLS - 0.5, 0, FINE_CELLS - 1)
        left_m = np.minimum(position_m.astype(np.int64), FINE_CELLS - 2)
        right_m = (position_m - left_m) * rows.residual_m
        self._left += np.bincount(left_m, rows.residual_m - right_m, FINE_CELLS)
        self._right += np.bincount(left_m + 1, right_m, FINE_CELLS)
        self._tokens += len(left_m)

    def spectrum(self) -> Float[np.ndarray, "B"]:
        """The cosine coefficients of the residuals over [0, 1]."""
        mass = self._left + self._right
        coefficients: Float[np.ndarray, "B"] = fft.dct(mass / self._tokens, norm="ortho")
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
