"""Identities and inequalities of the information measures, on inputs from hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_information import MEASURES

from kullback.theory.information import (
    decompose,
    entropy,
    jensen_shannon,
    kl_divergence,
    normalise,
    total_variation,
)


def distributions(n: int) -> st.SearchStrategy[np.ndarray]:
    """Distributions over n outcomes, some of them impossible."""
    weight = st.floats(1e-6, 1) | st.just(0.0)
    return (
        st.lists(weight, min_size=n, max_size=n)
        .filter(lambda weights: sum(weights) > 0)
        .map(normalise)
    )


PAIRS = st.integers(1, 12).flatmap(lambda n: st.tuples(distributions(n), distributions(n)))


@given(PAIRS)
def test_the_decomposition_identity(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Cross-entropy is entropy plus KL, to 1e-12."""
    parts = decompose(*pair)
    if np.isinf(parts.cross_entropy):
        assert np.isinf(parts.kl)
    else:
        assert abs(parts.cross_entropy - parts.entropy - parts.kl) <= 1e-12


@given(PAIRS)
def test_gibbs_inequality(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """KL is never below zero, and is zero for p against itself; so JS, which log 2 also bounds."""
    p, q = pair
    assert kl_divergence(p, q) >= 0
    assert (kl_divergence(p, q) == 0) == np.array_equal(p, q)
    assert kl_divergence(p, p) == jensen_shannon(p, p) == 0
    assert 0 <= jensen_shannon(p, q) <= np.log(2) * (1 + 1e-15)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), rel=1e-15, abs=1e-300)


@given(PAIRS)
def test_pinskers_inequality(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The total variation is at most sqrt(KL / 2) and 1, and symmetric; 1 - TV is Σ min(p, q)."""
    p, q = pair
    tv = total_variation(p, q)
    assert 0 <= tv <= 1 + 1e-15
    assert tv <= np.sqrt(kl_divergence(p, q) / 2) * (1 + 1e-12)
    assert tv == total_variation(q, p)
    assert 1 - tv == pytest.approx(np.minimum(p, q).sum(), abs=1e-12)


@given(PAIRS, st.randoms(use_true_random=False))
def test_permutations_change_nothing(
    pair: tuple[np.ndarray, np.ndarray], random: "np.random.RandomState"
) -> None:
    """The measures do not depend on the order of the outcomes."""
    p, q = pair
    order = list(range(len(p)))
    random.shuffle(order)
    for call in MEASURES.values():
        assert call(p[order], q[order]) == pytest.approx(call(p, q), rel=1e-14)


@given(distributions(6), distributions(6))
def test_the_chain_rule(p: np.ndarray, q: np.ndarray) -> None:
    """KL of a joint is KL of its marginal plus the mean KL of its conditionals; so for H."""
    joint_p, joint_q = p.reshape(2, 3), q.reshape(2, 3)
    marginal_p, marginal_q = normalise(joint_p.sum(1)), normalise(joint_q.sum(1))
    assume((marginal_p > 0).all() and (marginal_q > 0).all())
    rows_p, rows_q = normalise(joint_p), normalise(joint_q)
    kl = kl_divergence(marginal_p, marginal_q) + marginal_p @ kl_divergence(rows_p, rows_q)
    assert kl == pytest.approx(kl_divergence(p, q), abs=1e-12)
    h = entropy(marginal_p) + marginal_p @ entropy(rows_p)
    assert h == pytest.approx(entropy(p), abs=1e-12)


@given(distributions(5), distributions(5), st.lists(distributions(3), min_size=5, max_size=5))
def test_data_processing(p: np.ndarray, q: np.ndarray, channel: list[np.ndarray]) -> None:
    """Passing both through the same noisy channel can only bring them closer."""
    received_p, received_q = normalise(p @ np.array(channel)), normalise(q @ np.array(channel))
    assert kl_divergence(received_p, received_q) <= kl_divergence(p, q) * (1 + 1e-12) + 1e-15


@given(
    distributions(5), distributions(5), distributions(5), distributions(5), st.floats(0.01, 0.99)
)
def test_joint_convexity(
    p: np.ndarray, q: np.ndarray, other_p: np.ndarray, other_q: np.ndarray, t: float
) -> None:
    """KL of a mixture of pairs is at most the mixture of their KLs; H is concave."""
    mixed_p, mixed_q = t * p + (1 - t) * other_p, t * q + (1 - t) * other_q
    mixture = t * kl_divergence(p, q) + (1 - t) * kl_divergence(other_p, other_q)
    assert kl_divergence(mixed_p, mixed_q) <= mixture * (1 + 1e-12) + 1e-14
    assert entropy(mixed_p) >= t * entropy(p) + (1 - t) * entropy(other_p) - 1e-14


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_the_three_forms_agree(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Probabilities, their logarithms, and the same as logits give the same nats."""
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(pair[0]), np.log(pair[1])
    for call in MEASURES.values():
        expected = pytest.approx(call(*pair), rel=1e-11, abs=1e-14)
        assert call(log_p, log_q, given="log_probs") == expected
        assert call(log_p + 1, log_q - 1, given="logits") == expected
