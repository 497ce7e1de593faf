"""How sure are we?  Numbers with their intervals.

A mean over tokens is a ratio of sums over sentences, ``sum_s y_s / sum_s n_s``.  Tokens of one
sentence belong together, sentences are independent, so the variance is that of a ratio of sums
over clusters (Cochran 1977, Sampling Techniques, eq. 2.39, without the finite-population factor)::

    var = S / (S - 1) × sum_s (y_s - r n_s)² / (sum_s n_s)²
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["Measurement", "ratio_of_sums"]

# The 97.5 % quantile of the standard normal: half the width of a 95 % interval, in standard errors.
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Measurement:
    """A number, its unit, and how sure it is.

    An exact number has standard error 0 and prints without an interval.
    """

    value: float
    unit: str
    standard_error: float
    n: int
    """Tokens, or prefixes where the sum is over all of them."""
    clusters: int
    """Independent pieces that the interval is computed from; 0 for an exact number."""
    method: str

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        half = NORMAL_95 * self.standard_error
        return self.value - half, self.value + half

    def __str__(self) -> str:
        """`0.6929 nats/token` or `0.6931 ± 0.0011 nats/token` (half of the 95 % interval)."""
        half = NORMAL_95 * self.standard_error
        if half == 0.0:
            return f"{self.value:.6f} {self.unit}"
        if not math.isfinite(half):
            return f"{self.value:.6g} {self.unit} (too few clusters for an interval)"
        digits = min(9, max(0, 1 - math.floor(math.log10(half))))
        return f"{self.value:.{digits}f} ± {half:.{digits}f} {self.unit}"


def ratio_of_sums(
    numerator_S: Float[np.ndarray, "S"],
    denominator_S: Float[np.ndarray, "S"],
    unit: str,
    n: int,
) -> Measurement:
    """sum(numerator) / sum(denominator) over S independent clusters, with its standard error.

    The standard error is infinite below two clusters.

    >>> print(ratio_of_sums(np.array([1.0, 2.0, 3.0]), np.ones(3), "nats/token", 3))
    2.0 ± 1.1 nats/token
    """
    clusters = len(numerator_S)
    total = float(denominator_S.sum())
    value = float(numerator_S.sum()) / total
    error = math.inf
    if clusters > 1:
        residuals = numerator_S - value * denominator_S
        error = math.sqrt(clusters / (clusters - 1) * float(residuals @ residuals)) / total
    return Measurement(value, unit, error, n, clusters, "ratio of sums over sentences")
