"""Reliability diagrams and the expected calibration error, by hand and at the edges of bins."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.uncertainty.reliability import expected_calibration_error, reliability


def test_equal_mass_bins_hold_equally_many() -> None:
    """Each of ten bins holds a tenth of distinct confidences, and equal ones share a bin."""
    confidence = np.random.default_rng(2).random(1000) ** 3
    diagram = reliability(confidence, confidence, np.ones(1000), 10, "equal mass")
    assert [bin.weight for bin in diagram] == [0.1] * 10
    ties = reliability(np.full(9, 0.5), np.ones(9), np.ones(9), 10, "equal mass")
    assert [(bin.confidence, bin.weight) for bin in ties] == [(0.5, 1.0)]


def test_ece_of_equal_mass_bins_by_hand() -> None:
    """Two bins of two predictions: the ECE is the mean of their gaps."""
    diagram = reliability(
        np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 1, 1]), np.ones(4), 2, "equal mass"
    )
    assert expected_calibration_error(diagram) == pytest.approx((0.35 + 0.15) / 2)


@pytest.mark.parametrize("edges", ["equal width", "equal mass"])
def test_a_confidence_at_an_edge_is_in_the_bin_below(edges: str) -> None:
    """Bins are (low, high]: 0.5 is in (0, 0.5] and 1 in the last; 0 is in the first."""
    confidence = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    accuracy = np.array([1, 0, 0, 0, 0, 0])
    diagram = reliability(confidence, accuracy, np.ones(6), 2, edges)
    assert [(bin.low, bin.high) for bin in diagram] == [(0.0, 0.5), (0.5, 1.0)]
    assert [bin.weight for bin in diagram] == [0.5, 0.5]
    assert [bin.confidence for bin in diagram] == pytest.approx([0.25, 2.75 / 3])
    assert diagram[0].accuracy == pytest.approx(1 / 3)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
@pytest.mark.parametrize("edges", ["equal width", "equal mass"])
def test_certain_forecasts_have_a_bin(confidence: float, edges: str) -> None:
    """Confidences of exactly 0 are all in the first bin, those of exactly 1 in the last."""
    (bin,) = reliability(np.full(7, confidence), np.ones(7), np.ones(7), 15, edges)
    assert (bin.confidence, bin.weight) == (confidence, 1.0)
    assert (bin.low if confidence == 0.0 else bin.high) == confidence


def test_no_bins_are_refused() -> None:
    """A number of bins below one is named."""
    with pytest.raises(InvalidValueError, match="bins is 0"):
        reliability(np.ones(1), np.ones(1), np.ones(1), 0)
