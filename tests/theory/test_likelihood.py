"""Maximum likelihood: fits by three methods, conditional fits, and sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kullback.errors import InvalidValueError
from kullback.theory.information import cross_entropy, entropy, kl_divergence, log_softmax
from kullback.theory.likelihood import (
    count,
    empirical_distribution,
    fit_categorical,
    fit_conditional,
    plug_in_entropy,
    sequence_cross_entropy,
)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_likelihood_is_cross_entropy(labels: list[int], logits: list[float]) -> None:
    """The mean negative log-likelihood of any q is H(p̂, q), and its minimum is H(p̂)."""
    log_q = log_softmax(logits)
    mean_nll = -np.mean(log_q[labels])
    empirical = empirical_distribution(labels, outcomes=4)
    assert mean_nll == pytest.approx(cross_entropy(empirical, np.exp(log_q)), rel=1e-12)
    assert fit_categorical(count(labels, 4)).cross_entropy <= mean_nll * (1 + 1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
def test_three_methods_of_maximum_likelihood_agree(counts: list[int]) -> None:
    """Closed form, gradient descent on logits and SciPy's Newton give the same q and minimum."""
    closed = fit_categorical(counts, "closed form")
    descent = fit_categorical(counts, "gradient descent")
    newton = fit_categorical(counts, "scipy")
    np.testing.assert_allclose(descent.probabilities, closed.probabilities, rtol=0, atol=1e-9)
    np.testing.assert_allclose(newton.probabilities, closed.probabilities, rtol=0, atol=1e-9)
    assert closed.cross_entropy == plug_in_entropy(counts)
    for fit in (descent, newton):
        assert fit.cross_entropy == pytest.approx(closed.cross_entropy, abs=1e-13)


def test_the_iterative_methods_iterate() -> None:
    """Descent takes the steps its bound predicts, to within 3, and Newton far fewer."""
    counts = [500, 1, 30, 4]
    descent, newton = (fit_categorical(counts, m) for m in ("gradient descent", "scipy"))
    predicted = np.log(1e10) * 535 / 2
    assert predicted / 3 < descent.steps < predicted * 3
    assert 2 < newton.steps < 50


def test_conditional_likelihood_is_an_average_over_inputs() -> None:
    """Mean NLL of a table is Σ p̂(x) H(p̂(·|x), q(·|x)), least at p̂(y|x), where it is H(Y|X)."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    fit = fit_conditional(x, y, input_values=4, outcomes=4)
    assert fit.cross_entropy == pytest.approx(-np.mean(np.log(fit.probabilities[x, y])), rel=1e-13)
    joint = np.zeros((4, 4))
    np.add.at(joint, (x, y), 1 / 500)
    chain_rule = entropy(joint.ravel()) - entropy(joint.sum(1))
    assert fit.cross_entropy == pytest.approx(chain_rule, rel=1e-12)
    assert np.isnan(fit.probabilities[3]).all()
    assert np.isnan(fit.input_cross_entropies[3])
    assert fit.input_weights[3] == 0
    other = rng.dirichlet(np.ones(4), 4)
    mean_nll = -np.mean(np.log(other[x, y]))
    rows = fit.probabilities[:3]
    averaged = fit.input_weights[:3] @ cross_entropy(rows, other[:3])
    assert mean_nll == pytest.approx(averaged, rel=1e-13)
    excess = fit.input_weights[:3] @ kl_divergence(rows, other[:3])
    assert mean_nll - fit.cross_entropy == pytest.approx(excess, rel=1e-11)


def test_sequence_cross_entropy() -> None:
    """The total adds up over tokens, and the perplexity is the geometric mean of 1/q."""
    cost = sequence_cross_entropy(np.log([0.5, 0.125, 1.0]))
    assert cost.total == pytest.approx(np.log(16), rel=1e-15)
    assert cost.tokens == 3
    assert cost.per_token == cost.total / 3
    assert cost.perplexity == pytest.approx(16 ** (1 / 3), rel=1e-15)
    uniform = sequence_cross_entropy(np.full(50, -np.log(600)))
    assert uniform.perplexity == pytest.approx(600, rel=1e-13)
    assert round(uniform.per_token, 1) == 6.4
    impossible = sequence_cross_entropy([-1.0, -np.inf])
    assert (impossible.total, impossible.perplexity) == (np.inf, np.inf)
    assert sequence_cross_entropy([-1e4]).perplexity == np.inf


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: fit_categorical([1, 2], "adam"), "method is 'adam'.*'closed form'"),  # type: ignore[arg-type]
    (lambda: fit_categorical([500, 1], "gradient descent", max_steps=10), "max_steps is 10"),
    (lambda: fit_categorical([0, 0]), "counts .*positive"),
    (
        lambda: fit_conditional([0, 1], [0], input_values=2, outcomes=2),
        r"inputs .*\(2,\).*labels .*\(1,\)",
    ),
    (lambda: sequence_cross_entropy([]), "token_log_probs is empty"),
    (lambda: sequence_cross_entropy([-1, np.nan]), r"token_log_probs\[1\] is nan"),
    (lambda: sequence_cross_entropy([-1, 0.5]), r"token_log_probs\[1\] is 0.5"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_input_is_named(call: Callable[[], object], message: str) -> None:
    """A wrong argument raises InvalidValueError with its name, its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        call()
