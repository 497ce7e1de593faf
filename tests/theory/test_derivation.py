"""Each step of the derivation against the theory, and the errors for wrong distributions."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kullback.errors import InvalidValueError
from kullback.theory.chain_rule import END
from kullback.theory.derivation import (
    DEFAULT_P,
    DEFAULT_Q,
    Derivation,
    derive,
    distribution_from_text,
)
from kullback.theory.information import cross_entropy, entropy, kl_divergence, normalise


@pytest.fixture(scope="module")
def derivation() -> Derivation:
    """The derivation of the default distributions."""
    return derive()


def test_the_worked_example(derivation: Derivation) -> None:
    """A point mass against (0.6, 0.1, 0.1, 0.1, 0.1): H = 0, KL = CE = log(5/3) ≈ 0.511."""
    example = derivation.example
    assert (example.p, example.q) == ([1, 0, 0, 0, 0], [0.6, 0.1, 0.1, 0.1, 0.1])
    assert example.entropy == 0
    assert example.kl == pytest.approx(math.log(5 / 3), rel=1e-15)
    assert example.cross_entropy == pytest.approx(-math.log(0.6), rel=1e-15)
    assert round(example.cross_entropy, 3) == round(example.kl, 3) == 0.511
    assert abs(example.residual) < 2e-16
    assert example.surprisals_p == [0, math.inf, math.inf, math.inf, math.inf]
    assert example.reverse_kl == example.reverse_cross_entropy == math.inf
    assert example.perplexity_q == pytest.approx(5 / 3, rel=1e-15)


def test_own_distributions_are_asymmetric_and_add_up(derivation: Derivation) -> None:
    """CE = H + KL to the last digits, and neither CE nor KL is symmetric."""
    own = derivation.own
    assert (tuple(own.p), tuple(own.q)) == (DEFAULT_P, DEFAULT_Q)
    assert own.cross_entropy == pytest.approx(own.entropy + own.kl, rel=1e-15)
    assert own.kl != pytest.approx(own.reverse_kl, rel=0.01)
    assert own.cross_entropy != pytest.approx(own.reverse_cross_entropy, rel=0.01)
    np.testing.assert_allclose(np.exp(np.negative(own.surprisals_p)), own.p, rtol=1e-15)


def test_no_random_model_goes_below_the_entropy(derivation: Derivation) -> None:
    """The smallest KL of 4,000 tries is positive, and the median falls as the distance squared."""
    rows = derivation.gibbs
    assert all(0 < row.smallest_kl < row.median_kl for row in rows)
    assert all(row.smallest_cross_entropy > derivation.own.entropy for row in rows)
    for far, near in pairwise(rows[1:]):
        assert far.median_kl / near.median_kl == pytest.approx(100, rel=0.15)


def test_the_mean_log_likelihood_is_the_empirical_cross_entropy(derivation: Derivation) -> None:
    """Sample by sample and from the counts it is one number; three fits reach its minimum."""
    step = derivation.likelihood
    assert sum(step.counts) == step.samples == 1000
    np.testing.assert_allclose(step.empirical, np.array(step.counts) / 1000, rtol=1e-15)
    assert step.mean_negative_log_likelihood == pytest.approx(
        step.empirical_cross_entropy, rel=1e-14
    )
    assert step.empirical_cross_entropy == cross_entropy(step.empirical, DEFAULT_Q)
    assert step.empirical_cross_entropy > step.empirical_entropy
    assert [fit.steps > 0 for fit in step.fits] == [False, True, True]
    for fit in step.fits:
        assert fit.cross_entropy == pytest.approx(step.empirical_entropy, rel=1e-14)
        np.testing.assert_allclose(fit.probabilities, step.empirical, atol=1e-9)
    assert 0 < step.largest_disagreement < 1e-9


def test_the_conditional_likelihood_is_an_average_over_inputs(derivation: Derivation) -> None:
    """Pair by pair and averaged with p̂(x) it is one number, above H(Y|X), which is below H(Y)."""
    step = derivation.conditional
    assert step.mean_negative_log_likelihood == pytest.approx(
        step.averaged_cross_entropy, rel=1e-14
    )
    assert step.conditional_entropy < step.averaged_cross_entropy
    averaged = np.dot(step.input_weights, step.input_entropies)
    assert step.conditional_entropy == pytest.approx(averaged, rel=1e-14)
    mixed = (np.array(DEFAULT_P) + DEFAULT_P[::-1]) / 2
    expected = float(entropy(mixed) - entropy(DEFAULT_P))
    assert step.information == pytest.approx(expected, abs=0.05)


def test_five_gradients_agree(derivation: Derivation) -> None:
    """NumPy, autograd, complex steps and central differences give q - onehot."""
    step = derivation.gradient
    assert step.label == 0
    assert step.loss == pytest.approx(-math.log(0.6), rel=1e-15)
    np.testing.assert_allclose(step.q_minus_onehot, [-0.4, 0.1, 0.1, 0.1, 0.1], rtol=1e-15)
    for gradient, tolerance in (
        (step.numpy, 1e-15),
        (step.autograd, 1e-15),
        (step.complex_step, 1e-15),
        (step.central_difference, 1e-10),
    ):
        np.testing.assert_allclose(gradient, step.q_minus_onehot, rtol=0, atol=tolerance)
    assert step.largest_error_of_autograd < 1e-15
    assert 0 < step.largest_error_of_central_difference < 1e-10
    difference = np.subtract(DEFAULT_Q, DEFAULT_P)
    np.testing.assert_allclose(step.mean_gradient, difference, rtol=0, atol=1e-15)
    assert math.fsum(step.autograd) == pytest.approx(0, abs=1e-15)


def test_the_excess_falls_as_half_a_parameter_a_sample(derivation: Derivation) -> None:
    """From N = 300 on both excesses are (K - 1)/2N within 5 errors, and 2N KL has χ²(4)'s mean."""
    rows = derivation.asymptotics
    assert [row.samples for row in rows] == [10, 30, 100, 300, 1000, 3000, 10_000, 30_000]
    assert derivation.degrees_of_freedom == 4
    for row in rows:
        assert row.predicted == 4 / (2 * row.samples)
        assert row.training_gain == pytest.approx(row.statistic_mean / (2 * row.samples))
    for row in rows[3:]:
        assert abs(row.test_excess - row.predicted) < 5 * row.test_excess_error
        assert abs(row.training_gain - row.predicted) < 5 * row.training_gain_error
        assert row.test_excess_error < 0.04 * row.predicted
        assert row.statistic_variance == pytest.approx(8, rel=0.2)
        assert row.seen_fraction == 1
    exact = 1 - sum((1 - p) ** 10 for p in DEFAULT_P)  # the first term of inclusion-exclusion
    assert exact < rows[0].seen_fraction < 0.5


def test_a_sentence_factorises(derivation: Derivation) -> None:
    """The truth's surprisals sum to -log p(sentence); the uniform model has log V per token."""
    step = derivation.sequence
    assert [row.token for row in step.tokens] == ["yesterday", "she", "went", END]
    assert step.totals["truth"] == pytest.approx(-math.log(0.2), rel=1e-15)
    assert step.sentence_log_prob == math.log(0.2)
    assert step.totals["bigram"] == pytest.approx(-math.log(0.4 * 0.5 * 0.6), rel=1e-15)
    assert step.per_token["uniform"] == pytest.approx(math.log(9), rel=1e-15)
    assert step.perplexities["uniform"] == pytest.approx(9, rel=1e-14)
    assert step.perplexities["truth"] == pytest.approx(0.2 ** (-1 / 4), rel=1e-15)
    # After "yesterday she" the truth is a point mass and the model gives 0.6: the worked example.
    went = step.tokens[2]
    assert went.entropy == 0
    assert went.kl == pytest.approx(math.log(5 / 3), rel=1e-14)
    assert step.entropy_after["once she"] == pytest.approx(float(entropy([2 / 3, 1 / 3])))
    assert round(derivation.untrained_600, 1) == 6.4


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=6).filter(any),
    st.lists(st.integers(0, 5), min_size=6, max_size=6).filter(lambda w: any(w[:2])),
    st.integers(0, 5),
)
def test_any_pair_of_distributions_can_be_derived(
    p_weights: list[int], q_weights: list[int], seed: int
) -> None:
    """Zeros at any place give infinities where they belong, and data for JSON."""
    p, q = normalise(p_weights), normalise(q_weights[: len(p_weights)])
    derivation = derive(p.tolist(), q.tolist(), seed)
    assert derivation.own.kl == kl_divergence(p, q)
    impossible = bool(((p > 0) & (q == 0)).any())
    assert math.isinf(derivation.own.kl) == impossible == math.isnan(derivation.own.residual)
    assert bool(derivation.gradient.mean_gradient) != impossible
    assert derivation.degrees_of_freedom == np.count_nonzero(p) - 1
    assert len(derivation.asymptotics) == (8 if np.count_nonzero(p) > 1 else 0)
    assert json.loads(json.dumps(asdict(derivation)))["seed"] == seed


def test_a_seed_fixes_everything_random(derivation: Derivation) -> None:
    """The same seed gives the same numbers, and another one other samples."""
    assert asdict(derive()) == asdict(derivation)
    other = derive(seed=1)
    assert other.likelihood.counts != derivation.likelihood.counts
    assert other.gradient == derivation.gradient


def test_without_q_the_model_is_uniform() -> None:
    """`derive(p)` compares p with the uniform distribution over as many outcomes."""
    assert derive([0.75, 0.25]).own.q == [0.5, 0.5]


def test_wrong_arrays_are_refused() -> None:
    """Negative values and sums other than 1 raise an error that names their place."""
    with pytest.raises(InvalidValueError, match=r"p\[1\] is -0.5"):
        derive([1.0, -0.5, 0.5], [0.5, 0.5, 0.0])
    with pytest.raises(InvalidValueError, match=r"q sums to 0\.75"):
        derive([0.5, 0.5], [0.5, 0.25])
    assert distribution_from_text("p", "1/3,1/3,1/3") == [1 / 3] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5,0.6", "--p sums to 1.1"),
        ("0.5,x", r"--p\[1\] is 'x'"),
        ("1/0,1", r"--p\[0\] is '1/0'"),
        ("1.5,-0.5", r"--p\[0\] is 1.5"),
    ],
)
def test_wrong_text_is_refused(text: str, message: str) -> None:
    """A part that is not a probability, or a sum other than 1, raises an error that names it."""
    with pytest.raises(InvalidValueError, match=message):
        distribution_from_text("--p", text)


def test_the_number_of_outcomes_is_checked() -> None:
    """A single outcome, and p and q of different sizes, raise an error with both sizes."""
    with pytest.raises(InvalidValueError, match=r"p has shape \(1,\).*2 to 64"):
        derive([1.0])
    with pytest.raises(InvalidValueError, match="p has 2 outcomes and q 3"):
        derive([0.5, 0.5], [1.0, 0.0, 0.0])
    with pytest.raises(InvalidValueError, match="seed is -1"):
        derive(seed=-1)


def test_a_sum_above_one_by_less_than_the_tolerance_is_a_distribution():
    """NumPy's multinomial refuses it, although it is 1 within 1e-9."""
    rows = derive([0.5, 0.5 + 5e-10, 1e-13], [0.5, 0.25, 0.25]).asymptotics
    assert [row.predicted * row.samples for row in rows] == pytest.approx([1.0] * len(rows))
