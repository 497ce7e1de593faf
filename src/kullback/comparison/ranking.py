"""Candidates in order: joint intervals, the Pareto front of size and KL, and the choice.

Axes: M scored tokens, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Num
from msgspec.structs import replace

from kullback.comparison.noise_floor import above_noise, noise_ratio
from kullback.evaluation.measures import Places
from kullback.results.comparison import RankedCandidate
from kullback.results.measurement import Measurement
from kullback.runtime.columns import IN_MEMORY_EACH, Column
from kullback.scoring.divergence import DivergenceStatistics, nll_differences
from kullback.uncertainty.documents import document_order
from kullback.uncertainty.intervals import simultaneous_means, within_unit_interval
from kullback.uncertainty.means import MeanRows, means
from kullback.uncertainty.sweeps import compute

__all__ = [
    "CandidateRows",
    "Ties",
    "choose",
    "dominating",
    "group_candidates",
    "rank_candidates",
    "relative_change",
]


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """What is kept of each candidate, when its model has gone."""

    name: str
    size_bytes: int | None
    kl_M: Float[np.ndarray, "M"]
    difference_M: Float[np.ndarray, "M"]
    """The candidate's nll minus the reference's."""
    agreement_M: Bool[np.ndarray, "M"] | Float[np.ndarray, "M"]

    @classmethod
    def of(
        cls, name: str, size_bytes: int | None, divergences: DivergenceStatistics
    ) -> CandidateRows:
        """The rows of a pass, memory-mapped where they are many."""
        difference_M = nll_differences(divergences.reference.nll, divergences.candidate.nll)
        return cls(
            name,
            size_bytes,
            divergences.kl,
            Column.of(difference_M, in_memory=IN_MEMORY_EACH).mapped(),
            Column.of(divergences.top1_agreement, in_memory=IN_MEMORY_EACH).mapped(),
        )


def rank_candidates(
    candidates: Sequence[CandidateRows],
    places: Places,
    original_bytes: int | None,
    floor: Mapping[str, Measurement],
    tolerance: float,
    budget: int | None = None,
) -> tuple[RankedCandidate, ...]:
    """All candidates, the nearest first, with intervals that hold for all of them at once.

    Means are weighted as the protocol counts tokens.  `original_bytes` is the reference's size,
    `floor` the noise floor, `tolerance` the ΔCE in nats/token that is accepted, `budget` the bytes.
    """

    def family(name: str, unit: str) -> list[Measurement]:
        return _family([partial(getattr, rows, name) for rows in candidates], places, unit)

    kls = family("kl_M", "nats/token")
    changes = family("difference_M", "nats/token")
    agreements = [within_unit_interval(mean) for mean in family("agreement_M", "")]
    dominated = dominating([rows.size_bytes for rows in candidates], [kl.value for kl in kls])
    order = np.argsort([kl.value for kl in kls], kind="stable").tolist()
    fits = [_fits(candidates[i].size_bytes, budget) for i in order]
    best = fits.index(True) if True in fits else 0
    ties = group_candidates(
        [candidates[i].kl_M for i in order], [kls[i] for i in order], places, best
    )
    return tuple(
        RankedCandidate(
            name=candidates[i].name,
            size_bytes=candidates[i].size_bytes,
            share_of_original=_share(candidates[i].size_bytes, original_bytes),
            kl=kls[i],
            delta_cross_entropy=changes[i],
            delta_perplexity=relative_change(changes[i]),
            top1_agreement=agreements[i],
            on_pareto_front=candidates[i].size_bytes is not None and dominated[i] is None,
            dominated_by=None if dominated[i] is None else candidates[dominated[i] or 0].name,
            above_noise=above_noise(kls[i], floor),
            noise_ratio=noise_ratio(kls[i], floor),
            within_tolerance=changes[i].value <= tolerance,
            fits_budget=fits[rank],
            farther=ties.farther[rank],
            group=ties.group[rank],
            undecided=ties.undecided[rank],
            tied_with_best=ties.with_best[rank],
        )
        for rank, i in enumerate(order)
    )


def _family(
    rows: Sequence[Callable[[], Num[np.ndarray, "M"] | Bool[np.ndarray, "M"]]],
    places: Places,
    unit: str = "nats/token",
) -> list[Measurement]:
    """The joint means of rows, of which a weighted copy is in memory one at a time."""
    document_M, weight_M = places.document_M, places.weight_M
    if document_order(document_M) is not None:  # documents that are not contiguous
        values_KM = np.stack([values() for values in rows]) * weight_M
        return simultaneous_means(values_KM, document_M, unit, weight_M)

    def read(_: None) -> MeanRows:
        return MeanRows(document_M, weight_M, (values() * weight_M for values in rows))

    return compute(means(read, [unit] * len(rows), joint=True), lambda: [None])


def _fits(size: int | None, budget: int | None) -> bool | None:
    return None if size is None or budget is None else size <= budget


def _share(size: int | None, original: int | None) -> float | None:
    return size / original if size and original else None


# --- ties ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ties:
    """What the text can tell apart, of candidates in the order of their KL."""

    group: tuple[int, ...]
    """From 1 on."""
    farther: tuple[Measurement | None, ...]
    """The KL less that of the candidate before."""
    undecided: tuple[bool, ...]
    """Whether nothing can be said of a candidate and the group before it."""
    with_best: tuple[bool | None, ...]
    """None where nothing can be said."""


def group_candidates(
    kls: Sequence[Float[np.ndarray, "M"]],
    joint: Sequence[Measurement],
    places: Places,
    best: int = 0,
) -> Ties:
    """Which of the candidates, the nearest first, cannot be told apart.

    Two candidates are tied where the difference of their KL, token by token, has an interval that
    contains 0.  A candidate that is not tied with the one before it begins a group.  In the group
    of the `best` it must be tied with the best, too, since many small steps may add up.  The
    intervals of all these differences hold at once.  Where a text has too few independent pieces
    for an interval of the difference, candidates are told apart by the `joint` intervals of their
    means, if these are disjoint; otherwise nothing can be said.
    """
    finite = [bool(np.isfinite(kl_M).all()) for kl_M in kls]
    pairs = [(i - 1, i) for i in range(1, len(kls))]
    pairs += [(best, i) for i in range(best + 2, len(kls))]
    known = [(a, b) for a, b in pairs if finite[a] and finite[b]]
    differences = [partial(np.subtract, kls[b], kls[a]) for a, b in known]
    measured = _family(differences, places) if known else []
    difference = dict(zip(known, measured, strict=True))

    def tied(a: int, b: int) -> bool | None:
        if (a, b) not in difference:
            return np.array_equal(kls[a], kls[b])
        if difference[a, b].has_interval:
            low, high = difference[a, b].interval
            return low <= 0 <= high
        if np.array_equal(kls[a], kls[b]):
            return True
        return False if _are_disjoint(joint[a], joint[b]) else None

    group, undecided = [1], [False]
    with_best: list[bool | None] = [best == 0]
    for i in range(1, len(kls)):
        with_before = tied(i - 1, i)
        number = group[-1] if with_before else group[-1] + 1
        to_best = tied(best, i) if i >= best else False
        is_in_best = i > best and number == group[best]
        undecided.append(with_before is None or (is_in_best and to_best is None))
        if is_in_best and not to_best:
            number += 1
        group.append(number)
        with_best.append(to_best if i <= best or to_best is None else number == group[best])
    farther = (None, *(difference.get((i - 1, i)) for i in range(1, len(kls))))
    return Ties(tuple(group), farther, tuple(undecided), tuple(with_best))


def _are_disjoint(a: Measurement, b: Measurement) -> bool:
    """Whether both have an interval, and these have no number in common."""
    (a_low, a_high), (b_low, b_high) = a.interval, b.interval
    return a.has_interval and b.has_interval and (a_high < b_low or b_high < a_low)


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


def choose(ranked: Sequence[RankedCandidate], budget: int | None = None) -> str | None:
    """The smallest candidate whose ΔCE is within the tolerance, the nearest of equals.

    With a budget: the smallest of those that fit and cannot be told from the nearest that fits.
    None where there is none, where no size is known, and where all that are within the tolerance
    are larger than the reference.
    """
    if budget is None:
        accepted = [
            row
            for row in ranked
            if row.within_tolerance
            and (row.share_of_original is None or row.share_of_original <= 1)
        ]
    else:
        accepted = [row for row in ranked if row.fits_budget and row.tied_with_best]
    known = [row for row in accepted if row.size_bytes is not None]
    if not known:
        return None
    return min(known, key=lambda row: (row.size_bytes or 0, row.kl.value)).name
