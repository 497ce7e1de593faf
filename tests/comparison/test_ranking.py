"""The order of candidates, the Pareto front, and the choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kullback.comparison.ranking import (
    CandidateRows,
    choose,
    dominating,
    rank_candidates,
    relative_change,
)
from kullback.evaluation.measures import Places
from kullback.results.measurement import Measurement


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
