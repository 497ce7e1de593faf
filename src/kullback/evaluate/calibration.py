"""Calibration: of the words that the model gives 70 %, are 70 % right?

The reliability diagram sorts predictions into bins by confidence, the probability of the most
probable word, and sets each bin's mean confidence beside its accuracy (Guo et al. 2017, eq. 2-3);
the expected calibration error is the mean of the absolute differences (ibid., eq. 3).  On a source
the accuracy is not counted but known: p(most probable word | prefix).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["ReliabilityBin", "expected_calibration_error", "reliability"]

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
    accuracy_M: Float[np.ndarray, "M"],
    weight_M: Float[np.ndarray, "M"],
    bins: int = BINS,
) -> list[ReliabilityBin]:
    """The non-empty ones of `bins` bins of equal width; means are weighted by `weight_M`.

    >>> reliability(np.array([0.9, 0.7]), np.array([1.0, 0.0]), np.ones(2), bins=2)
    [ReliabilityBin(low=0.5, high=1.0, confidence=0.8, accuracy=0.5, weight=1.0)]
    """
    index = np.clip(np.ceil(confidence_M * bins).astype(int) - 1, 0, bins - 1)
    weight = np.bincount(index, weight_M, bins)
    confidence = np.bincount(index, weight_M * confidence_M, bins)
    accuracy = np.bincount(index, weight_M * accuracy_M, bins)
    total = weight.sum()
    return [
        ReliabilityBin(
            i / bins,
            (i + 1) / bins,
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
