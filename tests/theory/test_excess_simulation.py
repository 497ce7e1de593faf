"""The simulated excess of a fit against its prediction (K - 1)/2N and exact probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from kullback.errors import InvalidValueError
from kullback.theory.excess_simulation import simulate_excess
from kullback.theory.information import kl_divergence


def test_excess_of_the_fit_is_half_a_parameter_a_sample() -> None:
    """K = 20, N = 1000: add-½ excess and training deficit are (K-1)/2N = 0.0095, within 1 %."""
    run = simulate_excess(20, samples=1000, replicates=20_000, rng=np.random.default_rng(0))
    assert run.predicted == 0.0095
    for measured in (run.test_excess_add_half, run.training_deficit):
        assert measured.value == pytest.approx(0.0095, rel=0.01)
        assert measured.standard_error < 0.00003
    assert run.seen_fraction == 1
    assert run.test_excess_given_seen.value == pytest.approx(0.0095, rel=0.025)


def test_the_statistic_tends_to_chi_squared() -> None:
    """2N KL(p̂‖p) has the mean, variance and distribution of χ²(K-1), and ever more so with N."""
    p = np.arange(1, 7) / 21
    gaps = []
    for samples in (20, 200, 20_000):
        run = simulate_excess(p, samples, 20_000, np.random.default_rng(3))
        gaps.append(run.ks_distance)
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2]
    assert gaps[2] < 1.63 / np.sqrt(20_000)  # the 1 % point of Kolmogorov's distribution
    assert run.statistic.mean() == pytest.approx(5, abs=4 * np.sqrt(10 / 20_000))
    assert run.statistic.var() == pytest.approx(10, rel=0.05)
    survival = special.chdtrc(5, np.quantile(run.statistic, 0.95))
    assert survival == pytest.approx(0.05, abs=0.006)


def test_an_unseen_outcome_makes_the_mle_infinitely_bad() -> None:
    """With N = 2K most data sets miss an outcome: the MLE's KL is infinite, add-½'s finite."""
    run = simulate_excess(10, samples=20, replicates=2000, rng=np.random.default_rng(5))
    exact = sum((-1) ** j * special.comb(10, j) * (1 - j / 10) ** 20 for j in range(11))
    assert run.seen_fraction == pytest.approx(exact, abs=4 * np.sqrt(exact / 2000))
    assert kl_divergence(np.full(10, 0.1), [0.2] * 5 + [0.0] * 5) == np.inf
    assert np.isfinite(run.test_excess_add_half.value)
    assert np.isfinite(run.test_excess_given_seen.value)
    none = simulate_excess(10, samples=5, replicates=50, rng=np.random.default_rng(5))
    assert none.seen_fraction == 0
    assert np.isnan(none.test_excess_given_seen.value)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: simulate_excess([0.5, 0.5, 0], 9, 9, np.random.default_rng()),
        r"p is \[0.5, 0.5, 0\]",
    ),
    (lambda: simulate_excess(1, 9, 9, np.random.default_rng()), "p is 1: .*2 outcomes"),
    (lambda: simulate_excess(3, 0, 9, np.random.default_rng()), "samples is 0 and replicates 9"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_input_is_named(call: Callable[[], object], message: str) -> None:
    """A wrong argument raises InvalidValueError with its name, its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        call()
