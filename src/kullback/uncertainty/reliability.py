"""Reliability diagrams and the expected calibration error.

A diagram groups forecasts in [0, 1] into bins ``(low, high]``; the first bin also contains 0.

Axes: M predictions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError

__all__ = [
    "BINS",
    "ReliabilityBin",
    "bin_edges",
    "bin_numbers",
    "expected_calibration_error",
    "reliability",
]

BINS = 15  # the number that Guo et al. 2017 and most after them use


class ReliabilityBin(NamedTuple):
    """The predictions whose confidence is in (low, high], or [low, high] where low is 0."""

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
    """The reliability diagram: those of `bins` bins that are not empty; means use `weight_M`.

    A confidence that equals an edge is in the bin below it.  Bins of equal mass contain equally
    many predictions; equal confidences share a bin, so there may be fewer bins.

    >>> reliability(np.array([0.9, 0.7]), np.array([1.0, 0.0]), np.ones(2), bins=2)
    [ReliabilityBin(low=0.5, high=1.0, confidence=0.8, accuracy=0.5, weight=1.0)]
    """
    edge = bin_edges(confidence_M, bins, edges)
    bins = len(edge) - 1
    index = bin_numbers(confidence_M, edge)
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


def bin_edges(
    forecast_M: Float[np.ndarray, "M"], bins: int, edges: Literal["equal width", "equal mass"]
) -> Float[np.ndarray, "edges"]:
    """The edges of `bins` bins in [0, 1], or of fewer where quantiles are equal."""
    if bins < 1:
        raise InvalidValueError(f"bins is {bins}: give at least one")
    if edges == "equal width":
        return np.arange(bins + 1) / bins
    inner = np.quantile(forecast_M, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def bin_numbers(
    forecast_M: Float[np.ndarray, "M"], edge: Float[np.ndarray, "edges"]
) -> Int[np.ndarray, "M"]:
    """The number of the bin (edge[i], edge[i + 1]] of each forecast; 0 is in the first."""
    return np.maximum(np.searchsorted(edge, forecast_M, side="left") - 1, 0)
