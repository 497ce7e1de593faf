"""Monte-Carlo estimates of entropy, cross-entropy and KL from samples, with standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kullback.errors import InvalidValueError
from kullback.theory._types import FloatArray
from kullback.theory.information import normalise

__all__ = ["Estimate", "SampleEstimates", "estimate_from_samples"]


class Estimate(NamedTuple):
    """A mean over samples and its standard error, in nats."""

    value: float
    standard_error: float


class SampleEstimates(NamedTuple):
    """Estimates of the decomposition; the standard error of ``kl`` is that of paired differences.

    ``effective_size`` is (Σ w)² / Σ w², the number of equally weighted samples that count as much.
    """

    cross_entropy: Estimate
    entropy: Estimate
    kl: Estimate
    effective_size: float


def estimate_from_samples(
    log_p: ArrayLike, log_q: ArrayLike, weights: ArrayLike | None = None
) -> SampleEstimates:
    """H, cross-entropy and KL in nats from log p and log q at samples y₁..y_N drawn from p.

    Each is a weighted mean m = Σ wᵢ xᵢ / Σ wᵢ of x = -log q, -log p, log p - log q, with variance
    ``N/(N-1) · Σ wᵢ² (xᵢ - m)² / (Σ wᵢ)²`` (linearised ratio; Cochran, 1977, §6.3), which for
    equal weights is the usual one.  Samples from another distribution r get the weights p/r.  The
    samples are assumed to be independent: for correlated tokens, ``kullback.evaluate`` computes
    block intervals.

    ``log_p``, ``log_q`` and ``weights`` have the same shape (N,), N ≥ 2.  Raises InvalidValueError
    for other shapes, a log_p that is not finite, and a log_q of NaN or +inf.

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
