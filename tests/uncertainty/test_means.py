"""Means over tokens that come in parts."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty.intervals import mean_with_interval, simultaneous_means
from kullback.uncertainty.means import MeanRows, means
from kullback.uncertainty.sweeps import compute

IDS = {"one text": [40_000], "few texts": [20_000, 9000, 11_000], "documents": [100] * 400}


def parts_of(ids: np.ndarray, x: np.ndarray, values: np.ndarray) -> list[MeanRows]:
    """The rows in five parts."""
    cuts = [7, 7, 13_000, 25_500]
    split = (np.split(array, cuts, axis=-1) for array in (ids, x, values))
    return [MeanRows(*arrays) for arrays in zip(*split, strict=True)]


@pytest.mark.parametrize("sizes", IDS.values(), ids=IDS)
@pytest.mark.parametrize("joint", [True, False])
def test_means_of_parts_are_those_of_arrays(sizes: list[int], joint: bool) -> None:
    """A family of means, joint or not, has the intervals that its arrays give."""
    rng = np.random.default_rng(0)
    ids, x = np.repeat(np.arange(len(sizes)), sizes), rng.integers(1, 6, sum(sizes))
    values = rng.standard_exponential((3, len(ids))) * x
    parts = parts_of(ids, x, values)
    computed = compute(means(lambda part: part, ["nats"] * 3, joint=joint), lambda: parts)
    if joint:
        expected = simultaneous_means(values, ids, "nats", x)
    else:
        expected = [mean_with_interval(row, ids, "nats", x) for row in values]
    for a, b in zip(computed, expected, strict=True):
        assert a.interval == pytest.approx(b.interval, rel=1e-12)
        assert a.independent_error == pytest.approx(b.independent_error, rel=1e-12)
        assert (a.n, a.method, a.clusters) == (b.n, b.method, b.clusters)


def test_an_infinite_value_costs_the_interval_of_its_mean_only() -> None:
    """Separate means keep their intervals beside an infinite one, joint ones do not."""
    values = np.random.default_rng(0).random((2, 40_000))
    values[1, 30_000] = np.inf
    parts = parts_of(np.arange(40_000) // 100, np.ones(40_000), values)
    for joint in (False, True):
        family = compute(means(lambda part: part, ["", ""], joint=joint), lambda: parts)
        assert np.isfinite(family[0].standard_error) == (not joint)
        assert family[1].value == np.inf


def test_nothing_to_divide_by_has_no_mean() -> None:
    """No rows, or denominators of 0, give no measurement."""
    zeros = MeanRows(np.zeros(5, int), np.zeros(5), [np.ones(5)])
    assert compute(means(lambda part: part, [""]), lambda: [zeros]) == []
    assert compute(means(lambda part: part, [""]), lambda: []) == []
