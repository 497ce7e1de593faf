"""Estimators of the entropy from counts: the plug-in, and corrections of its bias.

With N samples of K outcomes the entropy of the empirical distribution, H(p̂), is too low by about
(K - 1)/2N, because p̂ is fitted to the samples on which it is measured.  As long as N is not much
larger than K this matters, and most of the correction is about outcomes that have not been seen:

============  =====================================================  ==============================
estimator     idea                                                   remaining bias
============  =====================================================  ==============================
plug-in       H(p̂)                                                   -(K - 1)/2N + O(1/N²)
Miller-Madow  add (outcomes seen - 1)/2N                             O(1/N²) once all are seen
Chao-Shen     discount by the coverage, weight by 1/P(seen)          small for N ≈ K, either sign
Grassberger   replace log n by what is unbiased for Poisson counts   about 1/2N, for any K
NSB           average over a prior that is flat in the entropy       zero on average over that prior
============  =====================================================  ==============================

No estimator is unbiased for every p (Paninski, 2003).  ``counts`` has shape (K,); results are in
nats.  Zeros are ignored except by NSB, which needs them to know the number of outcomes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kullback.theory._validation import counts_as_floats, positive_counts
from kullback.theory.information import entropy, normalise

__all__ = [
    "chao_shen_entropy",
    "grassberger_entropy",
    "miller_madow_entropy",
    "nsb_entropy",
    "plug_in_entropy",
]


def plug_in_entropy(counts: ArrayLike) -> float:
    """H(p̂), the maximum-likelihood estimate: biased by -(K - 1)/2N + O(1/N²) (Miller, 1955).

    ``counts`` has shape (K,); the result is in nats.  Raises InvalidValueError for a count that is
    negative or not a whole number, and for counts without any sample.

    >>> round(plug_in_entropy([2, 1, 1]), 6)
    1.039721
    """
    return float(entropy(normalise(positive_counts(counts))))


def miller_madow_entropy(counts: ArrayLike) -> float:
    """H(p̂) + (m - 1)/2N with m outcomes seen (Miller, 1955): bias O(1/N²) once all are seen.

    While outcomes are unseen, m is too small and the estimate is biased downwards.  Shapes and
    errors as in :func:`plug_in_entropy`.

    >>> round(miller_madow_entropy([2, 1, 1]) - plug_in_entropy([2, 1, 1]), 6)
    0.25
    """
    n = positive_counts(counts)
    return plug_in_entropy(n) + float((np.count_nonzero(n) - 1) / (2 * n.sum()))


def chao_shen_entropy(counts: ArrayLike) -> float:
    """-Σ p̃ log p̃ / (1 - (1 - p̃)ᴺ), p̃ = C p̂, coverage C = 1 - f₁/N (Chao and Shen, 2003).

    Good's coverage C leaves probability for the unseen outcomes, and the Horvitz-Thompson weights
    divide each term by its probability to be seen.  For undersampled data, N of the order of K;
    the bias may have either sign.  With singletons only, C would be 0: f₁ = N - 1 is used, as is
    customary.  Shapes and errors as in :func:`plug_in_entropy`.

    >>> round(chao_shen_entropy([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]), 4)
    2.2011
    """
    n = positive_counts(counts)
    n, total = n[n > 0], n.sum()
    singletons = min(np.count_nonzero(n == 1), total - 1)
    p = (1 - singletons / total) * n / total
    return float(np.sum(-p * np.log(p) / (1 - (1 - p) ** total))) + 0.0


def grassberger_entropy(counts: ArrayLike) -> float:
    """log N - (1/N) Σ nᵢ G(nᵢ), G(n) = ψ(n) + ½ (-1)ⁿ [ψ((n+1)/2) - ψ(n/2)] (Grassberger, 2003).

    G replaces log n such that n G(n) is nearly unbiased for Poisson counts.  The bias that remains
    for fixed N is log N - ψ(N) ≈ +1/2N for any K, and a part that falls exponentially in the mean
    counts: less than the plug-in's -(K-1)/2N for large K, though not for a coin.  Shapes and errors
    as in :func:`plug_in_entropy`.

    >>> round(grassberger_entropy([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]), 4)
    2.1446
    """
    n = positive_counts(counts)
    n, total = n[n > 0], n.sum()
    sign = np.where(n % 2 == 0, 0.5, -0.5)
    g = special.digamma(n) + sign * (special.digamma((n + 1) / 2) - special.digamma(n / 2))
    return float(np.log(total) - n @ g / total)


def nsb_entropy(counts: ArrayLike) -> float:
    """The posterior mean of H under the prior of Nemenman, Shafee and Bialek (2002).

    A Dirichlet prior with parameter β almost determines the entropy, ξ(β) = ψ(Kβ+1) - ψ(β+1); a
    mixture over β with density dξ/dβ makes H nearly uniform on [0, log K].  For each β the
    posterior mean is ψ(N+Kβ+1) - Σ (nᵢ+β)/(N+Kβ) ψ(nᵢ+β+1) (Wolpert and Wolf, 1995), here averaged
    over log β by the trapezoidal rule.  K is the length of ``counts``, which must include the
    unseen outcomes.  The estimate is unbiased on average over its prior, not for a single p.

    ``counts`` may be all zeros: the result is then the prior's mean.  Raises InvalidValueError for
    a count that is negative or not a whole number.

    >>> round(nsb_entropy([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]), 4)
    2.1878
    """
    n = counts_as_floats(counts, dimensions=1)
    k, total = n.size, n.sum()
    if k == 1:
        return 0.0
    values, copies = np.unique(n, return_counts=True)
    log_beta = np.linspace(-35, 25, 6001)  # the integrand decays exponentially at both ends
    beta = np.exp(log_beta)
    kappa = k * beta
    width = k * special.polygamma(1, kappa + 1) - special.polygamma(1, beta + 1)  # dξ/dβ
    log_evidence = special.gammaln(kappa) - special.gammaln(total + kappa)
    mean = special.digamma(total + kappa + 1)
    for value, copy in zip(values, copies, strict=True):
        log_evidence += copy * (special.gammaln(value + beta) - special.gammaln(beta))
        mean -= copy * (value + beta) / (total + kappa) * special.digamma(value + beta + 1)
    weight = np.exp(log_evidence - log_evidence.max()) * np.maximum(width, 0) * beta
    return float(weight @ mean / weight.sum())
