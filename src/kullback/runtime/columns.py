"""Long arrays that are appended to: in memory while they are short, in a temporary file after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from numpy.typing import DTypeLike

from kullback.runtime.temporary import SharedFile, TemporaryBytes

__all__ = ["IN_MEMORY_EACH", "PART_ROWS", "Column"]

# Columns up to this size are in memory.
IN_MEMORY = 8 << 20
# Bytes in memory of each of many columns: of all rows, measures or orders of n-grams.
IN_MEMORY_EACH = 1 << 20
# Rows of a part where a column is read from the beginning to the end.
PART_ROWS = 1 << 18


class Column:
    """An array of one type and one axis, n entries, that may be longer than memory.

    Up to `in_memory` bytes are in memory, 8 MB by default.  Slices are new arrays.  Several threads
    may read, also while one appends.

    >>> column = Column(np.int32)
    >>> column.append(np.arange(5))
    >>> column[1:3].tolist(), len(column), column.dtype.name
    ([1, 2], 5, 'int32')
    """

    def __init__(self, dtype: DTypeLike, in_memory: int | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self._bytes = TemporaryBytes(IN_MEMORY if in_memory is None else in_memory)

    @classmethod
    def of(
        cls,
        values: Shaped[np.ndarray, "n"],
        dtype: DTypeLike | None = None,
        in_memory: int | None = None,
    ) -> Column:
        """A column of `values`."""
        column = cls(values.dtype if dtype is None else dtype, in_memory)
        column.append(values)
        return column

    @classmethod
    def opened(cls, file: SharedFile, dtype: DTypeLike) -> Column:
        """The column of another process of this machine that has given its file."""
        column = cls(dtype)
        column._bytes = TemporaryBytes.opened(file)
        return column

    def shared(self) -> SharedFile:
        """The file for `opened` in another process, as long as this column is here."""
        return self._bytes.shared()

    def __len__(self) -> int:
        return len(self._bytes) // self.dtype.itemsize

    def append(self, values: Shaped[np.ndarray, "m"]) -> None:
        """Add values, in the column's type; raises `RunError` where the disk is full."""
        self._bytes.append(np.ascontiguousarray(values, self.dtype).tobytes())

    def __getitem__(self, rows: slice) -> Shaped[np.ndarray, "m"]:
        begin, end, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("a column is read in slices of step 1")
        size = self.dtype.itemsize
        content = self._bytes.read(begin * size, max(begin, end) * size)
        values: np.ndarray[Any, Any] = np.frombuffer(content, self.dtype)
        return values

    def take(self, index: Int[np.ndarray, "m"]) -> Shaped[np.ndarray, "m"]:
        """The entries at increasing places `index`."""
        taken: np.ndarray[Any, Any] = np.empty(len(index), self.dtype)
        first = 0
        while first < len(index):
            begin = int(index[first])
            last = int(np.searchsorted(index, begin + PART_ROWS))
            part = self[begin : int(index[last - 1]) + 1]
            taken[first:last] = part[index[first:last] - begin]
            first = last
        return taken

    def mapped(self) -> Shaped[np.ndarray, "n"]:
        """All entries, read-only; memory-mapped where they are in a file."""
        values: np.ndarray[Any, Any] = np.frombuffer(self._bytes.mapped(), self.dtype)
        return values

    def parts(self, rows: int = PART_ROWS) -> Iterator[Shaped[np.ndarray, "m"]]:
        """All entries in order, at most `rows` at a time."""
        for begin in range(0, len(self), rows):
            yield self[begin : begin + rows]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
