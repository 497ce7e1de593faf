"""Rows of records while they are computed: in memory while they are few, then on disk."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from kullback.evaluation.token_records import TYPES, Records
from kullback.runtime.columns import Column

__all__ = ["RecordColumns"]


class RecordColumns:
    """Rows in the order of the text, in the types of the file: 60 bytes each.

    Axis: M rows.
    """

    def __init__(self) -> None:
        self._columns = {name: Column(kind) for name, kind in TYPES.items()}

    def __len__(self) -> int:
        """M."""
        return len(self._columns["document"])

    def append(self, records: Records) -> None:
        """Add rows; raises `RunError` where they do not fit on the disk."""
        for name, values in records.columns().items():
            self._columns[name].append(values)

    def part(self, rows: slice) -> Records:
        """Some of the rows."""
        return Records(**{name: column[rows] for name, column in self._columns.items()})

    def column(self, name: str) -> Shaped[np.ndarray, "M"]:
        """All of a column, in memory."""
        return self._columns[name][:]
