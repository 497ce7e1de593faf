"""The order of candidates, the Pareto front, and the choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kullback.comparison.ranking import (
    CandidateRows,
    Ties,
    choose,
    dominating,
    group_candidates,
    rank_candidates,
    relative_change,
)
from kullback.evaluation.measures import Places
from kullback.results.measurement import Measurement
from kullback.uncertainty.intervals import simultaneous_means


def test_a_candidate_is_dominated_exactly_where_another_is_as_good_in_both_and_better_in_one():
    """The dominating candidate is the nearest of those, and the others are on the front."""
    rng = np.random.default_rng(3)
    sizes, kls = rng.integers(1, 6, 30).tolist(), rng.integers(1, 6, 30).tolist()
    dominated = dominating(sizes, kls)
    for i in range(30):
        rivals = [
            j
            for j in range(30)
            if sizes[j] <= sizes[i]
            and kls[j] <= kls[i]
            and (sizes[j] < sizes[i] or kls[j] < kls[i])
        ]
        assert (dominated[i] is None) == (not rivals)
        if rivals:
            assert kls[dominated[i]] == min(kls[j] for j in rivals)


def test_a_candidate_of_unknown_size_neither_dominates_nor_is_dominated():
    """Without a size nothing can be said of the front."""
    assert dominating([None, 4, 5], [0.1, 0.2, 0.3]) == [None, None, 1]


def rows(name: str, size: int | None, change: float) -> CandidateRows:
    """A candidate whose nll differs from the reference's by `change` on average."""
    noise = np.random.default_rng(0).normal(0.0, 0.01, 400)
    return CandidateRows(name, size, np.full(400, abs(change)), noise + change, np.ones(400))


def places() -> Places:
    """400 tokens of 20 documents."""
    ones = np.ones(400)
    return Places(np.arange(400) // 20, np.arange(400), ones.astype(np.int64), ones, ones)


def test_the_smallest_within_the_tolerance_is_chosen():
    """A larger candidate that is nearer is not chosen, nor a smaller one beyond the tolerance."""
    candidates = [rows("large", 9, 0.001), rows("middle", 5, 0.008), rows("small", 2, 0.1)]
    ranked = rank_candidates(candidates, places(), 10, {}, tolerance=0.01)
    assert [row.name for row in ranked] == ["large", "middle", "small"]
    assert choose(ranked) == "middle"
    assert [row.within_tolerance for row in ranked] == [True, True, False]
    assert ranked[1].share_of_original == 0.5
    assert choose(rank_candidates([rows("x", None, 0.0)], places(), 10, {}, 0.01)) is None


def kl_rows(mean: float, seed: int, spread: float = 0.01) -> np.ndarray:
    """A KL of that mean at each of 400 tokens."""
    return mean + spread * np.random.default_rng(seed).normal(size=400)


def grouped(kls: list[np.ndarray], where: Places | None = None, best: int = 0) -> Ties:
    """The groups of candidates, with the joint intervals of their means."""
    where = where or places()
    joint = simultaneous_means(np.stack(kls), where.document_M, "nats/token")
    return group_candidates(kls, joint, where, best)


def test_candidates_are_tied_by_their_paired_difference():
    """Equal noise cancels: marginal intervals overlap, and the text still tells them apart."""
    noise = np.random.default_rng(0).normal(size=400)
    alike = [0.5 + noise, 0.501 + noise + 1e-4 * np.random.default_rng(1).normal(size=400)]
    ties = grouped(alike)
    assert ties.group == (1, 2)
    assert ties.with_best == (True, False)
    assert ties.farther[0] is None
    assert ties.farther[1].value == pytest.approx(0.001, rel=0.01)
    unlike = [0.5 + noise, 0.501 + np.random.default_rng(1).normal(size=400)]
    ties = grouped(unlike)
    assert ties.group == (1, 1)
    assert ties.with_best == (True, True)


def test_small_steps_that_add_up_are_told_from_the_best():
    """Each is tied with the one before it, the later ones not with the first."""
    noise = np.random.default_rng(0).normal(0.0, 0.01, (7, 400))
    noise -= noise.mean(axis=1, keepdims=True)
    steps = [0.1 + 0.0008 * i + noise_M for i, noise_M in enumerate(noise)]
    ties = grouped(steps)
    for difference in ties.farther[1:]:
        low, high = difference.interval
        assert low < 0 < high
    assert ties.group[:2] == (1, 1)
    assert ties.group[-1] == 2
    assert ties.with_best == tuple(group == 1 for group in ties.group)


def test_the_intervals_of_neighbours_hold_at_once():
    """With many candidates they are wider than that of one pair alone."""
    kls = [kl_rows(0.1 + 0.01 * i, i) for i in range(8)]
    alone = grouped(kls[:2]).farther[1]
    among = grouped(kls).farther[1]
    assert among.value == alone.value
    low, high = alone.interval
    assert among.interval[0] < low < high < among.interval[1]


def test_infinite_and_equal_kls_have_groups():
    """Equal ones are tied, an infinite one is only with an equal one."""
    kl, infinite = kl_rows(0.1, 0), np.full(400, np.inf)
    ties = grouped([kl, kl, infinite, infinite])
    assert ties.group == (1, 1, 2, 2)
    assert ties.farther[2] is None


def one_text(size: int = 800) -> Places:
    """The tokens of one document."""
    ones = np.ones(size)
    return Places(np.zeros(size, np.int64), np.arange(size), ones.astype(np.int64), ones, ones)


def test_nothing_is_said_of_a_difference_without_an_interval():
    """Not tied; told apart only where the joint intervals of the two KLs are disjoint."""
    noise = np.random.default_rng(0).normal(size=800)
    drift = np.where(np.arange(800) < 400, 0.05, -0.05)  # one long regime: two pieces
    near = [1 + noise, 1.01 + noise + drift]
    ties = grouped(near, one_text())
    assert not ties.farther[1].has_interval
    assert (ties.group, ties.undecided, ties.with_best) == ((1, 2), (False, True), (True, None))
    far = [1 + noise, 3 + noise + drift]
    ties = grouped(far, one_text())
    assert not ties.farther[1].has_interval
    assert (ties.group, ties.undecided, ties.with_best) == ((1, 2), (False, False), (True, False))
    short = grouped([near[0][:20], near[1][:20]], one_text(20))
    assert short.undecided == (False, True)
    assert grouped([noise[:20], noise[:20]], one_text(20)).with_best == (True, True)


def test_a_budget_chooses_the_smallest_of_the_nearest_that_fit():
    """The nearest that fits, or a smaller one that the text cannot tell from it."""
    sizes = {"large": 9, "middle": 6, "small": 4, "tiny": 1}
    kls = {"large": 0.01, "middle": 0.1, "small": 0.1, "tiny": 0.9}
    candidates = [
        CandidateRows(name, sizes[name], kl_rows(kl, i), kl_rows(kl, i), np.ones(400))
        for i, (name, kl) in enumerate(kls.items())
    ]
    for budget, chosen in ((20, "large"), (7, "small"), (5, "small"), (3, "tiny"), (0, None)):
        ranked = rank_candidates(candidates, places(), 10, {}, 0.01, budget)
        assert choose(ranked, budget) == chosen, budget
        assert {row.name for row in ranked if row.fits_budget} == {
            name for name, size in sizes.items() if size <= budget
        }
    assert [row.group for row in ranked] == [1, 2, 2, 3]
    unknown = rank_candidates([rows("x", None, 0.0)], places(), 10, {}, 0.01, 5)
    assert (choose(unknown, 5), unknown[0].fits_budget) == (None, None)


def test_what_is_larger_than_the_reference_is_not_chosen():
    """Beside a recording of a quantised model the original saves nothing."""
    candidates = [rows("original", 20, 0.001), rows("other", 30, 0.002)]
    assert choose(rank_candidates(candidates, places(), 10, {}, tolerance=0.01)) is None


def test_the_change_of_the_perplexity_is_that_of_its_ratio():
    """exp(ΔCE) − 1, and the ends of its interval likewise; infinity stays infinite."""
    change = relative_change(Measurement(0.0089, "nats/token", 0.0017, 900, 30, "", 29.0))
    assert change.value == pytest.approx(math.exp(0.0089) - 1)
    low, high = Measurement(0.0089, "nats/token", 0.0017, 900, 30, "", 29.0).interval
    assert change.interval == pytest.approx((math.expm1(low), math.expm1(high)))
    assert relative_change(Measurement(math.inf, "", math.inf, 9, 0, "")).value == math.inf
