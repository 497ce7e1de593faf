"""Rows of windows, in memory or in temporary files: space for those that are expected, then more.

Axes: m rows of some windows, D numbers of each.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Hashable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Shaped

from kullback.errors import RunError
from kullback.runtime.temporary import temporary_folder

__all__ = ["WindowRows"]

# Rows of at most so many bytes are in memory, more in a temporary file.
IN_MEMORY = 64 << 20
# Of what there is, the part that is added where it is full.
GROWTH = 8


class WindowRows:
    """D numbers a row, of windows by their keys.

    Space for `rows` is taken at once, so that writing to it cannot fail.  Raises `RunError` where
    there is too little.  Several threads may use it.

    >>> rows = WindowRows(4, 2, torch.float32)
    >>> rows.space([7, 8], [1, 2]).copy_(torch.arange(6.0).view(3, 2)).shape
    torch.Size([3, 2])
    >>> rows.read([8]).tolist(), rows.read([8, 7]).shape, rows.size_bytes
    ([[2.0, 3.0], [4.0, 5.0]], torch.Size([3, 2]), 32)
    """

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        self._parts = [_buffer((rows, width), dtype)]
        self._used = 0
        """Rows of the last part."""
        self._places: dict[Hashable, tuple[int, slice]] = {}
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Of the space that is taken."""
        return sum(part.nbytes for part in self._parts)

    def space(self, keys: Sequence[Hashable], sizes: Sequence[int]) -> Shaped[torch.Tensor, "m D"]:
        """Where the rows of windows of these sizes are to be written, one after the other."""
        count = sum(sizes)
        with self._lock:
            last = self._parts[-1]
            if self._used + count > len(last):
                more = max(count, sum(map(len, self._parts)) // GROWTH)
                self._parts.append(_buffer((more, last.shape[1]), last.dtype))
                self._used = 0
            first = self._used
            self._used += count
            for key, size in zip(keys, sizes, strict=True):
                self._places[key] = (len(self._parts) - 1, slice(first, first + size))
                first += size
            return self._parts[-1][self._used - count : self._used]

    def read(self, keys: Sequence[Hashable]) -> Shaped[torch.Tensor, "m D"]:
        """The rows of some windows, one window after the other."""
        with self._lock:
            places = [self._places[key] for key in keys]
            parts = [(self._parts[part], rows) for part, rows in places]
        first, last = parts[0][1].start, parts[-1][1].stop
        if all(a is b and m.stop == n.start for (a, m), (b, n) in pairwise(parts)):
            return parts[0][0][first:last]
        return torch.cat([part[rows] for part, rows in parts])


def _buffer(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in memory, or in a file without a name where it is large."""
    count = shape[0] * shape[1]
    size = count * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    path, folder = None, temporary_folder()
    try:
        with tempfile.NamedTemporaryFile(prefix="kullback-", dir=folder, delete=False) as file:
            path = Path(file.name)
            # Written to through the mapping, where a disk that fills up would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.truncate(size)
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"the predictions of the reference take {size:,} bytes, and {folder} "
            f"cannot hold them ({error}): set TMPDIR to a folder with more space, or compare with "
            "one candidate alone"
        ) from error
    finally:
        if path is not None:
            with suppress(
                OSError
            ):  # the mapping stays; where it cannot be removed yet, it is later
                path.unlink()
