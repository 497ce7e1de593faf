"""Curves and histograms of results, from arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kullback.results.evaluation import Curve, Histogram
from kullback.results.measurement import Measurement

__all__ = ["HistogramSums", "curve", "finite_or_none", "histogram"]


def curve(x_B: Float[np.ndarray, "B"], means: Sequence[Measurement]) -> Curve:
    """The means of B bins with their intervals."""
    intervals = [mean.interval for mean in means]
    return Curve(
        x=tuple(x_B.tolist()),
        mean=tuple(finite_or_none(mean.value) for mean in means),
        low=tuple(finite_or_none(low) for low, _ in intervals),
        high=tuple(finite_or_none(high) for _, high in intervals),
        count=tuple(mean.n for mean in means),
    )


def histogram(
    values_M: Float[np.ndarray, "M"],
    edges: Float[np.ndarray, "edges"],
    weight_M: Float[np.ndarray, "M"],
) -> Histogram:
    """The share of the values, by weight, between neighbouring edges.

    >>> histogram(np.array([0.5, 1.5, 1.7]), np.array([0.0, 1.0, 2.0]), np.ones(3)).share[0]
    0.3333333333333333
    """
    sums = HistogramSums(edges)
    sums.add(values_M, weight_M)
    return sums.histogram()


class HistogramSums:
    """The weights of values that come in parts, between neighbouring edges."""

    def __init__(self, edges: Float[np.ndarray, "edges"]) -> None:
        self._edges = edges
        self._sums = np.zeros(len(edges) - 1)
        self._total = 0.0

    def add(self, values_m: Float[np.ndarray, "m"], weight_m: Float[np.ndarray, "m"]) -> None:
        """The next values."""
        self._sums += np.histogram(values_m, self._edges, weights=weight_m)[0]
        self._total += float(weight_m.sum())

    def histogram(self) -> Histogram:
        """The share of the weights between neighbouring edges."""
        shares = self._sums / (self._total or 1.0)
        return Histogram(tuple(self._edges.tolist()), tuple(shares.tolist()))


def finite_or_none(value: float) -> float | None:
    """The value; None in place of infinity and NaN.

    >>> finite_or_none(1.5), finite_or_none(math.inf)
    (1.5, None)
    """
    return value if math.isfinite(value) else None
