"""Reliability diagrams and the expected calibration error.

A diagram groups forecasts in [0, 1] into bins ``(low, high]``; the first bin also contains 0.

Axes: M predictions, m those of one part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError
from kullback.uncertainty.quantiles import quantiles
from kullback.uncertainty.sweeps import Computation, compute

__all__ = [
    "BINS",
    "DiagramSums",
    "ReliabilityBin",
    "bin_edges",
    "bin_numbers",
    "edges_of_equal_mass",
    "expected_calibration_error",
    "reliability",
]

Rows = TypeVar("Rows")

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
    sums = DiagramSums(bin_edges(confidence_M, bins, edges))
    sums.add(bin_numbers(confidence_M, sums.edge), confidence_M, accuracy_M, weight_M)
    return sums.diagram()


class DiagramSums:
    """The sums of predictions, in parts, over bins with these edges."""

    def __init__(self, edge: Float[np.ndarray, "edges"]) -> None:
        self.edge = edge
        self._weight, self._confidence, self._accuracy = np.zeros((3, len(edge) - 1))

    def add(
        self,
        index_m: Int[np.ndarray, "m"],
        confidence_m: Float[np.ndarray, "m"],
        accuracy_m: Num[np.ndarray, "m"] | Bool[np.ndarray, "m"],
        weight_m: Float[np.ndarray, "m"],
    ) -> None:
        """The next predictions, and the numbers of their bins."""
        bins = len(self.edge) - 1
        self._weight += np.bincount(index_m, weight_m, bins)
        self._confidence += np.bincount(index_m, weight_m * confidence_m, bins)
        self._accuracy += np.bincount(index_m, weight_m * accuracy_m, bins)

    def diagram(self) -> list[ReliabilityBin]:
        """The bins that are not empty."""
        edge, weight = self.edge, self._weight
        total = weight.sum()
        return [
            ReliabilityBin(
                float(edge[i]),
                float(edge[i + 1]),
                float(self._confidence[i] / weight[i]),
                float(self._accuracy[i] / weight[i]),
                float(weight[i] / total),
            )
            for i in range(len(weight))
            if weight[i] > 0
        ]


def expected_calibration_error(diagram: list[ReliabilityBin]) -> float:
    """Σ weight × |confidence - accuracy|, in [0, 1]."""
    return sum(bin.weight * abs(bin.confidence - bin.accuracy) for bin in diagram)


def bin_edges(
    forecast_M: Float[np.ndarray, "M"], bins: int, edges: Literal["equal width", "equal mass"]
) -> Float[np.ndarray, "edges"]:
    """The edges of `bins` bins in [0, 1], or of fewer where quantiles are equal."""
    if edges == "equal width":
        _check_bins(bins)
        return np.arange(bins + 1) / bins
    return compute(edges_of_equal_mass(lambda part: part, bins), lambda: [forecast_M])


def edges_of_equal_mass(
    read: Callable[[Rows], Float[np.ndarray, "m"]], bins: int
) -> Computation[Rows, Float[np.ndarray, "edges"]]:
    """The edges of `bins` bins in [0, 1] that contain equally many of the forecasts of all parts.

    They are fewer where quantiles are equal.
    """
    _check_bins(bins)
    inner = yield from quantiles(read, np.arange(1, bins) / bins)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise InvalidValueError(f"bins is {bins}: give at least one")


def bin_numbers(
    forecast_M: Float[np.ndarray, "M"], edge: Float[np.ndarray, "edges"]
) -> Int[np.ndarray, "M"]:
    """The number of the bin (edge[i], edge[i + 1]] of each forecast; 0 is in the first."""
    return np.maximum(np.searchsorted(edge, forecast_M, side="left") - 1, 0)
