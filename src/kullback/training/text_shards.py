"""Tokens of a text on disk: files in a run folder that are memory-mapped.

::

    tokens/train.bin            ids, uint16 or uint32, without a header (as nanoGPT's)
    tokens/val.bin              those of the validation split
    tokens/val.bytes.bin        the bytes of text of each of these, uint32
    tokens/val.documents.bin    where each of its documents ends, int64

They are written once, before the first step.  `Stamp` says whether a file has changed since.

Axes: n tokens.
"""

from __future__ import annotations

import hashlib
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int

from kullback.errors import RunError
from kullback.runtime.decoding import Hash
from kullback.runtime.files import Draft, draft_of, explained, remove_leftovers

__all__ = [
    "NAMES",
    "MappedTokens",
    "ShardWriter",
    "Stamp",
    "has_tokens",
    "remove_tokens",
    "shard_writers",
    "shards_folder",
]

#: The files, and their types; that of the ids is chosen by the vocabulary.
NAMES = ("train.bin", "val.bin", "val.bytes.bin", "val.documents.bin")
# A file system's clock is coarser than a nanosecond: a change so soon may leave the same time.
RECENT_SECONDS = 2.0
BLOCK = 1 << 22
# Bytes of a mapped file that are read at random before their pages are let go.
MOST_MAPPED = 16 << 20
# What Linux maps around a place whose page is in its cache (fault_around_bytes).
MAPPED_AT_ONCE = 1 << 16


def shards_folder(run: Path) -> Path:
    """Where the tokens of a run are."""
    return run / "tokens"


class Stamp(msgspec.Struct, frozen=True):
    """What a file was: its hash, and what shows without reading that it is still the same."""

    path: str
    size: int
    modified: int
    """Nanoseconds."""
    changed: int
    """Nanoseconds of the last change of its content, name or permissions."""
    sha256: Hash

    @classmethod
    def of(cls, path: Path, sha256: str, name: str | None = None) -> Stamp:
        """The stamp of a file with this hash; `name` in place of its absolute path."""
        status = path.stat()
        changed = status.st_ctime_ns
        if time.time_ns() - max(changed, status.st_mtime_ns) < RECENT_SECONDS * 1e9:
            changed = 0  # not to be told from a change just now: only the hash counts
        shown = str(path.resolve()) if name is None else name
        return cls(shown, status.st_size, status.st_mtime_ns, changed, sha256)

    def still_holds(self, path: Path, hash_of: Callable[[Path], str]) -> bool:
        """Whether the file is unchanged; it is read only where its times have changed."""
        status = path.stat()
        if status.st_size != self.size:
            return False
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return times == (self.modified, self.changed) or hash_of(path) == self.sha256


class ShardWriter:
    """One file of numbers that is appended to."""

    def __init__(self, draft: Draft, dtype: str) -> None:
        self._draft, self._dtype = draft, np.dtype(dtype)
        self.length = 0
        self._hash = hashlib.sha256()

    def append(self, values: Int[np.ndarray, "n"]) -> None:
        """Add numbers."""
        content = np.ascontiguousarray(values, self._dtype).tobytes()
        self._draft.file.write(content)
        self._hash.update(content)
        self.length += len(values)

    def cut(self, length: int) -> Int[np.ndarray, "n"]:
        """Remove and return the numbers from `length` on."""
        size = self._dtype.itemsize
        file = self._draft.file
        file.flush()
        file.seek(length * size)
        removed: Int[np.ndarray, "n"] = np.frombuffer(file.read(), self._dtype)
        file.truncate(length * size)
        file.seek(0)
        self._hash = hashlib.sha256()
        while block := file.read(BLOCK):
            self._hash.update(block)
        self.length = length
        return removed

    def publish(self, path: Path) -> Stamp:
        """Give the file its name, and return its stamp."""
        self._draft.publish()
        return Stamp.of(path, self._hash.hexdigest(), path.name)


@contextmanager
def shard_writers(run: Path, dtype: str) -> Iterator[tuple[ShardWriter, ...]]:
    """Writers of the four files, which the caller publishes.

    Raises `RunError` where the folder has files that are not of a run, or the disk is full.
    """
    folder = shards_folder(run)
    if folder.is_dir():
        remove_leftovers(folder)
        strange = sorted({path.name for path in folder.iterdir()} - set(NAMES))
        if strange:
            raise RunError(
                f"{folder} contains {strange[0]}, which is not of a run: choose another folder "
                "with -o"
            )
    with explained(folder, "the run has not begun"), ExitStack() as stack:
        types = (dtype, dtype, "uint32", "int64")
        yield tuple(
            ShardWriter(stack.enter_context(draft_of(folder / name)), kind)
            for name, kind in zip(NAMES, types, strict=True)
        )


@dataclass(frozen=True, eq=False)
class MappedTokens:
    """A file of tokens; slices and rows are new arrays, so little of it stays in memory."""

    path: Path
    values: Int[np.ndarray, "n"]
    _mapped: mmap.mmap | None
    _read: list[int]

    @classmethod
    def open(cls, path: Path, dtype: str, length: int) -> MappedTokens:
        """Map a file of `length` tokens; `RunError` where it is missing or of another size."""
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                if size != length * np.dtype(dtype).itemsize:
                    raise RunError(
                        f"{path} has {size:,} bytes, not those of {length:,} tokens: restore it, "
                        "or train a new run"
                    )
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except OSError as error:
            raise RunError(
                f"{path} cannot be read ({error.strerror}): restore it, or train a new run"
            ) from None
        if mapped is not None and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        values = np.frombuffer(mapped if mapped is not None else b"", dtype)
        return cls(path, values, mapped, [0])

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: Any) -> Int[np.ndarray, "..."]:
        taken: Int[np.ndarray, "..."] = self.values[places].astype(np.int64)
        self._let_go(taken)
        return taken

    def _let_go(self, taken: Int[np.ndarray, "..."]) -> None:
        """Unmap pages now and then; they stay in the system's cache."""
        row = taken.shape[-1] if taken.ndim else 1
        blocks = taken.size // max(row, 1) * (1 + row * self.values.itemsize // MAPPED_AT_ONCE)
        self._read[0] += blocks * MAPPED_AT_ONCE
        if self._read[0] > MOST_MAPPED and self._mapped is not None:
            if hasattr(mmap, "MADV_DONTNEED"):
                self._mapped.madvise(mmap.MADV_DONTNEED)
            self._read[0] = 0


def has_tokens(run: Path) -> bool:
    """Whether the folder of a run has tokens, complete or not."""
    folder = shards_folder(run)
    return folder.is_dir() and any(folder.iterdir())


def remove_tokens(run: Path) -> None:
    """Remove the tokens of a run, where there are any."""
    folder = shards_folder(run)
    with suppress(OSError):
        for name in NAMES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
