"""The fit of L(x) = E + A·x^(−α), and the interval of E."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from kullback.errors import InvalidValueError
from kullback.theory.scaling_law import fit_scaling_law, fit_scaling_laws

X = 1e4 * 2.0 ** np.arange(6)
NOISE = np.array([0.3, -1.1, 0.9, 0.2, -0.7, 0.5])


def law(floor: float, scale: float, exponent: float, noise: float = 0.0) -> np.ndarray:
    """Return losses, with noise in proportion to the excess."""
    return floor + scale * X**-exponent * (1 + noise * NOISE)


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.7, 40.0, 0.4), (1.69, 400.0, 0.34)])
def test_a_law_without_noise_is_recovered(floor: float, scale: float, exponent: float) -> None:
    """E, A and α come out, whatever the unit of x; the interval is next to nothing."""
    for unit in (1.0, 1e6):
        fitted = fit_scaling_law(X * unit, law(floor, scale, exponent), replicates=50)
        assert fitted.floor == pytest.approx(floor, rel=1e-5)
        assert fitted.exponent == pytest.approx(exponent, rel=1e-4)
        assert fitted.scale == pytest.approx(scale * unit**exponent, rel=1e-3)
        assert fitted.loss(2 * X[-1] * unit) == pytest.approx(
            floor + scale * (2 * X[-1]) ** -exponent, rel=1e-5
        )
        low, high = fitted.floor_interval
        assert high - low < 1e-4
        assert fitted.identified


def test_the_fit_is_that_of_scipy() -> None:
    """The minimum of Huber's function of the residuals of log L, found by another program."""
    losses, errors = law(0.7, 40.0, 0.4, 0.05), 0.02 * law(0.0, 40.0, 0.4)
    losses[2] += 0.2  # an outlier, to which Huber's function is linear

    def residuals(theta: np.ndarray) -> np.ndarray:
        fitted = np.exp(theta[0]) + np.exp(theta[1]) * (X / X[0]) ** -theta[2]
        return np.log(fitted / losses) * losses / errors

    best = min(
        (
            optimize.least_squares(
                residuals, (np.log(0.6), 0.0, start), loss="huber", f_scale=1.345, xtol=1e-14,
                ftol=1e-14, gtol=1e-14,
            )
            for start in (0.2, 0.5, 1.0)
        ),
        key=lambda result: float(result.cost),
    )  # fmt: skip
    floor, scale, exponent = fit_scaling_laws(X, losses[None], errors)[0]
    assert floor == pytest.approx(np.exp(best.x[0]), rel=1e-4)
    assert exponent == pytest.approx(best.x[2], rel=1e-3)
    assert scale * X[0] ** -exponent == pytest.approx(np.exp(best.x[1]), rel=1e-3)


def test_the_interval_contains_the_floor_and_grows_with_the_noise() -> None:
    """More noise of training, or of the validation sample, gives a wider interval."""
    widths = []
    for noise in (0.01, 0.03):
        low, high = fit_scaling_law(X, law(0.7, 40.0, 0.4, noise), replicates=300).floor_interval
        assert low < 0.7 < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]
    losses = law(0.7, 40.0, 0.4, 0.01)
    samples = losses + np.random.default_rng(0).normal(0, 0.2, (200, 1))
    low, high = fit_scaling_law(X, losses, samples, replicates=300).floor_interval
    assert high - low > 2 * widths[0]


def test_a_floor_that_the_ladder_does_not_show_is_said() -> None:
    """Next to a line in log x, or with much noise, the interval is wider than the last excess."""
    assert not fit_scaling_law(X, law(0.7, 3.0, 0.05, 0.03), replicates=300).identified
    noisy = fit_scaling_law(X, law(0.7, 40.0, 0.4, 0.03), replicates=300)
    low, high = noisy.floor_interval
    assert noisy.scale * X[-1] ** -noisy.exponent < high - low < np.ptp(law(0.7, 40.0, 0.4, 0.03))
    assert not noisy.identified


def test_a_small_validation_sample_does_not_hide_the_floor() -> None:
    """It shifts E and all losses alike: the interval is wide, and the curve is seen as before."""
    losses = law(0.7, 40.0, 0.4, 0.003)
    samples = losses + np.random.default_rng(0).normal(0, 0.2, (200, 1))
    fitted = fit_scaling_law(X, losses, samples, replicates=300)
    low, high = fitted.floor_interval
    assert high - low > fitted.scale * X[-1] ** -fitted.exponent
    assert fitted.identified


def test_an_excess_that_falls_faster_than_1_over_x_is_a_transient() -> None:
    """E is not identified, however narrow its interval; an exponent of 1 is no transient."""
    for exponent, transient in ((0.9, False), (1.0, False), (1.6, True)):
        fitted = fit_scaling_law(X, law(0.7, 0.9 * X[0] ** exponent, exponent, 0.02), None, 300)
        assert fitted.transient == transient
        assert fitted.identified != transient
        assert (fitted.exponent_interval[0] > 1) == transient


def test_a_first_rung_of_another_law_is_in_the_interval() -> None:
    """Of seven rungs the first one is left out once; its interval has the others' one in it."""
    x = 1e4 * 2.0 ** np.arange(7)
    losses = 0.7 + 40.0 * x**-0.4 * (1 + 0.004 * np.array([0.5, *NOISE]))
    losses[0] += 0.1
    low, high = fit_scaling_law(x, losses, replicates=300).floor_interval
    below, above = fit_scaling_law(x[1:], losses[1:], replicates=300).floor_interval
    assert low <= below + 0.2 * (above - below)
    assert high >= above - 0.2 * (above - below)
    assert low < 0.7 < high


def test_the_error_of_the_sample_is_no_noise_of_training() -> None:
    """Residuals that the sample explains leave no noise; those beyond it do."""
    losses = law(0.7, 40.0, 0.4, 0.01)
    rng = np.random.default_rng(0)
    alone = fit_scaling_law(X, losses, None, 100).noise
    for error, share in ((0.05, 0.0), (0.0001, 0.99)):
        samples = losses + error * rng.standard_normal((400, len(X)))
        noise = fit_scaling_law(X, losses, samples, 100).noise
        assert noise == pytest.approx(share * alone, rel=0.02)


@pytest.mark.parametrize(
    "losses", [[2.6] * 5, [2.6, 2.61, 2.62, 2.63, 2.64], [2.6, 2.7, 2.5, 3, 2]]
)
def test_losses_that_do_not_fall_have_a_law_without_a_floor(losses: list[float]) -> None:
    """Its numbers are finite, and E is not identified."""
    x = 2.0 ** np.arange(5)
    samples = np.array(losses) + 0.01 * np.random.default_rng(0).standard_normal((50, 5))
    for of_sample in (None, samples):
        fitted = fit_scaling_law(x, np.array(losses), of_sample, 50)
        assert np.isfinite([fitted.floor, *fitted.floor_interval, fitted.noise]).all()
        assert not fitted.identified


@pytest.mark.parametrize(
    ("x", "loss", "words"),
    [
        ([1, 2, 3], [3, 2, 1], ["3 different rungs", "4"]),
        ([1, 2, 3, 3], [3, 2, 1, 1], ["3 different rungs"]),
        ([1, 2, 3, 4], [3, 2, 1], ["shape"]),
        ([1, 2, 3, 4], [3, 2, np.nan, 1], ["loss[2]", "nan"]),
        ([0, 2, 3, 4], [3, 2, 1, 1], ["x[0]", "0.0"]),
    ],
)
def test_ladders_that_say_nothing_are_refused(
    x: list[float], loss: list[float], words: list[str]
) -> None:
    """Too few rungs, and numbers that are no losses."""
    with pytest.raises(InvalidValueError) as refused:
        fit_scaling_law(np.array(x), np.array(loss))
    assert all(word in str(refused.value) for word in words)
