"""Arrays that move to disk when they are long."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.runtime import columns
from kullback.runtime.columns import Column


@pytest.mark.parametrize("limit", [0, 100, 1 << 20])
def test_slices_are_those_of_an_array(limit, monkeypatch):
    """In memory, on disk, and where it moves in between."""
    monkeypatch.setattr(columns, "IN_MEMORY", limit)
    monkeypatch.setattr(columns, "PART_ROWS", 7)
    values = np.random.default_rng(0).integers(-1000, 1000, 95)
    column = Column(np.int32)
    for part in np.split(values, [3, 3, 40]):
        column.append(part)
    assert len(column) == 95
    assert column[:].dtype == np.int32
    for rows in (slice(None), slice(0, 0), slice(90, 200), slice(-5, None), slice(10, 5)):
        np.testing.assert_array_equal(column[rows], values[rows])
    index = np.array([0, 1, 6, 7, 50, 94])
    np.testing.assert_array_equal(column.take(index), values[index])
    np.testing.assert_array_equal(np.concatenate(list(column.parts(9))), values)
    np.testing.assert_array_equal(np.asarray(column), values)
    np.testing.assert_array_equal(column.mapped(), values)


def test_a_step_is_refused():
    """A column is read in order."""
    with pytest.raises(ValueError, match="step"):
        Column.of(np.arange(4))[::2]
