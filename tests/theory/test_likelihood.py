"""Facts about maximum likelihood, estimates from samples, and how far off they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from kullback.errors import InvalidValueError
from kullback.theory.information import cross_entropy, entropy, kl_divergence, log_softmax
from kullback.theory.likelihood import (
    add_half,
    count,
    empirical_distribution,
    estimate_from_samples,
    fit_categorical,
    fit_conditional,
    plug_in_entropy,
    sequence_cross_entropy,
    simulate_excess,
)


def test_counts_and_the_empirical_distribution() -> None:
    """The empirical distribution is the share of each outcome, unseen ones included."""
    labels = [[3, 1], [3, 3]]
    assert count(labels, outcomes=5).tolist() == [0, 1, 0, 3, 0]
    assert empirical_distribution(labels, outcomes=5).tolist() == [0, 0.25, 0, 0.75, 0]


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
def test_three_routes_to_the_maximum_likelihood_agree(counts: list[int]) -> None:
    """Closed form, gradient descent on logits and SciPy's Newton find one q and one minimum."""
    closed = fit_categorical(counts, "closed form")
    descent = fit_categorical(counts, "gradient descent")
    newton = fit_categorical(counts, "scipy")
    np.testing.assert_allclose(descent.probabilities, closed.probabilities, rtol=0, atol=1e-9)
    np.testing.assert_allclose(newton.probabilities, closed.probabilities, rtol=0, atol=1e-9)
    assert closed.cross_entropy == plug_in_entropy(counts)
    for fit in (descent, newton):
        assert fit.cross_entropy == pytest.approx(closed.cross_entropy, abs=1e-13)


def test_the_iterative_routes_do_iterate() -> None:
    """Descent takes the steps its bound predicts, to within 3, and Newton far fewer."""
    counts = [500, 1, 30, 4]
    descent, newton = (fit_categorical(counts, m) for m in ("gradient descent", "scipy"))
    predicted = np.log(1e10) * 535 / 2
    assert predicted / 3 < descent.steps < predicted * 3
    assert 2 < newton.steps < 50
    with pytest.raises(InvalidValueError, match="max_steps is 10: allow more"):
        fit_categorical(counts, "gradient descent", max_steps=10)


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
    """With N = 2K the MLE of most data sets calls something impossible; add-½ stays finite."""
    run = simulate_excess(10, samples=20, replicates=2000, rng=np.random.default_rng(5))
    exact = sum((-1) ** j * special.comb(10, j) * (1 - j / 10) ** 20 for j in range(11))
    assert run.seen_fraction == pytest.approx(exact, abs=4 * np.sqrt(exact / 2000))
    assert kl_divergence(np.full(10, 0.1), [0.2] * 5 + [0.0] * 5) == np.inf
    assert np.isfinite(run.test_excess_add_half.value)
    assert np.isfinite(run.test_excess_given_seen.value)
    none = simulate_excess(10, samples=5, replicates=50, rng=np.random.default_rng(5))
    assert none.seen_fraction == 0
    assert np.isnan(none.test_excess_given_seen.value)


def test_add_half() -> None:
    """Each count gets half a sample more: a coin that fell heads 3 times of 3 keeps tails at ⅛."""
    np.testing.assert_array_equal(add_half([[3, 0], [0, 0]]), [[0.875, 0.125], [0.5, 0.5]])


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: count([[0, 1], [3, 0]], 3), "labels[1, 0] is 3: it must be an integer in [0, 3)"),
    (lambda: count([-1], 3), "labels[0] is -1: it must be an integer in [0, 3)"),
    (lambda: count([0.5], 3), "labels has dtype float64: it must hold integers"),
    (lambda: empirical_distribution([], 3), "at least one weight must be positive"),
    (lambda: fit_categorical([1, 2], "adam"),  # type: ignore[arg-type]
     "method is 'adam': it must be 'closed form', 'gradient descent' or 'scipy'"),
    (lambda: fit_conditional([0, 1], [0], input_values=2, outcomes=2),
     "inputs has shape (2,), labels (1,): they must agree"),
    (lambda: sequence_cross_entropy([]), "token_log_probs is empty"),
    (lambda: sequence_cross_entropy([-1, np.nan]), "token_log_probs[1] is nan"),
    (lambda: sequence_cross_entropy([-1, 0.5]), "token_log_probs[1] is 0.5: a log-probability"),
    (lambda: estimate_from_samples([-1.0], [-1.0]), "with at least 2 samples"),
    (lambda: estimate_from_samples([-1.0, -np.inf], [-1.0, -1.0]), "at sample 1 log_p is -inf"),
    (lambda: estimate_from_samples([-1.0, -1.0], [np.nan, -1.0]), "at sample 0 log_p is -1.0 and"),
    (lambda: simulate_excess([0.5, 0.5, 0], 9, 9, np.random.default_rng()), "none impossible"),
    (lambda: simulate_excess(1, 9, 9, np.random.default_rng()), "at least 2 outcomes"),
    (lambda: simulate_excess(3, 0, 9, np.random.default_rng()), "samples is 0 and replicates 9"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_input_is_named(call: Callable[[], object], message: str) -> None:
    """A wrong argument raises InvalidValueError that says what it was and what it must be."""
    with pytest.raises(InvalidValueError) as caught:
        call()
    assert message in str(caught.value)
