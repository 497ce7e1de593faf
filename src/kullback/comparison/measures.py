"""Measures of how far two models are from each other on one text.

Both models predict the same tokens; :mod:`kullback.scoring.divergence` streams both vocabularies
and leaves one row a token, from which everything here is computed.  Every mean has the paired,
clustered interval of :mod:`kullback.uncertainty.intervals`: the difference is taken token by token
first, so what makes a text hard for both models cancels.

A KL says how far the candidate moved from the reference, not whether it is worse: for that there is
ΔCE, and what is asked of the model.  Nats; KL(reference‖candidate) unless named otherwise.

Axes: M scored tokens, in text order.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from msgspec.structs import replace

from kullback.evaluation.measures import Places, weighted_mean
from kullback.results.measurement import Measurement
from kullback.scoring.divergence import DivergenceStatistics, nll_differences
from kullback.uncertainty.intervals import within_unit_interval

__all__ = [
    "CONFIDENCE_EDGES",
    "QUANTILES",
    "compare_tokens",
    "kl_quantiles",
    "largest_padding",
    "padding_notes",
    "paired_measures",
    "worst_tokens",
]

QUANTILES = {"median": 0.5, "90 %": 0.9, "95 %": 0.95, "99 %": 0.99, "99.9 %": 0.999}
# Bins of the reference's confidence: finer where it is nearly certain, since most tokens are.
CONFIDENCE_EDGES = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0001])


def compare_tokens(divergences: DivergenceStatistics, places: Places) -> dict[str, Measurement]:
    """The measures of a comparison by name, in the order to show, each with its paired interval.

    The divergences, then those of `paired_measures`, then the share of the five most probable
    tokens that both have.
    """
    return {
        "kl": weighted_mean(divergences.kl, places),
        "reverse_kl": weighted_mean(divergences.reverse_kl, places),
        "jensen_shannon": weighted_mean(divergences.jensen_shannon, places),
        "total_variation": _share(divergences.total_variation, places),
        **paired_measures(
            divergences.reference.nll,
            divergences.candidate.nll,
            divergences.top1_agreement,
            places,
        ),
        "top5_overlap": _share(divergences.top5_overlap / 5.0, places),
    }


def paired_measures(
    reference_nll_M: Float[np.ndarray, "M"],
    candidate_nll_M: Float[np.ndarray, "M"],
    agreement_M: Bool[np.ndarray, "M"],
    places: Places,
) -> dict[str, Measurement]:
    """What two surprisals in nats, and whether the top-1 tokens agree, say at each token.

    ``delta_cross_entropy`` is the candidate's minus the reference's: above 0 the candidate predicts
    worse.  ``delta_p_rms`` is sqrt(mean Δp²) of the target, its interval that of the mean under the
    root.
    """
    change_M = np.exp(-candidate_nll_M) - np.exp(-reference_nll_M)
    difference_M = nll_differences(reference_nll_M, candidate_nll_M)
    return {
        "delta_cross_entropy": weighted_mean(difference_M, places),
        "reference_cross_entropy": weighted_mean(reference_nll_M, places),
        "candidate_cross_entropy": weighted_mean(candidate_nll_M, places),
        "delta_p_mean": weighted_mean(change_M, places, ""),
        "delta_p_rms": _root(weighted_mean(change_M**2, places, "")),
        "top1_agreement": _share(agreement_M, places),
    }


def _share(share_M: Float[np.ndarray, "M"] | Bool[np.ndarray, "M"], places: Places) -> Measurement:
    """The mean of shares in [0, 1]."""
    return within_unit_interval(weighted_mean(share_M, places, ""))


def _root(square: Measurement) -> Measurement:
    """sqrt of a mean, its interval the roots of the mean's, its errors by the delta method."""
    low, high = square.interval
    value = math.sqrt(max(square.value, 0.0))

    def error_of_root(error: float) -> float:
        if value == 0.0:
            return error if math.isinf(error) else 0.0
        return error / (2 * value)

    return replace(
        square,
        value=value,
        standard_error=error_of_root(square.standard_error),
        independent_error=error_of_root(square.independent_error),
        bounds=(math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))),
    )


def kl_quantiles(kl_M: Float[np.ndarray, "M"]) -> dict[str, float]:
    """Median, upper percentiles and maximum of the per-token KL.

    >>> kl_quantiles(np.arange(5.0))["median"], kl_quantiles(np.arange(5.0))["maximum"]
    (2.0, 4.0)
    >>> kl_quantiles(np.array([0.5, 0.5, np.inf]))["median"]
    0.5
    """
    maximum = float(kl_M.max())
    # Between an infinite value and another NumPy finds NaN: then no two are averaged.
    method: Literal["linear", "inverted_cdf"] = "linear"
    if not math.isfinite(maximum):
        method = "inverted_cdf"
    quantiles = {
        name: float(np.quantile(kl_M, share, method=method)) for name, share in QUANTILES.items()
    }
    return {**quantiles, "maximum": maximum}


def largest_padding(divergences: DivergenceStatistics) -> float:
    """The largest probability of tokens that only one of the models has."""
    return float(max(divergences.reference_padding.max(), divergences.candidate_padding.max()))


def padding_notes(padding: float) -> list[str]:
    """That tokens were left out, where they have any probability.

    >>> padding_notes(0.0)
    []
    """
    note = (
        f"tokens that only one of the models has were left out: at most {padding:.2g} of the "
        "probability at any token"
    )
    return [note] if padding > 0 else []


def worst_tokens(kl_M: Float[np.ndarray, "M"], count: int) -> Int[np.ndarray, "count"]:
    """The tokens with the largest KL, the largest first; among equals the earlier.

    >>> worst_tokens(np.array([0.0, 3.0, 1.0, 3.0]), 2).tolist()
    [1, 3]
    """
    order: np.ndarray = np.argsort(-kl_M, kind="stable")[:count]
    return order
