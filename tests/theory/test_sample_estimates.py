"""Estimates from samples: means, standard errors and coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from kullback.errors import InvalidValueError
from kullback.theory.information import cross_entropy, entropy, kl_divergence
from kullback.theory.sample_estimates import estimate_from_samples


def test_estimates_from_samples_are_means_with_their_errors() -> None:
    """Equal weights give mean and s/√N, and the paired KL is CE - H with a smaller error."""
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(8))
    drawn = rng.choice(8, 4000, p=p)
    log_p, log_q = np.log(p[drawn]), np.log(q[drawn])
    estimates = estimate_from_samples(log_p, log_q)
    assert estimates.entropy.value == pytest.approx(-log_p.mean(), rel=1e-13)
    assert estimates.entropy.standard_error == pytest.approx(stats.sem(-log_p), rel=1e-12)
    difference = estimates.cross_entropy.value - estimates.entropy.value
    assert estimates.kl.value == pytest.approx(difference, rel=1e-12)
    assert estimates.effective_size == pytest.approx(4000)
    for estimate, exact in (
        (estimates.entropy, entropy(p)),
        (estimates.cross_entropy, cross_entropy(p, q)),
        (estimates.kl, kl_divergence(p, q)),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.standard_error


def test_weighted_samples_from_another_law_cover_the_truth() -> None:
    """Importance weights p/r give H, CE and KL of p with errors that 2 of them cover 92-98 %."""
    rng = np.random.default_rng(2)
    p, q, r = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.4])
    exact = (cross_entropy(p, q), entropy(p), kl_divergence(p, q))
    covered = np.zeros(3)
    for _ in range(1000):
        drawn = rng.choice(3, 300, p=r)
        estimates = estimate_from_samples(np.log(p[drawn]), np.log(q[drawn]), (p / r)[drawn])
        for i, (value, error) in enumerate(estimates[:3]):
            covered[i] += abs(value - exact[i]) < 1.96 * error
    assert ((covered > 920) & (covered < 980)).all()


def test_weights_scale_out_and_zero_weight_is_absence() -> None:
    """Only ratios of weights count; weight 0 hides a sample, even one of infinite surprisal."""
    log_p, log_q = np.log([0.5, 0.3, 0.2]), np.array([-1.0, -2.0, -np.inf])
    once = estimate_from_samples(log_p, log_q, [1, 3, 0])
    assert once == estimate_from_samples(log_p, log_q, [2, 6, 0])
    assert once.cross_entropy.value == 1.75
    assert estimate_from_samples(log_p, log_q).kl == (np.inf, np.inf)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: estimate_from_samples([-1.0], [-1.0]), "log_p, log_q .*2 samples"),
    (lambda: estimate_from_samples([-1.0, -np.inf], [-1.0, -1.0]), "sample 1 log_p is -inf"),
    (lambda: estimate_from_samples([-1.0, -1.0], [np.nan, -1.0]), "sample 0 .*log_q nan"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_input_is_named(call: Callable[[], object], message: str) -> None:
    """A wrong argument raises InvalidValueError with its name, its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        call()
