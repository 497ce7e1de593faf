"""Rows of comparisons, which move to disk when they are many."""

from __future__ import annotations

import mmap
from operator import attrgetter

import numpy as np
import pytest

from divergence_samples import random_rows
from kullback.comparison import divergence_columns
from kullback.comparison.divergence_columns import COLUMNS, DivergenceColumns
from kullback.comparison.ranking import CandidateRows
from kullback.scoring.divergence import concatenate_divergences

WINDOWS = (3, 64, 1, 40, 64)


@pytest.mark.parametrize(("limit", "at_once"), [(0, 1), (0, 70), (100, 50), (1 << 20, 8192)])
def test_the_rows_are_those_that_were_added(limit, at_once, monkeypatch):
    """Bit for bit, in memory and on disk, in the statistics and in the parts."""
    monkeypatch.setattr(divergence_columns, "IN_MEMORY_EACH", limit)
    monkeypatch.setattr(divergence_columns, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(divergence_columns, "PART_ROWS", 60)
    windows = [random_rows(count, seed) for seed, count in enumerate(WINDOWS)]
    expected = concatenate_divergences(windows)
    columns = DivergenceColumns()
    for rows in windows:
        columns.append(rows)
    assert len(columns) == sum(WINDOWS)
    parts = list(columns.parts(0, columns.settled()))
    again = DivergenceColumns()
    for part in parts:
        again.append_columns(part)
    for statistics in (columns.statistics(), again.statistics()):
        assert len(statistics) == sum(WINDOWS)
        for name in COLUMNS:
            np.testing.assert_array_equal(
                attrgetter(name)(statistics), attrgetter(name)(expected), err_msg=name
            )


@pytest.mark.parametrize("at_once", [1, 70, 8192])
def test_the_rows_since_an_earlier_place_come_in_parts(at_once, monkeypatch):
    """Whether they are settled or still wait to be."""
    monkeypatch.setattr(divergence_columns, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(divergence_columns, "PART_ROWS", 60)
    columns = DivergenceColumns()
    windows = [random_rows(count, seed) for seed, count in enumerate(WINDOWS)]
    for rows in windows:
        columns.append(rows)
    expected = concatenate_divergences(windows).kl
    for first in range(0, len(columns) + 1, 7):
        parts = [part["kl"] for part in columns.parts(first, len(columns))]
        np.testing.assert_array_equal(np.concatenate([*parts, []]), expected[first:])


def base_of(array: np.ndarray) -> object:
    """What owns the memory of an array."""
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def test_rows_beyond_the_limit_are_memory_mapped(monkeypatch):
    """Those of the pass, and those that candidates are ranked by."""
    monkeypatch.setattr(divergence_columns, "IN_MEMORY_EACH", 1000)
    monkeypatch.setattr("kullback.comparison.ranking.IN_MEMORY_EACH", 100)
    columns = DivergenceColumns()
    for seed in range(20):
        columns.append(random_rows(64, seed))
    statistics = columns.statistics()
    for name in COLUMNS:
        assert isinstance(base_of(attrgetter(name)(statistics)), mmap.mmap), name
    ranked = CandidateRows.of("m", None, statistics)
    for rows in (ranked.kl_M, ranked.difference_M, ranked.agreement_M):
        assert isinstance(base_of(rows), mmap.mmap)
    assert ranked.agreement_M.dtype == np.bool_
