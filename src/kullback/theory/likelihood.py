r"""What do N samples say about a distribution, and how far off is the model fitted to them?

Maximum likelihood over a categorical family is the minimisation of a cross-entropy.  With the
empirical distribution p̂(y) = (1/N) Σₙ 1[yₙ = y]::

    argmax_q Π q(yₙ)  =  argmin_q -(1/N) Σ log q(yₙ)  =  argmin_q H(p̂, q)
    H(p̂, q) = H(p̂) + KL(p̂‖q)          so the minimum is H(p̂), at q = p̂

and with inputs x the same holds for each x, averaged with the weights p̂(x).  As N grows, p̂ tends
to p, and with finite N everything is off by the same amount to first order (Wilks, 1938)::

    2N KL(p‖q̂) and 2N KL(p̂‖p)  →  χ²(K - 1),      so each KL has mean  (K - 1) / 2N
    test cross-entropy      H(p, q̂)  ≈  H(p) + (K - 1)/2N
    training cross-entropy  H(p̂, q̂)  ≈  H(p) - (K - 1)/2N

One caution: E[KL(p‖q̂)] is *infinite* for every N, since with some probability an outcome is never
seen and the MLE calls it impossible.  :func:`simulate_excess` therefore reports the KL of the
add-½ estimate, and that of the MLE only *given* that every outcome was seen, with the frequency of
that event beside it.

The estimators of H(p) itself, which add what H(p̂) misses, are in
``kullback.theory.entropy_estimators`` and can be imported from here too.  Everything is in nats.  N
counts samples and K outcomes, which are the integers 0..K-1; ``counts`` has shape (K,), with a
place for what never occurred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from kullback.errors import InvalidValueError
from kullback.theory.entropy_estimators import (
    chao_shen_entropy,
    counts_as_floats,
    grassberger_entropy,
    miller_madow_entropy,
    nsb_entropy,
    plug_in_entropy,
    some_counts,
)
from kullback.theory.information import (
    cross_entropy,
    entropy,
    kl_divergence,
    log_softmax,
    normalise,
)

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

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Estimate(NamedTuple):
    """A mean over samples and its standard error, in nats."""

    value: float
    standard_error: float


class SampleEstimates(NamedTuple):
    """The decomposition as estimated from samples; ``kl`` is paired, so its error is its own."""

    cross_entropy: Estimate
    entropy: Estimate
    kl: Estimate
    effective_size: float


@dataclass(frozen=True)
class Fit:
    """A categorical fit: q, the cross-entropy H(p̂, q) in nats, and the steps that it took."""

    probabilities: FloatArray
    cross_entropy: float
    steps: int


@dataclass(frozen=True)
class ConditionalFit:
    """A table q(y|x) of shape (X, K), and the cross-entropy that p̂(x) averages over inputs.

    ``input_weights`` is p̂(x), shape (X,); an input that never occurs has NaN in place of numbers.
    """

    probabilities: FloatArray
    cross_entropy: float
    input_weights: FloatArray
    input_cross_entropies: FloatArray


@dataclass(frozen=True)
class SequenceCrossEntropy:
    """What a sequence costs: the total in nats, per token, and exp of that, the perplexity."""

    total: float
    per_token: float
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class ExcessSimulation:
    """Measured against predicted, over many data sets of N samples each; KLs in nats.

    ``test_excess_add_half`` is KL(p‖add-½), ``test_excess_given_seen`` is KL(p‖MLE) over the
    ``seen_fraction`` of data sets in which every outcome occurs, ``training_deficit`` is
    H(p) - H(p̂): all three are predicted to be ``predicted`` = (K - 1)/2N.  ``statistic`` holds the
    values of 2N KL(p̂‖p); ``ks_distance`` is the largest gap between their distribution function
    and that of χ²(K - 1), whose mean is K - 1 and variance 2 (K - 1).
    """

    outcomes: int
    samples: int
    predicted: float
    test_excess_add_half: Estimate
    test_excess_given_seen: Estimate
    seen_fraction: float
    training_deficit: Estimate
    ks_distance: float
    statistic: FloatArray = field(repr=False)


# --- the empirical distribution and its fits ----------------------------------------------------


def count(labels: ArrayLike, outcomes: int) -> IntArray:
    """How often each outcome 0..K-1 occurs among ``labels``, integers of any shape; shape (K,).

    Raises InvalidValueError for a label that is no integer in [0, K).

    >>> count([2, 0, 2], outcomes=4).tolist()
    [1, 0, 2, 0]
    """
    return np.bincount(_labels("labels", labels, outcomes).ravel(), minlength=outcomes)


def empirical_distribution(labels: ArrayLike, outcomes: int) -> FloatArray:
    """p̂(y) = (1/N) Σₙ 1[yₙ = y], of shape (K,); raises InvalidValueError without any label.

    >>> empirical_distribution([2, 0, 2, 2], outcomes=3).tolist()
    [0.25, 0.0, 0.75]
    """
    return normalise(count(labels, outcomes))


def add_half(counts: ArrayLike) -> FloatArray:
    """(nᵢ + ½) / (N + K/2): the posterior mean under Jeffreys' prior (Krichevsky-Trofimov, 1981).

    No outcome is impossible, so its expected KL from the truth is finite, unlike the MLE's.
    ``counts`` is (..., K); raises InvalidValueError for a negative or fractional count.

    >>> add_half([3, 0]).tolist()
    [0.875, 0.125]
    """
    return normalise(counts_as_floats(counts) + 0.5)


def fit_categorical(
    counts: ArrayLike,
    method: Literal["closed form", "gradient descent", "scipy"] = "closed form",
    *,
    tolerance: float = 1e-10,
    max_steps: int = 1_000_000,
) -> Fit:
    """The q that minimises H(p̂, q), by one of three routes that must agree.

    ``"closed form"`` is q = p̂ (Gibbs).  ``"gradient descent"`` takes plain steps of length 2 on
    the logits z of q = softmax z, where the gradient is q - p̂ and the curvature at most ½, until
    no component exceeds ``tolerance``; it needs about log(1/tolerance)/(2 min p̂) steps.
    ``"scipy"`` is Newton's method in a trust region, with the Hessian diag(q) - q qᵀ.  An outcome
    that never occurs has its minimum at z = -inf: the last two put it there.
    Raises InvalidValueError for bad counts, or a descent that ``max_steps`` do not complete.

    >>> fit_categorical([6, 3, 1], "gradient descent").probabilities.round(9).tolist()
    [0.6, 0.3, 0.1]
    """
    target = normalise(some_counts(counts))
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
        f"max_steps is {max_steps}: allow more, the smallest frequency is {p.min():g}"
    )


def _newton(p: FloatArray, tolerance: float) -> tuple[FloatArray, int]:
    def loss(z: FloatArray) -> float:
        return float(kl_divergence(np.log(p), z, given="logits"))  # H(p̂, q) less the constant H(p̂)

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
    are integers of one shape, in [0, X) and [0, K).  Raises InvalidValueError otherwise.

    >>> fit = fit_conditional([0, 0, 1, 1], [0, 1, 1, 1], input_values=2, outcomes=2)
    >>> fit.probabilities.tolist(), round(fit.cross_entropy, 6)  # half of log 2
    ([[0.5, 0.5], [0.0, 1.0]], 0.346574)
    """
    x, y = _labels("inputs", inputs, input_values), _labels("labels", labels, outcomes)
    if x.shape != y.shape:
        raise InvalidValueError(f"inputs has shape {x.shape}, labels {y.shape}: they must agree")
    table = count(x * outcomes + y, input_values * outcomes).reshape(input_values, outcomes)
    weights = normalise(table.sum(axis=1))
    seen = weights > 0
    q, costs = np.full(table.shape, np.nan), np.full(input_values, np.nan)
    q[seen] = normalise(table[seen])
    costs[seen] = entropy(q[seen])
    return ConditionalFit(q, float(weights[seen] @ costs[seen]), weights, costs)


def sequence_cross_entropy(token_log_probs: ArrayLike) -> SequenceCrossEntropy:
    """-Σₜ log q(y_t | y_<t) over a sequence, per token, and the perplexity exp of the latter.

    ``token_log_probs`` holds one log-probability for each token that was scored, in any shape;
    -inf, an impossible token, makes all three ``inf``.  Perplexity is the geometric mean of the
    inverse probabilities.  Raises InvalidValueError for no token, NaN, or a value above 0.

    >>> sequence_cross_entropy(np.log([0.5, 0.125])).perplexity
    4.0
    """
    array = np.asarray(token_log_probs, dtype=np.float64).ravel()
    if array.size == 0:
        raise InvalidValueError("token_log_probs is empty: at least one token must be scored")
    if (wrong := ~(array <= 0)).any():
        place = int(wrong.argmax())
        raise InvalidValueError(
            f"token_log_probs[{place}] is {array[place]}: a log-probability must be at most 0"
        )
    total = -math.fsum(array)
    per_token = total / array.size
    with np.errstate(over="ignore"):
        return SequenceCrossEntropy(total, per_token, float(np.exp(per_token)), array.size)


# --- estimates from samples ---------------------------------------------------------------------


def estimate_from_samples(
    log_p: ArrayLike, log_q: ArrayLike, weights: ArrayLike | None = None
) -> SampleEstimates:
    """H, cross-entropy and KL from log p and log q at samples y₁..y_N drawn from p.

    Each is a weighted mean m = Σ wᵢ xᵢ / Σ wᵢ of x = -log q, -log p, log p - log q, with variance
    ``N/(N-1) · Σ wᵢ² (xᵢ - m)² / (Σ wᵢ)²`` (linearised ratio; Cochran, 1977, §6.3), which for
    equal weights is the usual one.  Samples from another law r count with weights p/r.  They are
    taken as independent: correlated tokens need the block intervals of ``kullback.evaluate``.
    All arrays have one shape (N,), N ≥ 2; raises InvalidValueError otherwise.

    >>> estimates = estimate_from_samples(np.log([0.5, 0.5]), np.log([0.9, 0.1]))
    >>> round(estimates.kl.value, 6), estimates.entropy.standard_error
    (0.510826, 0.0)
    """
    lp, lq = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    w = np.ones_like(lp) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (lp.ndim == 1 and lp.shape == lq.shape == w.shape and lp.size >= 2):
        raise InvalidValueError(
            f"log_p, log_q and weights have shapes {lp.shape}, {lq.shape} and {w.shape}: all must "
            "have the same shape (N,), with at least 2 samples"
        )
    if (wrong := ~(np.isfinite(lp) & (lq < np.inf))).any():
        place = int(wrong.argmax())
        raise InvalidValueError(
            f"at sample {place} log_p is {lp[place]} and log_q {lq[place]}: a sample from p has a "
            "finite log_p, and a log_q that is finite or -inf"
        )
    w = normalise(w)
    drawn = w > 0  # a sample of weight zero must not turn an infinity into NaN
    lp, lq, w, samples = lp[drawn], lq[drawn], w[drawn], lp.size

    def estimate(x: FloatArray) -> Estimate:
        mean = float(w @ x)
        spread = np.linalg.norm(w * (x - mean)) if math.isfinite(mean) else math.inf
        return Estimate(mean, float(spread) * math.sqrt(samples / (samples - 1)))

    return SampleEstimates(estimate(-lq), estimate(-lp), estimate(lp - lq), 1 / float(w @ w))


# --- the asymptotics ----------------------------------------------------------------------------


def simulate_excess(
    p: ArrayLike | int, samples: int, replicates: int, rng: np.random.Generator
) -> ExcessSimulation:
    """Draw ``replicates`` data sets of N ``samples`` from p, and measure what theory predicts.

    ``p`` is a distribution (K,) without zeros, or the number K of equally likely outcomes.
    Theory (Wilks, 1938): 2N KL(p̂‖p) → χ²(K - 1), so each KL has mean (K - 1)/2N and the training
    cross-entropy H(p̂) lies below H(p) by as much as the test cross-entropy lies above.
    Raises InvalidValueError for p with zeros, fewer than 1 sample or 2 replicates.

    >>> run = simulate_excess(20, samples=1000, replicates=2000, rng=np.random.default_rng(0))
    >>> run.predicted, round(run.test_excess_add_half.value, 4)
    (0.0095, 0.0094)
    """
    truth = np.asarray([1 / p] * p if isinstance(p, int) else p, dtype=np.float64)
    h = float(entropy(truth))
    if truth.ndim != 1 or truth.size < 2 or not (truth > 0).all():
        raise InvalidValueError(f"p is {p!r}: give at least 2 outcomes in one row, none impossible")
    if samples < 1 or replicates < 2:
        raise InvalidValueError(
            f"samples is {samples} and replicates {replicates}: give at least 1 and at least 2"
        )
    counts = rng.multinomial(samples, truth, size=replicates)
    fitted = counts / samples
    statistic = 2 * samples * kl_divergence(fitted, truth)
    seen = (counts > 0).all(axis=1)
    degrees = truth.size - 1
    return ExcessSimulation(
        outcomes=truth.size,
        samples=samples,
        predicted=degrees / (2 * samples),
        test_excess_add_half=_mean(kl_divergence(truth, add_half(counts))),
        test_excess_given_seen=_mean(kl_divergence(truth, fitted[seen])),
        seen_fraction=float(seen.mean()),
        training_deficit=_mean(h - entropy(fitted)),
        ks_distance=float(stats.kstest(statistic, stats.chi2(degrees).cdf).statistic),
        statistic=statistic,
    )


def _mean(values: FloatArray) -> Estimate:
    if values.size < 2:
        return Estimate(math.nan, math.nan)  # too few to know the error
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)))


# --- refusals -----------------------------------------------------------------------------------


def _labels(name: str, values: ArrayLike, size: int) -> IntArray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise InvalidValueError(f"{name} has dtype {array.dtype}: it must hold integers")
    if (wrong := (array < 0) | (array >= size)).any():
        place = np.argwhere(wrong)[0].tolist()
        raise InvalidValueError(
            f"{name}{place} is {array[tuple(place)]}: it must be an integer in [0, {size})"
        )
    return array.astype(np.int64)
