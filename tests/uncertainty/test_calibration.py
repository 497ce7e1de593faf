"""Calibration measures on forecasts whose calibration is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecasts import outcomes
from kullback.errors import InvalidValueError
from kullback.uncertainty.calibration import brier_scores, measure_calibration
from kullback.uncertainty.reliability import expected_calibration_error, reliability
from kullback.uncertainty.smooth_calibration import smooth_calibration_error


@pytest.mark.parametrize(
    ("seeds", "tolerance"), [(20, 0.25), pytest.param(150, 0.1, marks=pytest.mark.slow)]
)
def test_debiased_error_is_zero_on_average(seeds: int, tolerance: float) -> None:
    """On calibrated forecasts the mean debiased square is a small part of the biased one."""
    debiased, biased = [], []
    for seed in range(seeds):
        forecast, outcome, ids = outcomes(seed, 0.0, 40, 0.5)
        calibration = measure_calibration(forecast, outcome, ids)
        debiased.append(calibration.squared_error.value)
        biased.append(sum(b.weight * (b.confidence - b.accuracy) ** 2 for b in calibration.diagram))
    assert abs(np.mean(debiased)) < tolerance * np.mean(biased)


@pytest.mark.parametrize(
    ("seeds", "fewest"), [(20, 17), pytest.param(100, 93, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("bend", [0.0, 0.2])
def test_calibration_intervals_cover(bend: float, seeds: int, fewest: int) -> None:
    """Where documents differ, each interval contains the true measure in 95 % of seeds or more.

    Up to two standard deviations of their number.
    """
    forecast = np.random.default_rng(3).beta(2, 1.5, 400_000)
    true = forecast ** (1 + bend)
    bins = reliability(forecast, true, np.ones(len(forecast)), 15, "equal mass")
    ece = expected_calibration_error(bins)
    square = sum(b.weight * (b.confidence - b.accuracy) ** 2 for b in bins)
    smooth = smooth_calibration_error(forecast, true)
    truths = (ece, square, math.sqrt(square), smooth)
    hits = np.zeros(4)
    for seed in range(seeds):
        calibration = measure_calibration(*outcomes(seed, bend, 60, 0.4))
        measures = (
            calibration.ece,
            calibration.squared_error,
            calibration.rms_error,
            calibration.smooth_ece,
        )
        for i, (measure, truth) in enumerate(zip(measures, truths, strict=True)):
            low, high = measure.interval
            hits[i] += low <= truth + 1e-12 and truth <= high
    assert (hits >= fewest).all()


@pytest.mark.parametrize(
    ("seeds", "tolerance"), [(15, 0.2), pytest.param(60, 0.1, marks=pytest.mark.slow)]
)
def test_ece_by_chance_is_what_a_calibrated_model_shows(seeds: int, tolerance: float) -> None:
    """The ECE expected by chance is the mean ECE of calibrated forecasts."""
    calibrations = [measure_calibration(*outcomes(seed, 0.0, 60, 0.4)) for seed in range(seeds)]
    expected = np.mean([calibration.ece.value for calibration in calibrations])
    by_chance = np.mean([calibration.ece_by_chance for calibration in calibrations])
    assert by_chance == pytest.approx(expected, rel=tolerance)


def test_one_long_text_has_calibration_intervals() -> None:
    """Without documents the errors come from the lowest frequencies of the text."""
    forecast, outcome, _ = outcomes(4, 0.3, 100, 0.0)
    calibration = measure_calibration(forecast, outcome, None)
    assert "one text" in calibration.ece.method
    assert calibration.ece.interval[0] > 0
    assert calibration.mean_gap.interval[0] > 0  # overconfident: P = f^1.3 < f


def test_brier_score_is_the_square_distance() -> None:
    """The sum of squares and the target's probability give Brier's own sum over the vocabulary."""
    q = np.random.default_rng(6).dirichlet(np.ones(7), 20)
    target = np.arange(20) % 7
    expected = ((q - np.eye(7)[target]) ** 2).sum(axis=1)
    assert brier_scores((q**2).sum(axis=1), q[np.arange(20), target]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("forecast", "outcome", "message"),
    [
        ([0.5, 1.5], [0, 1], r"forecast\[1\] is 1.5"),
        ([0.5, math.nan], [0, 1], r"forecast\[1\] is nan"),
        ([0.5], [math.inf], r"outcome\[0\] is inf"),
        ([0.5], [0, 1], "forecast has shape"),
        ([], [], "at least one"),
    ],
)
def test_bad_input_is_named(forecast: list, outcome: list, message: str) -> None:
    """Each wrong argument is refused by name, with its value and place."""
    with pytest.raises(InvalidValueError, match=message):
        measure_calibration(np.array(forecast), np.array(outcome), None)
