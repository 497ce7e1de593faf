"""Estimators of entropy against published values, exact expectations and quadrature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from scipy import special, stats

from kullback.errors import InvalidValueError
from kullback.theory import likelihood
from kullback.theory.entropy_estimators import (
    chao_shen_entropy,
    grassberger_entropy,
    miller_madow_entropy,
    nsb_entropy,
    plug_in_entropy,
)
from kullback.theory.information import entropy

#: A sample of 19 with 2 singletons among 11 outcomes, 3 unseen: the example of the R package
#: `entropy` (Hausser and Strimmer, 2009), whose pages print several estimates.
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
    # (k/N) (log N - G(k)), from the estimate for k samples of a single outcome.
    terms = np.zeros(samples + 1)
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
    k, n, distinct = len(counts), sum(counts), Counter(counts)

    def weight_and_mean(t: mpmath.mpf) -> mpmath.mpc:
        """The weight of β = exp(t), and i times the weighted mean entropy given β."""
        b = mpmath.exp(t)
        density = k * mpmath.psi(1, k * b + 1) - mpmath.psi(1, b + 1)
        rising = mpmath.fprod(mpmath.rf(b, c) ** times for c, times in distinct.items())
        weight = density * b * rising / mpmath.rf(k * b, n)
        terms = [times * (c + b) * mpmath.psi(0, c + b + 1) for c, times in distinct.items()]
        mean = mpmath.psi(0, n + k * b + 1) - mpmath.fsum(terms) / (n + k * b)
        return weight * mpmath.mpc(1, mean)

    with mpmath.workdps(30):
        integral = mpmath.quad(weight_and_mean, mpmath.linspace(-30, 25, 23))
    assert nsb_entropy(counts) == pytest.approx(float(integral.imag / integral.real), rel=1e-9)


def test_nsb_without_data_is_the_prior() -> None:
    """Before any sample the entropy is uniform on [0, log K], so its mean is half of log K."""
    for k in (2, 5, 100):
        assert nsb_entropy([0] * k) == pytest.approx(np.log(k) / 2, rel=1e-8)
    assert nsb_entropy([9]) == 0
    assert nsb_entropy([40_000, 60_000]) == pytest.approx(float(entropy([0.4, 0.6])), abs=1e-5)


def test_likelihood_exports_the_estimators() -> None:
    """They can be imported from `kullback.theory.likelihood` too."""
    for estimator in (plug_in_entropy, miller_madow_entropy, chao_shen_entropy, nsb_entropy):
        assert getattr(likelihood, estimator.__name__) is estimator


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: plug_in_entropy([3, -1]), r"counts\[1\] is -1"),
    (lambda: chao_shen_entropy([2.5, 1]), r"counts\[0\] is 2.5"),
    (lambda: nsb_entropy([np.inf, 1]), r"counts\[0\] is inf"),
    (lambda: grassberger_entropy([[1]]), r"counts .*\(1, 1\).*int64"),
    (lambda: plug_in_entropy([0, 0]), "counts .*positive"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_counts_are_named(call: Callable[[], object], message: str) -> None:
    """A wrong count raises InvalidValueError with its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        call()
