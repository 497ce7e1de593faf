r"""Entropy, cross-entropy, KL, Jensen-Shannon (in nats) and total variation of distributions.

For a truth ``p`` and a model ``q`` over the same outcomes (natural logarithms)::

    H(p)     = -Σ p log p           entropy: the lower bound of the cross-entropy of any model
    H(p, q)  = -Σ p log q           cross-entropy: the expected surprisal under the model
    KL(p‖q)  =  Σ p log(p/q)        the difference, ≥ 0 (Gibbs), 0 only where p = q

    H(p, q) = H(p) + KL(p‖q)

Conventions.  ``0 log 0 = 0``; an outcome with p > 0 and q = 0 gives ``inf``.  Nothing is clipped
or renormalised: :func:`normalise` does so explicitly.  Every function has the argument ``given=``,
which says whether its inputs are ``"probs"``, ``"log_probs"`` or ``"logits"``.  Log-probabilities
and logits are never converted to probabilities whose logarithm is then taken, so a very improbable
token keeps its surprisal instead of ``inf``.  ``axis`` is the axis of the outcomes in the broadcast
shape.

Accuracy.  Floating-point probabilities rarely sum to exactly 1, and when p and q differ by 1e-9
their KL (5e-19) is far below the rounding of their sums (1e-16): ``Σ p log(p/q)`` over the stored
numbers is then mostly rounding, and can be negative.  The quantity here is therefore

    KL(p‖q) = Σ [ p log(p/q) - p + q ],

the I-divergence of Csiszár (1991).  It equals the textbook sum when the totals are equal, each of
its terms is ≥ 0, and it is stationary at p = q, so rounding of the inputs has an effect of second
order only.  On the stored numbers ``H(p, q) - H(p) - KL`` is therefore ``Σp - Σq``: rounding for
inputs normalised in float64, and at most twice the ``tolerance`` of the totals.  Relative to these
definitions on the stored numbers, results for probabilities are within ``4e-16 · max(1, log2 n)``
of the exact value on every hard input of the tests (the worst effect of rounding on a KL term is
5e-16), and a denormal result keeps its digits.

The module imports nothing but NumPy, so that its import is fast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kullback.theory._log_kernels import (
    cross_entropy_log_rows,
    jensen_shannon_log_rows,
    kl_log_rows,
    log_softmax_rows,
    total_variation_log_rows,
)
from kullback.theory._probability_kernels import (
    cross_entropy_rows,
    jensen_shannon_rows,
    kl_rows,
    total_variation_rows,
)
from kullback.theory._row_sums import sum_over_outcomes
from kullback.theory._types import FloatArray, Given
from kullback.theory._validation import aligned, check_distributions, refuse_where

__all__ = [
    "Decomposition",
    "Given",
    "cross_entropy",
    "decompose",
    "entropy",
    "jensen_shannon",
    "kl_divergence",
    "log_softmax",
    "normalise",
    "perplexity",
    "total_variation",
]


class Decomposition(NamedTuple):
    """Cross-entropy, entropy and KL in nats, each computed independently of the others."""

    cross_entropy: FloatArray
    entropy: FloatArray
    kl: FloatArray


def entropy(
    p: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Entropy H(p) = -Σ p log p in nats (Shannon, 1948, §6).

    ``p`` contains distributions along ``axis``, in the form that ``given`` names; the result has
    the shape of the other axes (a scalar for one distribution).  Raises InvalidValueError for an
    array without outcomes, and for values or totals (beyond ``tolerance``) that are not those of a
    distribution.

    >>> float(entropy([0.5, 0.25, 0.25]) / np.log(2))
    1.5
    """
    kernel = cross_entropy_rows if given == "probs" else cross_entropy_log_rows
    return sum_over_outcomes(kernel, given, axis, tolerance, p=p)


def cross_entropy(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Cross-entropy H(p, q) = -Σ p log q in nats: ``inf`` where p > 0 and q = 0.

    ``p`` and ``q`` broadcast against each other except along ``axis``, where they must have the
    same outcomes; the result has the shape of the other axes.  Raises InvalidValueError as
    :func:`entropy`, and for shapes that do not fit.

    >>> float(round(cross_entropy([1, 0, 0, 0, 0], [0.6, 0.1, 0.1, 0.1, 0.1]), 3))
    0.511
    """
    kernel = cross_entropy_rows if given == "probs" else cross_entropy_log_rows
    return sum_over_outcomes(kernel, given, axis, tolerance, p=p, q=q)


def kl_divergence(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """KL(p‖q) = Σ [p log(p/q) - p + q] in nats (Kullback and Leibler, 1951; Csiszár, 1991).

    Never negative, and accurate however close p and q are; the module's docstring gives the reason
    for the two additional terms.  Shapes and errors as in :func:`cross_entropy`.

    >>> float(kl_divergence([0.5, 0.5], [0.5 + 2**-40, 0.5 - 2**-40]) * 2**79)
    1.0
    """
    kernel = kl_rows if given == "probs" else kl_log_rows
    return sum_over_outcomes(kernel, given, axis, tolerance, p=p, q=q)


def jensen_shannon(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, in nats (Lin, 1991, eq. 4.1).

    Symmetric, between 0 and log 2, finite even where KL is not.  This is the divergence; its
    square root is the distance.  Shapes and errors as in :func:`cross_entropy`.

    >>> float(jensen_shannon([1, 0], [0, 1]) / np.log(2))
    1.0
    """
    kernel = jensen_shannon_rows if given == "probs" else jensen_shannon_log_rows
    return sum_over_outcomes(kernel, given, axis, tolerance, p=p, q=q)


def total_variation(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Total variation ½ Σ |p - q|: between 0 and 1, and at most sqrt(KL(p‖q) / 2) (Pinsker).

    1 - TV = Σ min(p, q) is the rate at which speculative decoding accepts what q drafts for p
    (Leviathan, Kalman and Matias, 2023, corollary 3.6).  Shapes and errors as in
    :func:`cross_entropy`.

    >>> float(round(total_variation([0.5, 0.5], [0.9, 0.1]), 12))
    0.4
    """
    kernel = total_variation_rows if given == "probs" else total_variation_log_rows
    return sum_over_outcomes(kernel, given, axis, tolerance, p=p, q=q)


def perplexity(
    p: ArrayLike,
    q: ArrayLike | None = None,
    *,
    axis: int = -1,
    given: Given = "probs",
    tolerance: float = 1e-9,
) -> FloatArray:
    """Perplexity exp H(p), or exp H(p, q) of a model: the equivalent number of equal outcomes.

    Shapes and errors as in :func:`cross_entropy`; ``inf`` where the cross-entropy is.

    >>> float(perplexity([0.25, 0.25, 0.25, 0.25]))
    4.0
    """
    if q is None:
        return np.exp(entropy(p, axis=axis, given=given, tolerance=tolerance))
    ce = cross_entropy(p, q, axis=axis, given=given, tolerance=tolerance)
    with np.errstate(over="ignore"):
        return np.exp(ce)


def decompose(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> Decomposition:
    """Cross-entropy, entropy and KL, computed independently, so that their identity is a check.

    Shapes and errors as in :func:`cross_entropy`; ``entropy`` has the broadcast shape, too.

    >>> parts = decompose([0.5, 0.5], [0.9, 0.1])
    >>> [round(float(part), 6) for part in parts]
    [1.203973, 0.693147, 0.510826]
    """
    ce = cross_entropy(p, q, axis=axis, given=given, tolerance=tolerance)
    kl = kl_divergence(p, q, axis=axis, given=given, tolerance=tolerance)
    h = entropy(np.broadcast_arrays(p, q)[0], axis=axis, given=given, tolerance=tolerance)
    return Decomposition(ce, h, kl)


def log_softmax(logits: ArrayLike, *, axis: int = -1) -> FloatArray:
    """Log-probabilities ``z - log Σ exp z`` along ``axis``, in nats, of the shape of ``logits``.

    The largest outcome is kept out of the sum and added with ``log1p``, so that the
    log-probability of an almost certain outcome keeps its digits.  ``-inf`` is an impossible
    outcome.  Raises InvalidValueError for NaN, +inf, or nothing but -inf.

    >>> log_softmax([0.0, 50.0]).tolist()
    [-50.0, -1.9287498479639178e-22]
    """
    (array,), axis = aligned(axis, logits=logits)
    check_distributions("logits", axis, 0, logits=array)
    with np.errstate(over="ignore"):  # logits further apart than the largest float: -inf
        rows = log_softmax_rows(np.moveaxis(array, axis, -1))
    return np.moveaxis(rows, -1, axis)


def normalise(weights: ArrayLike, *, axis: int = -1) -> FloatArray:
    """Weights (counts, masses) divided by their sum along ``axis``; the same shape.

    Raises InvalidValueError for a negative or non-finite weight, and where all weights are zero.

    >>> normalise([3, 1]).tolist()
    [0.75, 0.25]
    """
    (array,), axis = aligned(axis, weights=weights)
    good = np.isfinite(array) & (array >= 0)
    refuse_where(~good, "weights", array, "a weight must be finite and at least 0")
    # A power of two is divided out first, exactly: the sum of huge weights then stays finite.
    top = array.max(axis=axis, keepdims=True)
    rule = f"along axis {axis} at least one weight must be positive"
    refuse_where(top == 0, "weights", top, rule, "has a maximum of")
    scaled: FloatArray = np.ldexp(array, -np.frexp(top)[1])
    scaled /= scaled.sum(axis=axis, keepdims=True)
    return scaled
