"""How much entropy is behind these counts?  The plug-in, and what corrects it.

With N samples of K outcomes the entropy of the empirical distribution, H(p̂), is too low by about
(K - 1)/2N, since p̂ is fitted to what it is measured on.  While N is not much larger than K that is
no small matter, and most of the correction is about outcomes that have not been seen:

============  =====================================================  ==============================
estimator     idea                                                   what is left of the bias
============  =====================================================  ==============================
plug-in       H(p̂)                                                   -(K - 1)/2N + O(1/N²)
Miller-Madow  add (outcomes seen - 1)/2N                             O(1/N²) once all are seen
Chao-Shen     make room for the unseen, count each seen for its like small for N ≈ K, either sign
Grassberger   replace log n by what is unbiased for Poisson counts   about 1/2N, whatever K
NSB           average over a prior that is flat in the entropy       zero on average over that prior
============  =====================================================  ==============================

No estimator is unbiased for every p (Paninski, 2003).  ``counts`` has shape (K,); results are in
nats.  All but NSB ignore zeros; NSB needs them, as it asks how many outcomes there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from kullback.errors import InvalidValueError
from kullback.theory.information import entropy, normalise

__all__ = [
    "chao_shen_entropy",
    "counts_as_floats",
    "grassberger_entropy",
    "miller_madow_entropy",
    "nsb_entropy",
    "plug_in_entropy",
    "some_counts",
]

FloatArray = NDArray[np.float64]


def plug_in_entropy(counts: ArrayLike) -> float:
    """H(p̂), the maximum-likelihood estimate: biased by -(K - 1)/2N + O(1/N²) (Miller, 1955).

    ``counts`` is (K,); raises InvalidValueError for bad counts or none.

    >>> round(plug_in_entropy([2, 1, 1]), 6)
    1.039721
    """
    return float(entropy(normalise(some_counts(counts))))


def miller_madow_entropy(counts: ArrayLike) -> float:
    """H(p̂) + (m - 1)/2N with m outcomes seen (Miller, 1955): bias O(1/N²) once all are seen.

    While outcomes are still unseen m is too small, and it stays biased downwards.

    >>> round(miller_madow_entropy([2, 1, 1]) - plug_in_entropy([2, 1, 1]), 6)
    0.25
    """
    n = some_counts(counts)
    return plug_in_entropy(n) + float((np.count_nonzero(n) - 1) / (2 * n.sum()))


def chao_shen_entropy(counts: ArrayLike) -> float:
    """-Σ p̃ log p̃ / (1 - (1 - p̃)ᴺ), p̃ = C p̂, coverage C = 1 - f₁/N (Chao and Shen, 2003).

    Good's coverage makes room for the unseen outcomes and the Horvitz-Thompson weights count each
    seen one for its like.  For undersampled data, N of the order of K; its bias may have either
    sign.  With singletons only, C would be 0: f₁ = N - 1 is used, as is customary.

    >>> round(chao_shen_entropy([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]), 4)
    2.2011
    """
    n = some_counts(counts)
    n, total = n[n > 0], n.sum()
    singletons = min(np.count_nonzero(n == 1), total - 1)
    p = (1 - singletons / total) * n / total
    return float(np.sum(-p * np.log(p) / (1 - (1 - p) ** total))) + 0.0


def grassberger_entropy(counts: ArrayLike) -> float:
    """log N - (1/N) Σ nᵢ G(nᵢ), G(n) = ψ(n) + ½ (-1)ⁿ [ψ((n+1)/2) - ψ(n/2)] (Grassberger, 2003).

    G replaces log n by what makes n G(n) nearly unbiased for Poisson counts.  What remains for N
    fixed is log N - ψ(N) ≈ +1/2N whatever K, plus a part that falls exponentially in the mean
    counts: better than the plug-in's -(K-1)/2N for large K, though not for a coin.

    >>> round(grassberger_entropy([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]), 4)
    2.1446
    """
    n = some_counts(counts)
    n, total = n[n > 0], n.sum()
    sign = np.where(n % 2 == 0, 0.5, -0.5)
    g = special.digamma(n) + sign * (special.digamma((n + 1) / 2) - special.digamma(n / 2))
    return float(np.log(total) - n @ g / total)


def nsb_entropy(counts: ArrayLike) -> float:
    """The posterior mean of H under the prior of Nemenman, Shafee and Bialek (2002).

    A Dirichlet prior with parameter β all but fixes the entropy, at ξ(β) = ψ(Kβ+1) - ψ(β+1); mixing
    over β with density dξ/dβ makes H nearly uniform on [0, log K].  For each β the posterior mean
    is ψ(N+Kβ+1) - Σ (nᵢ+β)/(N+Kβ) ψ(nᵢ+β+1) (Wolpert and Wolf, 1995), here averaged over log β by
    the trapezoidal rule.  K is the length of ``counts``, which must hold the unseen outcomes too: a
    Bayes estimate is unbiased on average over its prior, and no single p is.

    >>> round(nsb_entropy([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]), 4)
    2.1878
    """
    n = counts_as_floats(counts, dimensions=1)
    k, total = n.size, n.sum()
    if k == 1:
        return 0.0
    values, copies = np.unique(n, return_counts=True)
    log_beta = np.linspace(-35, 25, 6001)  # the integrand falls off exponentially on both sides
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


def counts_as_floats(values: ArrayLike, dimensions: int | None = None) -> FloatArray:
    """Whole numbers, at least 0, as float64; raises InvalidValueError with the first that is not.

    The outcomes are along the last axis; ``dimensions`` is the number of axes, if it matters.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim == 0 or array.ndim != (dimensions or array.ndim):
        raise InvalidValueError(
            f"counts has shape {array.shape} and dtype {array.dtype}: it must be (K,) whole numbers"
        )
    numbers = array.astype(np.float64)
    if (wrong := ~((numbers >= 0) & (numbers == np.floor(numbers)) & (numbers < np.inf))).any():
        place = np.argwhere(wrong)[0].tolist()
        raise InvalidValueError(
            f"counts{place} is {array[tuple(place)]}: a count must be a whole number, at least 0"
        )
    return numbers


def some_counts(values: ArrayLike) -> FloatArray:
    """Whole numbers of shape (K,), at least one of them positive, as float64."""
    numbers = counts_as_floats(values, dimensions=1)
    if not numbers.any():
        raise InvalidValueError("counts holds no sample: at least one count must be positive")
    return numbers
