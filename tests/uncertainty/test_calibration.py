"""Calibration measures against brute force, and on forecasts whose calibration is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_softmax, logsumexp

from kullback.errors import InvalidValueError
from kullback.evaluation.temperature import fit_temperature
from kullback.uncertainty.calibration import brier_scores, measure_calibration
from kullback.uncertainty.reliability import expected_calibration_error, reliability
from kullback.uncertainty.smooth_calibration import smooth_calibration_error


def outcomes(
    seed: int, bend: float, documents: int, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forecasts, outcomes with P(1 | f) = f^(1 + bend) on average, and documents of 60 tokens.

    Documents differ: each is luckier or unluckier than its forecasts by up to `shift`.
    """
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(documents), 60)
    forecast = rng.beta(2, 1.5, len(ids))
    true = forecast ** (1 + bend)
    true += rng.choice([-shift, shift], documents)[ids] * np.minimum(true, 1 - true)
    return forecast, rng.random(len(ids)) < true, ids


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


def test_equal_mass_bins_hold_equally_many() -> None:
    """Each of ten bins holds a tenth of distinct confidences, and equal ones share a bin."""
    confidence = np.random.default_rng(2).random(1000) ** 3
    diagram = reliability(confidence, confidence, np.ones(1000), 10, "equal mass")
    assert [bin.weight for bin in diagram] == [0.1] * 10
    ties = reliability(np.full(9, 0.5), np.ones(9), np.ones(9), 10, "equal mass")
    assert [(bin.confidence, bin.weight) for bin in ties] == [(0.5, 1.0)]


def test_ece_of_equal_mass_bins_by_hand() -> None:
    """Two bins of two predictions: the ECE is the mean of their gaps."""
    found = reliability(
        np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 1, 1]), np.ones(4), 2, "equal mass"
    )
    assert expected_calibration_error(found) == pytest.approx((0.35 + 0.15) / 2)


def test_debiased_error_is_zero_on_average_where_the_plain_one_is_not() -> None:
    """On calibrated forecasts the mean debiased square is a tenth of the plain one's or less."""
    debiased, plain = [], []
    for seed in range(150):
        forecast, outcome, ids = outcomes(seed, 0.0, 40, 0.5)
        found = measure_calibration(forecast, outcome, ids)
        debiased.append(found.squared_error.value)
        plain.append(sum(b.weight * (b.confidence - b.accuracy) ** 2 for b in found.diagram))
    assert abs(np.mean(debiased)) < 0.1 * np.mean(plain)


@pytest.mark.parametrize("bend", [0.0, 0.2])
def test_calibration_intervals_cover(bend: float) -> None:
    """Where documents differ, each interval covers the true measure in at least 93 of 100 seeds."""
    forecast = np.random.default_rng(3).beta(2, 1.5, 400_000)
    true = forecast ** (1 + bend)
    bins = reliability(forecast, true, np.ones(len(forecast)), 15, "equal mass")
    ece = expected_calibration_error(bins)
    square = sum(b.weight * (b.confidence - b.accuracy) ** 2 for b in bins)
    smooth = smooth_calibration_error(forecast, true)
    truths = (ece, square, math.sqrt(square), smooth)
    hits = np.zeros(4)
    for seed in range(100):
        found = measure_calibration(*outcomes(seed, bend, 60, 0.4))
        measures = (found.ece, found.squared_error, found.rms_error, found.smooth_ece)
        for i, (measure, truth) in enumerate(zip(measures, truths, strict=True)):
            low, high = measure.interval
            hits[i] += low <= truth + 1e-12 and truth <= high
    assert (hits >= 93).all()


def test_ece_by_chance_is_what_a_calibrated_model_shows() -> None:
    """The ECE expected by chance is the mean ECE of calibrated forecasts, within a tenth."""
    found = [measure_calibration(*outcomes(seed, 0.0, 60, 0.4)) for seed in range(60)]
    expected = np.mean([each.ece.value for each in found])
    assert np.mean([each.ece_by_chance for each in found]) == pytest.approx(expected, rel=0.1)


def test_one_long_text_has_calibration_intervals() -> None:
    """Without documents the errors come from the lowest frequencies of the text."""
    forecast, outcome, _ = outcomes(4, 0.3, 100, 0.0)
    found = measure_calibration(forecast, outcome, None)
    assert "one text" in found.ece.method
    assert found.ece.interval[0] > 0
    assert found.mean_gap.interval[0] > 0  # overconfident: P = f^1.3 < f
    assert sum(gap.n for gap in found.gaps) == len(forecast)


def test_gaps_of_bins_are_those_of_the_diagram() -> None:
    """Each bin's gap is its accuracy minus its confidence."""
    found = measure_calibration(*outcomes(5, 0.3, 30, 0.2))
    assert [gap.value for gap in found.gaps] == pytest.approx(
        [bin.accuracy - bin.confidence for bin in found.diagram]
    )


def test_brier_score_is_the_square_distance() -> None:
    """The sum of squares and the target's probability give Brier's own sum over words."""
    q = np.random.default_rng(6).dirichlet(np.ones(7), 20)
    target = np.arange(20) % 7
    expected = ((q - np.eye(7)[target]) ** 2).sum(axis=1)
    assert brier_scores((q**2).sum(axis=1), q[np.arange(20), target]) == pytest.approx(expected)


def test_temperature_is_the_minimum_of_nll() -> None:
    """The temperature is SciPy's minimum of the mean nll, within 1e-4, and undoes a known one."""
    rng = np.random.default_rng(7)
    honest = rng.standard_normal((4000, 20)) * 2
    target = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)
    logits = honest * 1.7  # too sure by a temperature of 1.7

    def nll(temperatures: np.ndarray) -> np.ndarray:
        scaled = logits / temperatures[:, None, None]
        return logsumexp(scaled, axis=2) - scaled[:, np.arange(4000), target]

    found = fit_temperature(nll, np.arange(4000) // 40)
    best = optimize.minimize_scalar(
        lambda log_T: nll(np.exp([log_T])).mean(), bounds=(-1, 1), options={"xatol": 1e-8}
    )
    assert found.temperature == pytest.approx(math.exp(best.x), abs=1e-4)
    assert found.temperature == pytest.approx(1.7, abs=0.1)
    assert found.saved.value == pytest.approx(float(nll(np.ones(1)).mean()) - best.fun, abs=1e-8)
    assert found.saved.interval[0] > 0
    assert not found.at_limit
    assert found.calls <= 6
    expected = -log_softmax(logits, axis=1)[np.arange(4000), target]
    assert nll(np.ones(1))[0] == pytest.approx(expected)


def test_temperature_beyond_the_range_is_named() -> None:
    """A model that is always right wants temperature 0: the lower end is returned and marked."""
    found = fit_temperature(lambda T: np.log1p(np.exp(-np.ones((1, 200)) / T[:, None])), None)
    assert found.at_limit
    assert found.temperature == pytest.approx(0.25)


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


def test_bad_temperatures_are_refused() -> None:
    """A range without 1, and a target of probability 0, are refused with a reason."""
    with pytest.raises(InvalidValueError, match="low < 1 < high"):
        fit_temperature(lambda T: np.ones((len(T), 5)), None, low=2.0)
    with pytest.raises(InvalidValueError, match="probability 0"):
        fit_temperature(lambda T: np.full((len(T), 5), math.inf), None)
