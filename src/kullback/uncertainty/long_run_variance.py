"""Autocorrelation length and long-run variance of per-token series.

Tokens of one text are correlated: the variance of their mean is not γ₀/n but Ω/n with the
**long-run variance** Ω = Σ_k γ_k, the sum of all autocovariances.  For a series in text order,
`optimal_block_length` and `memory` estimate the length of the correlation, and
`cosine_coefficients` Ω.

Lengths are in entries of the series.  ``_T`` is time (tokens in text order), ``_J`` frequency.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft

__all__ = ["BlockLength", "cosine_coefficients", "memory", "optimal_block_length"]

# A coarser view of the series with fewer entries shows no correlation.
SHORTEST_VIEW = 48
# The number of neighbours that are summed from one view of `memory` to the next.
COARSENING = 4


class BlockLength(NamedTuple):
    """The block lengths with the smallest mean squared error of the bootstrap variance."""

    stationary: float
    circular: float


def optimal_block_length(series_T: Float[np.ndarray, "T"]) -> BlockLength:
    """The automatic block length of Politis and White.

    ``b = (2 g² / D · T)^(1/3)`` with ``g = Σ_k λ(k/m) |k| γ_k``, ``D = c (Σ_k λ(k/m) γ_k)²``, c = 2
    for the stationary and 4/3 for the circular bootstrap, and λ the flat-top window: 1 up to ½,
    then falling to 0 at 1.  m is twice the first of max(5, ⌊log₁₀ T⌋) successive lags whose
    autocorrelations are all within ±2 √(log₁₀ T / T).

    Politis and White 2004, Econometric Reviews 23:53, eq. 9 and 14, with the correction of c by
    Patton, Politis and White 2009, ibid. 28:372; m and the upper limit min(3√T, T/3) follow
    Patton's own program.  A constant series has length 1.

    >>> round(optimal_block_length(np.sin(np.arange(100.0) / 9)).circular, 4)
    14.4763
    """
    size = len(series_T)
    centred = series_T - series_T.mean()
    run = max(5, int(math.log10(size)))
    largest = math.ceil(math.sqrt(size)) + run
    spectrum = fft.rfft(centred, fft.next_fast_len(size + largest + 1, real=True))
    covariance = fft.irfft(np.abs(spectrum) ** 2, fft.next_fast_len(size + largest + 1, real=True))
    covariance = covariance[: min(largest, size - 1) + 1] / size
    if not covariance[0] > 0:
        return BlockLength(1.0, 1.0)
    small = np.abs(covariance[1:-1]) < covariance[0] * 2 * math.sqrt(math.log10(size) / size)
    starts = np.flatnonzero(np.convolve(small, np.ones(run), "valid") == run)
    m = min(2 * (int(starts[0]) + 1), len(covariance) - 1) if len(starts) else len(covariance) - 1
    k = np.arange(1, m + 1)
    tapered = 2 * np.minimum(1.0, 2 * (1 - k / m)) * covariance[1 : m + 1]
    bias = float(tapered @ k)
    long_run = float(covariance[0] + tapered.sum())
    limit = math.ceil(min(3 * math.sqrt(size), size / 3))
    if long_run == 0.0:
        return BlockLength(limit, limit)
    stationary, circular = (
        min(limit, (2 * bias**2 / (c * long_run**2) * size) ** (1 / 3)) for c in (2, 4 / 3)
    )
    return BlockLength(stationary, circular)


def memory(series_T: Float[np.ndarray, "T"]) -> float:
    """The length of the correlation: the largest automatic block length of any view of the series.

    A regime that shifts the mean by a fifth of the noise for hundreds of tokens multiplies the
    variance by ten, yet no single autocorrelation exceeds the noise, and `optimal_block_length`
    does not detect it.  In sums over 4, 16, 64, … neighbours the noise averages out and the regime
    remains, so the block length is computed for each of these views, in entries of the series.

    >>> memory(np.zeros(100))
    1.0
    """
    longest, factor, view_T = 1.0, 1, series_T
    while len(view_T) >= SHORTEST_VIEW:
        longest = max(longest, factor * optimal_block_length(view_T).circular)
        whole = len(view_T) // COARSENING * COARSENING
        view_T = view_T[:whole].reshape(-1, COARSENING).sum(axis=1)
        factor *= COARSENING
    return longest


def cosine_coefficients(
    series_T: Float[np.ndarray, "T"], frequencies: int
) -> Float[np.ndarray, "J"]:
    """The projections of a series on its lowest cosines; their mean square estimates Ω.

    ``Λ_j = √(2/T) Σ_t x_t cos(π j (t − ½) / T)``, j = 1 … J.  They are nearly independent normal
    variables of variance Ω, so that ``(mean − µ) / √(Σ Λ_j² / (J T))`` follows Student's t with J
    degrees of freedom (Müller 2007; Lazarus, Lewis, Stock and Watson 2018, J. Business & Economic
    Statistics 36:541, eq. 4).  The mean of the series does not enter: every cosine sums to zero.

    >>> cosine_coefficients(np.array([1.0, -1.0]), 1).round(6)
    array([1.414214])
    """
    coefficients: Float[np.ndarray, "T"] = fft.dct(series_T, type=2, norm="ortho")
    return coefficients[1 : frequencies + 1]
