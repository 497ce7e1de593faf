"""Facts about maximum likelihood, estimates from samples, and how far off they are."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from kullback.errors import InvalidValueError
from kullback.information import cross_entropy, entropy, kl_divergence, log_softmax
from kullback.likelihood import (
    add_half,
    chao_shen_entropy,
    count,
    empirical_distribution,
    estimate_from_samples,
    fit_categorical,
    fit_conditional,
    grassberger_entropy,
    miller_madow_entropy,
    nsb_entropy,
    plug_in_entropy,
    sequence_cross_entropy,
    simulate_excess,
)

#: A sample of 19 with 2 singletons among 11 outcomes, 3 unseen: the example of the R package
#: `entropy` (Hausser and Strimmer, 2009), whose pages print what several estimators make of it.
COUNTS = [4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]

#: Beetles by day, Osa primary hill, dry season 1967 (Janzen, 1973), an example of Chao and Shen
#: (2003): 127 of 78 species, 59 of which were seen once.
BEETLES = [1] * 59 + [2] * 9 + [3] * 3 + [4] * 2 + [5] * 2 + [6] * 2 + [11]


def expectation(estimator: Callable[[list[int]], float], p: float, samples: int) -> float:
    """The exact mean of an estimator over all samples of a coin that falls 1 with probability p."""
    return float(
        sum(
            stats.binom.pmf(heads, samples, p) * estimator([samples - heads, heads])
            for heads in range(samples + 1)
        )
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


def test_plug_in_and_miller_madow_biases() -> None:
    """Over all samples of a coin the plug-in is low by 1/2N; Miller and Madow remove that."""
    p, samples = 0.3, 200
    h = float(entropy([1 - p, p]))
    plug_in = expectation(plug_in_entropy, p, samples) - h
    corrected = expectation(miller_madow_entropy, p, samples) - h
    # The next term of Miller's expansion is (1 - Σ 1/pᵢ) / 12N².
    second = (1 - 1 / p - 1 / (1 - p)) / (12 * samples**2)
    assert plug_in == pytest.approx(-1 / (2 * samples) + second, abs=2e-7)
    assert corrected == pytest.approx(second, abs=2e-7)


def test_grassberger_follows_the_published_recurrence() -> None:
    """G(1) = -γ - log 2, G(2) = 2 + G(1), G(2n+1) = G(2n), G(2n+2) = G(2n) + 2/(2n+1)."""
    g = {1: -np.euler_gamma - np.log(2), 2: 2 - np.euler_gamma - np.log(2)}
    for n in range(1, 40):
        g[2 * n + 1] = g[2 * n]
        g[2 * n + 2] = g[2 * n] + 2 / (2 * n + 1)
    for counts in (COUNTS, [1, 1, 1], [7], list(range(80))):
        total = sum(counts)
        expected = np.log(total) - sum(n * g[n] for n in counts if n) / total
        assert grassberger_entropy(counts) == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("p", [[0.3, 0.7], np.arange(1, 31) / 465])
def test_grassberger_bias_does_not_grow_with_outcomes(p: list[float]) -> None:
    """Its exact mean over binomial counts is high by log N - ψ(N), for 2 outcomes and for 30."""
    samples = 5000
    n = np.arange(samples + 1)
    terms = np.zeros(
        samples + 1
    )  # (k/N) (log N - G(k)), from the estimate of k samples of one kind
    terms[1:] = [k / samples * (grassberger_entropy([int(k)]) + np.log(samples / k)) for k in n[1:]]
    mean = sum(stats.binom.pmf(n, samples, chance) @ terms for chance in p)
    bias = np.log(samples) - special.digamma(samples)
    assert mean - entropy(p) == pytest.approx(bias, rel=1e-4)
    assert bias == pytest.approx(1 / (2 * samples), rel=1e-3)


def test_chao_shen_against_its_formula() -> None:
    """Coverage 1 - f₁/N shrinks p̂, and each term is divided by its chance to be seen at all."""
    with mpmath.workdps(40):
        coverage = 1 - mpmath.mpf(2) / 19
        expected = mpmath.mpf(0)
        for n in COUNTS:
            if n:
                p = coverage * n / 19
                expected -= p * mpmath.log(p) / (1 - (1 - p) ** 19)
    assert chao_shen_entropy(COUNTS) == pytest.approx(float(expected), rel=1e-14)
    assert chao_shen_entropy([5]) == chao_shen_entropy([1]) == 0
    assert np.isfinite(chao_shen_entropy([1, 1, 1, 1]))


def test_chao_shen_helps_where_data_are_few() -> None:
    """With 60 samples of 100 equal outcomes the mean error is a quarter of the plug-in's."""
    rng = np.random.default_rng(4)
    samples = rng.multinomial(60, np.full(100, 0.01), size=300)
    errors = {
        estimator: abs(np.mean([estimator(row) for row in samples]) - np.log(100))
        for estimator in (plug_in_entropy, miller_madow_entropy, chao_shen_entropy)
    }
    assert errors[chao_shen_entropy] < errors[plug_in_entropy] / 4
    assert errors[chao_shen_entropy] < errors[miller_madow_entropy]


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        # The program nsb-entropy of Nemenman, as printed on R's page of entropy.NSB.
        (COUNTS, 2.187774),
        # The package ndd (Marsili), the READMEs of its versions 1.0 and 1.6.1.
        ([7, 3, 5, 8, 9, 1, 3, 3, 1, 0, 2, 5, 2, 11, 4, 23, 5, 0, 8, 0], 2.623634344888532),
        (
            [12, 4, 12, 4, 5, 3, 1, 5, 1, 2, 2, 2, 2, 11, 3, 4, 12, 12, 1, 2] + [0] * 80,
            2.840012048914245,
        ),
    ],
)
def test_nsb_against_published_values(counts: list[int], published: float) -> None:
    """NSB gives what the reference program and the package ndd print for their own examples."""
    assert nsb_entropy(counts) == pytest.approx(published, abs=5e-7 if counts is COUNTS else 1e-9)


def test_counts_of_species_against_another_package() -> None:
    """On Janzen's beetles Chao-Shen and Miller-Madow are the package infomeasure's (0.6.3)."""
    assert (len(BEETLES), sum(BEETLES)) == (78, 127)
    assert chao_shen_entropy(BEETLES) == pytest.approx(4.6992908953018535, rel=1e-14)
    assert miller_madow_entropy(BEETLES) == pytest.approx(4.380196098325435, rel=1e-14)
    assert chao_shen_entropy(COUNTS) == pytest.approx(2.201137101279585, rel=1e-14)
    assert miller_madow_entropy(COUNTS) == pytest.approx(2.152592935044171, rel=1e-14)


def test_the_plug_in_of_three_tosses() -> None:
    """Three tosses of a fair coin have a mean plug-in entropy of 0.689 bits (Grassberger, 2003)."""
    assert round(expectation(plug_in_entropy, 0.5, 3) / np.log(2), 3) == 0.689


@pytest.mark.parametrize("counts", [COUNTS, [1, 0], [50, 20, 3]])
def test_nsb_against_quadrature(counts: list[int]) -> None:
    """The NSB mean is the ratio of two integrals over ξ, here by adaptive quadrature in mpmath."""
    k, n = len(counts), sum(counts)

    def weight(t: mpmath.mpf) -> mpmath.mpf:
        b = mpmath.exp(t)
        density = k * mpmath.psi(1, k * b + 1) - mpmath.psi(1, b + 1)
        rising = [mpmath.rf(b, c) for c in counts]
        return density * b * mpmath.fprod(rising) / mpmath.rf(k * b, n)

    def weighted_mean(t: mpmath.mpf) -> mpmath.mpf:
        b = mpmath.exp(t)
        terms = [(c + b) / (n + k * b) * mpmath.psi(0, c + b + 1) for c in counts]
        return weight(t) * (mpmath.psi(0, n + k * b + 1) - mpmath.fsum(terms))

    with mpmath.workdps(30):
        pieces = mpmath.linspace(-30, 25, 23)
        expected = mpmath.quad(weighted_mean, pieces) / mpmath.quad(weight, pieces)
    assert nsb_entropy(counts) == pytest.approx(float(expected), rel=1e-9)


def test_nsb_without_data_is_the_prior() -> None:
    """Before any sample the entropy is uniform on [0, log K], so its mean is half of log K."""
    for k in (2, 5, 100):
        assert nsb_entropy([0] * k) == pytest.approx(np.log(k) / 2, rel=1e-8)
    assert nsb_entropy([9]) == 0
    assert nsb_entropy([40_000, 60_000]) == pytest.approx(float(entropy([0.4, 0.6])), abs=1e-5)


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
    (lambda: plug_in_entropy([3, -1]), "counts[1] is -1: a count must be a whole number"),
    (lambda: chao_shen_entropy([2.5, 1]), "counts[0] is 2.5: a count must be a whole number"),
    (lambda: nsb_entropy([np.inf, 1]), "counts[0] is inf: a count must be a whole number"),
    (lambda: grassberger_entropy([[1]]), "counts has shape (1, 1) and dtype int64: it must be"),
    (lambda: plug_in_entropy([0, 0]), "counts holds no sample"),
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
