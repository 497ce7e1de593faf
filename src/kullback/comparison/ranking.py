"""Candidates in order: joint intervals, the Pareto front of size and KL, and the choice.

Axes: M scored tokens, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from msgspec.structs import replace

from kullback.comparison.noise_floor import above_noise, noise_ratio
from kullback.evaluation.measures import Places
from kullback.results.comparison import RankedCandidate
from kullback.results.measurement import Measurement
from kullback.scoring.divergence import DivergenceStatistics, nll_differences
from kullback.uncertainty.intervals import simultaneous_means

__all__ = ["CandidateRows", "choose", "dominating", "rank_candidates", "relative_change"]


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """What is kept of each candidate, when its model has gone."""

    name: str
    size_bytes: int | None
    kl_M: Float[np.ndarray, "M"]
    difference_M: Float[np.ndarray, "M"]
    """The candidate's nll minus the reference's."""
    agreement_M: Float[np.ndarray, "M"]

    @classmethod
    def of(
        cls, name: str, size_bytes: int | None, divergences: DivergenceStatistics
    ) -> CandidateRows:
        """The rows of a pass."""
        return cls(
            name,
            size_bytes,
            divergences.kl,
            nll_differences(divergences.reference.nll, divergences.candidate.nll),
            divergences.top1_agreement.astype(np.float64),
        )


def rank_candidates(
    candidates: Sequence[CandidateRows],
    places: Places,
    original_bytes: int | None,
    floor: Mapping[str, Measurement],
    tolerance: float,
) -> tuple[RankedCandidate, ...]:
    """All candidates, the nearest first, with intervals that hold for all of them at once.

    Means are weighted as the protocol counts tokens.  `original_bytes` is the reference's size,
    `floor` the noise floor, `tolerance` the ΔCE in nats/token that is accepted.
    """

    def family(rows: list[Float[np.ndarray, "M"]], unit: str) -> list[Measurement]:
        weight_M = places.weight_M
        return simultaneous_means(np.stack(rows) * weight_M, places.document_M, unit, weight_M)

    kls = family([rows.kl_M for rows in candidates], "nats/token")
    changes = family([rows.difference_M for rows in candidates], "nats/token")
    agreements = family([rows.agreement_M for rows in candidates], "")
    dominated = dominating([rows.size_bytes for rows in candidates], [kl.value for kl in kls])
    ranked = [
        RankedCandidate(
            name=rows.name,
            size_bytes=rows.size_bytes,
            share_of_original=(
                rows.size_bytes / original_bytes if rows.size_bytes and original_bytes else None
            ),
            kl=kls[i],
            delta_cross_entropy=changes[i],
            delta_perplexity=relative_change(changes[i]),
            top1_agreement=agreements[i],
            on_pareto_front=rows.size_bytes is not None and dominated[i] is None,
            dominated_by=None if dominated[i] is None else candidates[dominated[i] or 0].name,
            above_noise=above_noise(kls[i], floor),
            noise_ratio=noise_ratio(kls[i], floor),
            within_tolerance=changes[i].value <= tolerance,
        )
        for i, rows in enumerate(candidates)
    ]
    order = np.argsort([kl.value for kl in kls], kind="stable")
    return tuple(ranked[i] for i in order)


def relative_change(delta_cross_entropy: Measurement) -> Measurement:
    """exp(ΔCE) − 1, the relative change of the perplexity, with the interval's ends likewise.

    >>> change = relative_change(Measurement(0.0, "nats/token", 0.01, 9, 9, ""))
    >>> change.value, [round(end, 4) for end in change.interval]
    (0.0, [-0.0194, 0.0198])
    """
    low, high = delta_cross_entropy.interval
    value = _expm1(delta_cross_entropy.value)
    factor = math.inf if math.isinf(value) else 1 + value
    return replace(
        delta_cross_entropy,
        value=value,
        unit="",
        standard_error=delta_cross_entropy.standard_error * factor,
        independent_error=delta_cross_entropy.independent_error * factor,
        bounds=(_expm1(low), _expm1(high)),
    )


def _expm1(x: float) -> float:
    """e^x − 1; infinity where that is beyond a double."""
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf


def dominating(sizes: Sequence[int | None], kls: Sequence[float]) -> list[int | None]:
    """For each candidate the nearest of those that are both smaller and nearer, if there is one.

    Equal in one and better in the other counts, too.  A candidate of unknown size neither dominates
    nor is dominated.

    >>> dominating([8, 4, 4, 2], [0.1, 0.2, 0.3, 0.5])
    [None, None, 1, None]
    """
    better: list[int | None] = []
    for i, (size, kl) in enumerate(zip(sizes, kls, strict=True)):
        rivals = [
            j
            for j, (other, other_kl) in enumerate(zip(sizes, kls, strict=True))
            if j != i
            and size is not None
            and other is not None
            and other <= size
            and other_kl <= kl
            and (other, other_kl) != (size, kl)
        ]
        better.append(min(rivals, key=lambda j: kls[j]) if rivals else None)
    return better


def choose(ranked: Sequence[RankedCandidate]) -> str | None:
    """The smallest candidate whose ΔCE is within the tolerance, the nearest of equals.

    None where there is none, where no size is known, and where all are larger than the reference.
    """
    accepted = [
        row
        for row in ranked
        if row.within_tolerance
        and row.size_bytes is not None
        and (row.share_of_original is None or row.share_of_original <= 1)
    ]
    if not accepted:
        return None
    return min(accepted, key=lambda row: (row.size_bytes or 0, row.kl.value)).name
