r"""Maximum likelihood as the minimisation of a cross-entropy, in nats.

With the empirical distribution p̂(y) = (1/N) Σₙ 1[yₙ = y] of N samples, over a categorical family::

    argmax_q Π q(yₙ)  =  argmin_q -(1/N) Σ log q(yₙ)  =  argmin_q H(p̂, q)
    H(p̂, q) = H(p̂) + KL(p̂‖q)          so the minimum is H(p̂), at q = p̂

and with inputs x the same holds for each x, averaged with the weights p̂(x).

Related modules, whose names can be imported from here, too: ``empirical`` (counts and p̂),
``entropy_estimators`` (estimates of H(p), corrected for the bias of H(p̂)), ``sample_estimates``
(H, cross-entropy and KL from samples) and ``excess_simulation`` (the loss that N samples leave).

N counts samples and K outcomes, which are the integers 0..K-1; ``counts`` has shape (K,), with an
entry for every outcome that never occurs, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from kullback.errors import InvalidValueError
from kullback.theory._types import FloatArray
from kullback.theory._validation import labels_below, positive_counts, refuse_where
from kullback.theory.empirical import add_half, count, empirical_distribution
from kullback.theory.entropy_estimators import (
    chao_shen_entropy,
    grassberger_entropy,
    miller_madow_entropy,
    nsb_entropy,
    plug_in_entropy,
)
from kullback.theory.excess_simulation import ExcessSimulation, simulate_excess
from kullback.theory.information import (
    cross_entropy,
    entropy,
    kl_divergence,
    log_softmax,
    normalise,
)
from kullback.theory.sample_estimates import Estimate, SampleEstimates, estimate_from_samples

__all__ = [
    "ConditionalFit",
    "Estimate",
    "ExcessSimulation",
    "Fit",
    "SampleEstimates",
    "SequenceCrossEntropy",
    "add_half",
    "chao_shen_entropy",
    "count",
    "empirical_distribution",
    "estimate_from_samples",
    "fit_categorical",
    "fit_conditional",
    "grassberger_entropy",
    "miller_madow_entropy",
    "nsb_entropy",
    "plug_in_entropy",
    "sequence_cross_entropy",
    "simulate_excess",
]


@dataclass(frozen=True)
class Fit:
    """A categorical fit: q of shape (K,), H(p̂, q) in nats, and the number of iterations."""

    probabilities: FloatArray
    cross_entropy: float
    steps: int


@dataclass(frozen=True)
class ConditionalFit:
    """A table q(y|x) of shape (X, K), and its cross-entropy averaged over inputs with p̂(x).

    ``input_weights`` is p̂(x), shape (X,); the numbers of an input that never occurs are NaN.
    """

    probabilities: FloatArray
    cross_entropy: float
    input_weights: FloatArray
    input_cross_entropies: FloatArray


@dataclass(frozen=True)
class SequenceCrossEntropy:
    """The cross-entropy of a sequence in nats, per token, and exp of the latter, the perplexity."""

    total: float
    per_token: float
    perplexity: float
    tokens: int


def fit_categorical(
    counts: ArrayLike,
    method: Literal["closed form", "gradient descent", "scipy"] = "closed form",
    *,
    tolerance: float = 1e-10,
    max_steps: int = 1_000_000,
) -> Fit:
    """The q that minimises H(p̂, q), by one of three independent methods.

    ``"closed form"`` is q = p̂ (Gibbs).  ``"gradient descent"`` has a learning rate of 2 on the
    logits z of q = softmax z, where the gradient is q - p̂ and the curvature at most ½, and ends
    when no component exceeds ``tolerance``, after about log(1/tolerance)/(2 min p̂) steps.
    ``"scipy"`` is Newton's method in a trust region, with the Hessian diag(q) - q qᵀ.  The logit of
    an outcome that never occurs has its minimum at -inf and is set to it.

    ``counts`` has shape (K,).  Raises InvalidValueError for invalid counts, an unknown method, or
    a descent that does not converge within ``max_steps``.

    >>> fit_categorical([6, 3, 1], "gradient descent").probabilities.round(9).tolist()
    [0.6, 0.3, 0.1]
    """
    target = normalise(positive_counts(counts))
    q, steps, seen = target.copy(), 0, target > 0
    if method == "gradient descent":
        q[seen], steps = _descend(target[seen], tolerance, max_steps)
    elif method == "scipy":
        q[seen], steps = _newton(target[seen], tolerance)
    elif method != "closed form":
        raise InvalidValueError(
            f"method is {method!r}: it must be 'closed form', 'gradient descent' or 'scipy'"
        )
    return Fit(q, float(cross_entropy(target, q)), steps)


def _descend(p: FloatArray, tolerance: float, max_steps: int) -> tuple[FloatArray, int]:
    logits = np.zeros_like(p)
    for step in range(max_steps + 1):
        q = np.exp(log_softmax(logits))
        if np.abs(q - p).max() <= tolerance:
            return q, step
        logits -= 2 * (q - p)
    raise InvalidValueError(
        f"max_steps is {max_steps}, too few to converge: raise it, since the smallest frequency is "
        f"{p.min():g}"
    )


def _newton(p: FloatArray, tolerance: float) -> tuple[FloatArray, int]:
    def loss(z: FloatArray) -> float:
        return float(
            kl_divergence(np.log(p), z, given="logits")
        )  # H(p̂, q) without its constant H(p̂)

    def gradient(z: FloatArray) -> FloatArray:
        return np.exp(log_softmax(z)) - p

    def hessian(z: FloatArray) -> FloatArray:
        return np.diag(q := np.exp(log_softmax(z))) - np.outer(q, q)

    solution = optimize.minimize(
        loss, np.zeros_like(p), jac=gradient, hess=hessian, method="trust-ncg", tol=tolerance
    )
    return np.exp(log_softmax(solution.x)), int(solution.nit)


def fit_conditional(
    inputs: ArrayLike, labels: ArrayLike, *, input_values: int, outcomes: int
) -> ConditionalFit:
    """The table q(y|x) that maximises Σₙ log q(yₙ|xₙ): the empirical conditional distribution.

    The mean negative log-likelihood of N pairs is Σₓ p̂(x) H(p̂(·|x), q(·|x)), a cross-entropy
    averaged over inputs; its minimum is the conditional entropy Ĥ(Y|X).  ``inputs`` and ``labels``
    are integers of the same shape, in [0, X) and [0, K) for X ``input_values`` and K ``outcomes``.
    Raises InvalidValueError otherwise.

    >>> fit = fit_conditional([0, 0, 1, 1], [0, 1, 1, 1], input_values=2, outcomes=2)
    >>> fit.probabilities.tolist(), round(fit.cross_entropy, 6)  # half of log 2
    ([[0.5, 0.5], [0.0, 1.0]], 0.346574)
    """
    x = labels_below("inputs", inputs, input_values)
    y = labels_below("labels", labels, outcomes)
    if x.shape != y.shape:
        raise InvalidValueError(
            f"inputs has shape {x.shape} and labels {y.shape}: they must be equal"
        )
    table = count(x * outcomes + y, input_values * outcomes).reshape(input_values, outcomes)
    weights = normalise(table.sum(axis=1))
    seen = weights > 0
    q, costs = np.full(table.shape, np.nan), np.full(input_values, np.nan)
    q[seen] = normalise(table[seen])
    costs[seen] = entropy(q[seen])
    return ConditionalFit(q, float(weights[seen] @ costs[seen]), weights, costs)


def sequence_cross_entropy(token_log_probs: ArrayLike) -> SequenceCrossEntropy:
    """-Σₜ log q(y_t | y_<t) of a sequence, its mean per token, and the perplexity, exp of the mean.

    ``token_log_probs`` contains a log-probability in nats for each scored token, in any shape; if
    one is -inf, an impossible token, all three results are ``inf``.  The perplexity is the
    geometric mean of the inverse probabilities.  Raises InvalidValueError for an empty array, NaN,
    or a value above 0.

    >>> sequence_cross_entropy(np.log([0.5, 0.125])).perplexity
    4.0
    """
    array = np.asarray(token_log_probs, dtype=np.float64).ravel()
    if array.size == 0:
        raise InvalidValueError("token_log_probs is empty: it must contain at least one token")
    refuse_where(~(array <= 0), "token_log_probs", array, "a log-probability must be at most 0")
    total = -math.fsum(array)
    per_token = total / array.size
    with np.errstate(over="ignore"):
        return SequenceCrossEntropy(total, per_token, float(np.exp(per_token)), array.size)
