"""Tensors of safetensors files, read a few at a time into memory that is used again.

Files are read with `preadv`, where the system has it, not memory-mapped: reading does not hold the
GIL, what was read and freed is no longer counted as this process's memory, and a file that is cut
short is an error and not a signal.  They stay open, so that one that is deleted or replaced
meanwhile is read to its end; one that is changed in its place is an error.

New memory costs more than reading into it from the page cache, since the kernel clears it page by
page.  So a block is used again, when no tensor refers to it any more, and has large pages where
Linux has them.

Axes: B bytes.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

from kullback.errors import InvalidValueError

__all__ = ["Blocks", "StoredFile", "StoredTensor", "block_bytes", "read_tensors"]

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""By their names in safetensors; narrower ones are those of quantised models."""
# Where tensors begin in a block: a cache line.
ALIGNMENT = 64
# Bytes that are read before it is seen whether they are still wanted.
AT_ONCE = 64 << 20


class StoredFile:
    """A safetensors file, of which only the header is read at first."""

    def __init__(self, path: str) -> None:
        """Raises what safetensors raises for a damaged file, `InvalidValueError` for a type that
        torch does not have, and `OSError`.
        """
        with safe_open(path, framework="pt"):  # checks the header, and the size of the file
            pass
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - as long as this object lives
        self._place = threading.Lock()
        self._about = self._now()
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        header.pop("__metadata__", None)
        self.tensors = {key: self._tensor(key, 8 + size, about) for key, about in header.items()}
        """By their keys."""

    def _tensor(self, key: str, data: int, about: dict[str, object]) -> StoredTensor:
        dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
        assert isinstance(shape, list)
        assert isinstance(offsets, list)
        if dtype not in DTYPES:
            raise InvalidValueError(
                f"{key} in {self.path} is stored as {dtype}, which is not read layer by layer: "
                "leave out --stream"
            )
        return StoredTensor(key, self, DTYPES[str(dtype)], tuple(shape), data + offsets[0])

    @property
    def size_and_time(self) -> tuple[int, int]:
        """In bytes, and of the last change in nanoseconds."""
        return self._about

    def read(self, begin: int, target: memoryview) -> None:
        """Fill `target` from a place on; raises `InvalidValueError` where the file is cut short."""
        while target:
            count = self._read_some(begin, target[:AT_ONCE])
            if not count:
                raise self._changed()
            target, begin = target[count:], begin + count

    def _read_some(self, begin: int, target: memoryview) -> int:
        """Fill a beginning of `target`; how many bytes."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [target], begin)
        with self._place:
            self._file.seek(begin)
            return self._file.readinto(target) or 0

    def check_unchanged(self) -> None:
        """Raise `InvalidValueError` where somebody has written to the file since it was opened."""
        if self._now() != self._about:
            raise self._changed()

    def _now(self) -> tuple[int, int]:
        about = os.fstat(self._file.fileno())
        return about.st_size, about.st_mtime_ns

    def _changed(self) -> InvalidValueError:
        return InvalidValueError(
            f"{self.path} was changed while it was read layer by layer: see that nothing writes to "
            "the model, then run the command again"
        )

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self._file.close()


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file."""

    key: str
    file: StoredFile
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """Where its bytes begin in the file."""

    @property
    def size_bytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class Blocks:
    """Memory in blocks of one size, each free again when no tensor refers to it any more.

    >>> blocks = Blocks(100)
    >>> first_B = blocks.take()
    >>> first_B.shape, blocks.take().data_ptr() == first_B.data_ptr()
    (torch.Size([100]), False)
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[mmap.mmap] = []

    def take(self) -> UInt8[Tensor, "B"]:
        """A block; raises `MemoryError`."""
        block = self._free.pop() if self._free else _mapped(self.size)
        # The array lives as long as any tensor of its memory.
        array_B = np.frombuffer(block, np.uint8, self.size)
        weakref.finalize(array_B, self._free.append, block).atexit = False
        return torch.from_numpy(array_B)


def block_bytes(tensors: Sequence[StoredTensor]) -> int:
    """What the tensors take in a block."""
    return sum(_aligned(tensor.size_bytes) for tensor in tensors)


def read_tensors(
    tensors: Sequence[StoredTensor], blocks: Blocks, stop: threading.Event | None = None
) -> dict[str, Tensor]:
    """The tensors by their keys, in one block; fewer where `stop` is set meanwhile.

    Raises `InvalidValueError` where a file was changed since it was opened, `OSError`, and
    `MemoryError`.
    """
    block_B, place = blocks.take(), 0
    # In the order of the files.
    order = sorted(tensors, key=lambda tensor: (tensor.file.path, tensor.begin))
    read: dict[str, Tensor] = {}
    for tensor in order:
        own_B = block_B[place : place + tensor.size_bytes]
        for first in range(0, len(own_B), AT_ONCE):
            if stop is not None and stop.is_set():
                return read
            part = own_B[first : first + AT_ONCE].numpy().data
            tensor.file.read(tensor.begin + first, part)
        read[tensor.key] = own_B.view(tensor.dtype).view(tensor.shape)
        place += _aligned(tensor.size_bytes)
    for file in {tensor.file for tensor in order}:
        file.check_unchanged()
    return read


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _mapped(size: int) -> mmap.mmap:
    """New memory of this process alone."""
    try:
        private = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}
        block = mmap.mmap(-1, max(size, 1), **private)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
