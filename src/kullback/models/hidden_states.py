"""The hidden states of many inputs between two layers, where there is space for them.

They are on the model's device, in memory, or in a file without a name in the folder of temporary
files, which disappears with the process however that ends.

Axes: N sequences, T positions, D width.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kullback.errors import RunError
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.temporary import temporary_folder
from kullback.runtime.weights import tensor_bytes

__all__ = ["HiddenStates", "Place"]

Place: TypeAlias = Literal["device", "memory", "disk"]


class HiddenStates:
    """Tensors [N T D] by their number, each of which is replaced when a layer is done.

    Several threads may use different numbers.  Raises `RunError` where the disk is full.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        tail: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        place: Place,
    ) -> None:
        """`tail` is the shape of a position's numbers: D, or several streams of D."""
        self._shapes, self._dtype, self._device = shapes, dtype, device
        self._tail, width = tuple(tail), math.prod(tail)
        self._row_bytes = width * dtype.itemsize
        rows = np.array([n * t for n, t in shapes], np.int64)
        self._first = np.concatenate([[0], np.cumsum(rows)])
        total = int(self._first[-1])
        self._rows_RD: Tensor | None = None
        self._descriptor: int | None = None
        if place == "disk":
            self._descriptor = _file(total * self._row_bytes)
        else:
            where = device if place == "device" else torch.device("cpu")
            self._rows_RD = torch.empty((total, width), dtype=dtype, device=where)

    def __getitem__(self, i: int) -> Float[Tensor, "N T D"]:
        shape = (*self._shapes[i], *self._tail)
        first, last = int(self._first[i]), int(self._first[i + 1])
        if self._rows_RD is not None:
            return self._rows_RD[first:last].to(self._device).view(shape)
        assert self._descriptor is not None
        hidden = torch.empty(shape, dtype=self._dtype)
        target, place = memoryview(tensor_bytes(hidden)), first * self._row_bytes
        while target:
            count = os.preadv(self._descriptor, [target], place)
            if not count:
                raise RunError("a temporary file was cut short: run the command again")
            target, place = target[count:], place + count
        return hidden.to(self._device)

    def __setitem__(self, i: int, hidden_NTD: Float[Tensor, "N T D"]) -> None:
        first, last = int(self._first[i]), int(self._first[i + 1])
        if self._rows_RD is not None:
            flat_RD = hidden_NTD.reshape(last - first, -1)
            self._rows_RD[first:last] = flat_RD.to(self._rows_RD.device)
            return
        assert self._descriptor is not None
        rest, place = memoryview(tensor_bytes(hidden_NTD)), first * self._row_bytes
        try:
            while rest:
                count = os.pwrite(self._descriptor, rest, place)
                rest, place = rest[count:], place + count
        except OSError as error:  # of a file system that promises no space
            raise _full(int(self._first[-1]) * self._row_bytes, error) from None

    def close(self) -> None:
        """Give the memory or the file back."""
        self._rows_RD = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self.close()


def _file(size: int) -> int:
    """The descriptor of a file without a name that has space for `size` bytes."""
    folder = temporary_folder()
    try:
        descriptor, name = tempfile.mkstemp(prefix="kullback-", dir=folder)
        os.unlink(name)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, max(size, 1))
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _full(size, error) from None
    return descriptor


def _full(size: int, error: OSError) -> RunError:
    return RunError(
        f"the hidden states between layers take {shown_bytes(size)}, and {temporary_folder()} "
        f"cannot hold them ({error.strerror}): set TMPDIR to a folder with more space, or give a "
        "shorter text"
    )
