"""Statistics of rows, a dataclass of columns: as a whole, and their rows put into others.

Axes: M rows of a column, m of a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from kullback.scoring.divergence import DivergenceStatistics
from kullback.scoring.token_statistics import TokenStatistics

__all__ = ["concatenated", "like", "mapped", "put"]

Rows = TypeVar("Rows", TokenStatistics, DivergenceStatistics)
AnyRows = TypeVar("AnyRows")


def mapped(rows: AnyRows, function: Callable[[np.ndarray], np.ndarray]) -> AnyRows:
    """The statistics with `function` of each of their columns."""
    assert is_dataclass(rows)
    assert not isinstance(rows, type)
    columns = {}
    for field in fields(rows):
        value = getattr(rows, field.name)
        columns[field.name] = mapped(value, function) if is_dataclass(value) else function(value)
    return type(rows)(**columns)


def like(rows: AnyRows, size: int) -> AnyRows:
    """Uninitialised statistics of `size` rows."""
    return mapped(rows, lambda column_M: np.empty((size, *column_M.shape[1:]), column_M.dtype))


def put(into: object, rows_m: Int[np.ndarray, "m"], part: object) -> None:
    """Set some rows; columns that `part` has not are left."""
    assert is_dataclass(part)
    assert not isinstance(part, type)
    for field in fields(part):
        target, values = getattr(into, field.name), getattr(part, field.name)
        if is_dataclass(values):
            put(target, rows_m, values)
        elif target.shape[1:] == values.shape[1:]:
            target[rows_m] = values


def concatenated(parts: list[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    whole = like(parts[0], sum(map(len, parts)))
    first = 0
    for part in parts:
        put(whole, np.arange(first, first + len(part)), part)
        first += len(part)
    return whole
