"""Is it still the same model, how far is it, and where does it differ?  Two models on one text.

Both models predict the same tokens; :mod:`kullback.scoring.divergence` streams both vocabularies
and leaves one row a token, from which everything here is computed.  Every mean has the paired,
clustered interval of :mod:`kullback.uncertainty.intervals`: the difference is taken token by token
first, so what makes a text hard for both models cancels.

A KL says how far the candidate moved from the reference, not whether it is worse: for that there is
ΔCE, and what is asked of the model.  Nats; KL(reference‖candidate) unless named otherwise.

Axes: M scored tokens, in text order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from msgspec.structs import replace

from kullback.evaluation.measures import Places
from kullback.results.measurement import Measurement
from kullback.scoring.divergence import DivergenceStatistics, nll_differences
from kullback.uncertainty.intervals import mean_with_interval

__all__ = [
    "CONFIDENCE_EDGES",
    "QUANTILES",
    "compare_tokens",
    "kl_quantiles",
    "paired_measures",
    "pareto_front",
    "worst_tokens",
]

QUANTILES = {"median": 0.5, "90 %": 0.9, "95 %": 0.95, "99 %": 0.99, "99.9 %": 0.999}
# Bins of the reference's confidence: finer where it is nearly certain, since most tokens are.
CONFIDENCE_EDGES = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0001])


def compare_tokens(found: DivergenceStatistics, places: Places) -> dict[str, Measurement]:
    """The measures of a comparison by name, in the order to show, each with its paired interval.

    The divergences, then those of `paired_measures`, then the share of the five likeliest words
    that both name.
    """

    def mean(values_M: np.ndarray, unit: str) -> Measurement:
        return mean_with_interval(
            values_M * places.weight_M, places.document_M, unit, places.weight_M
        )

    return {
        "kl": mean(found.kl, "nats/token"),
        "reverse_kl": mean(found.reverse_kl, "nats/token"),
        "jensen_shannon": mean(found.jensen_shannon, "nats/token"),
        **paired_measures(
            found.reference.nll,
            found.candidate.nll,
            found.top1_agreement,
            places.document_M,
            places.weight_M,
        ),
        "top5_agreement": mean(found.top5_overlap / 5.0, ""),
    }


def paired_measures(
    reference_nll_M: Float[np.ndarray, "M"],
    candidate_nll_M: Float[np.ndarray, "M"],
    agreement_M: Bool[np.ndarray, "M"],
    document_M: Int[np.ndarray, "M"],
    weight_M: Float[np.ndarray, "M"],
) -> dict[str, Measurement]:
    """What two surprisals in nats, and whether the first guesses agree, say at each token.

    ``delta_cross_entropy`` is the candidate's minus the reference's: above 0 the candidate predicts
    worse.  ``delta_p_rms`` is sqrt(mean Δp²) of the target, its interval that of the mean under the
    root.
    """

    def mean(values_M: np.ndarray, unit: str) -> Measurement:
        return mean_with_interval(values_M * weight_M, document_M, unit, weight_M)

    change_M = np.exp(-candidate_nll_M) - np.exp(-reference_nll_M)
    difference_M = nll_differences(reference_nll_M, candidate_nll_M)
    return {
        "delta_cross_entropy": mean(difference_M, "nats/token"),
        "reference_cross_entropy": mean(reference_nll_M, "nats/token"),
        "candidate_cross_entropy": mean(candidate_nll_M, "nats/token"),
        "delta_p_mean": mean(change_M, ""),
        "delta_p_rms": _root(mean(change_M**2, "")),
        "top1_agreement": mean(agreement_M, ""),
    }


def _root(square: Measurement) -> Measurement:
    """sqrt of a mean, its interval the roots of the mean's."""
    low, high = square.interval
    value = max(square.value, 0.0) ** 0.5
    bounds = (max(low, 0.0) ** 0.5, max(high, 0.0) ** 0.5)
    return replace(square, value=value, bounds=bounds)


def kl_quantiles(kl_M: Float[np.ndarray, "M"]) -> dict[str, float]:
    """Median, upper percentiles and maximum of the per-token KL.

    >>> kl_quantiles(np.arange(5.0))["median"], kl_quantiles(np.arange(5.0))["maximum"]
    (2.0, 4.0)
    """
    found = {name: float(np.quantile(kl_M, share)) for name, share in QUANTILES.items()}
    return {**found, "maximum": float(kl_M.max())}


def worst_tokens(kl_M: Float[np.ndarray, "M"], count: int) -> Int[np.ndarray, "count"]:
    """The tokens with the largest KL, the largest first; among equals the earlier.

    >>> worst_tokens(np.array([0.0, 3.0, 1.0, 3.0]), 2).tolist()
    [1, 3]
    """
    order: np.ndarray = np.argsort(-kl_M, kind="stable")[:count]
    return order


def pareto_front(sizes: Sequence[float], kls: Sequence[float]) -> list[bool]:
    """For each candidate, whether no other is both smaller and nearer (and better in one of both).

    >>> pareto_front([8, 4, 4, 2], [0.1, 0.2, 0.3, 0.5])
    [True, True, False, True]
    """
    points = list(zip(sizes, kls, strict=True))
    return [
        not any(s <= size and k <= kl and (s, k) != (size, kl) for s, k in points)
        for size, kl in points
    ]
