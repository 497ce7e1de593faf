"""Curves and histograms of results, from arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kullback.results.evaluation import Curve, Histogram
from kullback.results.measurement import Measurement

__all__ = ["curve", "finite_or_none", "histogram"]


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
    sums, _ = np.histogram(values_M, edges, weights=weight_M)
    total = float(weight_M.sum()) or 1.0
    return Histogram(tuple(edges.tolist()), tuple((sums / total).tolist()))


def finite_or_none(value: float) -> float | None:
    """The value; None in place of infinity and NaN.

    >>> finite_or_none(1.5), finite_or_none(math.inf)
    (1.5, None)
    """
    return value if math.isfinite(value) else None
