r"""The excess loss of a model fitted to N samples, simulated and predicted, in nats.

As N grows, the empirical distribution p̂ tends to p, and for finite N the errors are equal to first
order (Wilks, 1938)::

    2N KL(p‖q̂) and 2N KL(p̂‖p)  →  χ²(K - 1),      so each KL has mean  (K - 1) / 2N
    test cross-entropy      H(p, q̂)  ≈  H(p) + (K - 1)/2N
    training cross-entropy  H(p̂, q̂)  ≈  H(p) - (K - 1)/2N

E[KL(p‖q̂)] of the maximum-likelihood q̂ is *infinite* for every N, because an outcome that the
samples do not contain is impossible under q̂, and this has a positive probability.  The simulation
therefore reports the KL of the add-½ estimate, and that of the MLE only *given* that every outcome
occurs, with the frequency of that event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from kullback.errors import InvalidValueError
from kullback.theory._types import FloatArray
from kullback.theory.empirical import add_half
from kullback.theory.information import entropy, kl_divergence
from kullback.theory.sample_estimates import Estimate

__all__ = ["ExcessSimulation", "simulate_excess"]


@dataclass(frozen=True)
class ExcessSimulation:
    """Measured and predicted excess over many data sets of N samples each; KLs in nats.

    ``test_excess_add_half`` is KL(p‖add-½), ``test_excess_given_seen`` is KL(p‖MLE) over the
    ``seen_fraction`` of data sets in which every outcome occurs, ``training_deficit`` is
    H(p) - H(p̂): all three are predicted to be ``predicted`` = (K - 1)/2N.  ``statistic`` contains
    the values of 2N KL(p̂‖p); ``ks_distance`` is the largest gap between their distribution function
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


def simulate_excess(
    p: ArrayLike | int, samples: int, replicates: int, rng: np.random.Generator
) -> ExcessSimulation:
    """Draw ``replicates`` data sets of N ``samples`` from p, and measure the excess of the fits.

    ``p`` is a distribution (K,) without zeros, or the number K of equally likely outcomes.
    The prediction (Wilks, 1938) is 2N KL(p̂‖p) → χ²(K - 1), so each KL has mean (K - 1)/2N, and the
    training cross-entropy H(p̂) is as far below H(p) as the test cross-entropy is above it.
    Raises InvalidValueError for p with zeros, fewer than 1 sample or 2 replicates.

    >>> run = simulate_excess(20, samples=1000, replicates=2000, rng=np.random.default_rng(0))
    >>> run.predicted, round(run.test_excess_add_half.value, 4)
    (0.0095, 0.0094)
    """
    truth = np.asarray([1 / p] * p if isinstance(p, int) else p, dtype=np.float64)
    h = float(entropy(truth))
    if truth.ndim != 1 or truth.size < 2 or not (truth > 0).all():
        raise InvalidValueError(
            f"p is {p!r}: it must have at least 2 outcomes along a single axis, none impossible"
        )
    if samples < 1 or replicates < 2:
        raise InvalidValueError(
            f"samples is {samples} and replicates {replicates}: they must be at least 1 and 2"
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
        return Estimate(math.nan, math.nan)  # too few for a standard error
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)))
