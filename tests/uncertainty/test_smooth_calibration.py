"""The smooth calibration error against brute force, and of a known bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from forecasts import outcomes
from kullback.uncertainty.smooth_calibration import smooth_calibration_error


def brute_force_smooth_ece(forecast: np.ndarray, outcome: np.ndarray) -> float:
    """The fixed point of ∫ |Σ (y − f) K_σ| / n by the sum over reflections, n × grid."""
    t = (np.arange(3000) + 0.5) / 3000

    def excess(sigma: float) -> float:
        kernel = np.zeros((len(t), len(forecast)))
        for k in range(-3, 4):
            for image in (2 * k + forecast, 2 * k - forecast):
                kernel += np.exp(-(((t[:, None] - image) / sigma) ** 2) / 2)
        size = np.abs(kernel @ (outcome - forecast)).mean() / len(forecast)
        return float(size / (sigma * math.sqrt(2 * math.pi)) - sigma)

    return float(optimize.brentq(excess, 0.01, 1.0, xtol=1e-7))


def test_smooth_ece_is_that_of_the_definition() -> None:
    """The cosine transform gives the smooth ECE of a brute-force sum over reflected kernels."""
    for seed, bend in ((0, 0.0), (1, 0.6)):
        forecast, outcome, _ = outcomes(seed, bend, 4, 0.0)
        expected = brute_force_smooth_ece(forecast, outcome)
        assert smooth_calibration_error(forecast, outcome) == pytest.approx(expected, abs=1e-6)


def test_smooth_ece_of_a_constant_bias_is_the_bias() -> None:
    """A forecast that is always 0.2 too high has a smooth ECE of 0.2."""
    forecast = np.linspace(0.3, 0.9, 1000)
    assert smooth_calibration_error(forecast, forecast - 0.2) == pytest.approx(0.2, abs=1e-3)
    assert smooth_calibration_error(forecast, forecast) == 0.0
