"""Columns of rows in files, which a killed or interrupted process leaves to the one that resumes.

They are in a folder ``.NAME.rows`` beside the file NAME, for which they are written:

===============  ==================================================================================
``0.column``     the first column, with space for a header before it: it becomes the file itself
``1.column`` …   the other columns
``state.json``   what the rows are of; how many there were, with types and checksums, when it was
                 last written
===============  ==================================================================================

The files grow with every row; what is behind the rows of the state is cut off by the run that
resumes.  Only one process may use the folder: the caller has a lock.

Axes: M rows.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import torch
from torch import Tensor

from kullback.errors import RunError
from kullback.runtime.decoding import Count, decode_json, read_bounded
from kullback.runtime.files import write_all, write_atomically
from kullback.runtime.interrupted import is_safe
from kullback.runtime.weights import tensor_bytes

__all__ = ["DTYPES", "NAMES", "GrowingColumn", "KeptColumns"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I32": torch.int32,
    "U8": torch.uint8,
}
"""By the names of the safetensors format."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What a killed run loses, at most, and the time of a window.
SECONDS_PER_SAVE = 30.0
PIECE_BYTES = 1 << 20
STATE = "state.json"

_CRC = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class _ColumnState(msgspec.Struct):
    """A column, all of whose rows are in its file."""

    name: str
    dtype: str
    shape: Annotated[list[Count], msgspec.Meta(max_length=7)]
    crc: _CRC


class _State(msgspec.Struct):
    """The content of ``state.json``."""

    identity: str
    rows: Count
    columns: list[_ColumnState]
    notes: dict[str, str]


@dataclass(eq=False)
class GrowingColumn:
    """A tensor that grows in a file."""

    file: BinaryIO
    """Without a buffer."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Of one row."""
    begin: int = 0
    """Where in the file the first row is."""
    rows: int = 0
    crc: int = 0
    """CRC-32 of the bytes so far."""

    def end(self, rows: int) -> int:
        """Where in the file that many rows end."""
        return self.begin + rows * self.dtype.itemsize * math.prod(self.shape)

    def append(self, values: Tensor) -> None:
        """Write rows; raises `OSError` where they do not fit on the disk."""
        content = tensor_bytes(values)
        write_all(self.file, content)
        self.crc = zlib.crc32(content, self.crc)
        self.rows += len(values)

    def cut(self, rows: int) -> None:
        """Remove all that is in the file behind that many rows."""
        self.file.truncate(self.end(rows))
        self.file.seek(self.end(rows))

    def copy_to(self, target: BinaryIO) -> None:
        """Append the rows to another file without a buffer."""
        self.file.seek(self.begin)
        rest = self.end(self.rows) - self.begin
        while rest:
            piece = self.file.read(min(rest, PIECE_BYTES))
            if not piece:
                raise OSError(f"{self.file.name} was cut short")
            write_all(target, piece)
            rest -= len(piece)

    def is_intact(self, rows: int, crc: int) -> bool:
        """Whether the file has that many rows, and they have this checksum."""
        rest = self.end(rows) - self.begin
        self.file.seek(self.begin)
        actual = 0
        while rest:
            piece = self.file.read(min(rest, PIECE_BYTES))
            if not piece:
                return False
            actual = zlib.crc32(piece, actual)
            rest -= len(piece)
        return actual == crc


class KeptColumns:
    """The columns of one file: `open` them, and in the end `close` them.

    `identity` says what the rows are of; those of another identity are removed, and so are those
    that the checksums find damaged.  With None nothing is kept.  `header_bytes` are those before
    the first row of the first column.

    Raises `OSError` where nothing can be written, `RunError` where another user could write to the
    folder.
    """

    def __init__(self, path: Path, identity: str | None, header_bytes: int) -> None:
        target = Path(os.path.realpath(path))
        self.folder = target.with_name(f".{target.name}.rows")
        self.columns: dict[str, GrowingColumn] = {}
        self.notes: Mapping[str, str] = {}
        """What the writer of the rows that are kept has noted of them."""
        self.kept = 0
        """Rows that another run would resume from."""
        self._identity, self._header_bytes = identity, header_bytes
        self._complete: _State | None = None
        self._saved = time.monotonic()
        self._open = ExitStack()

    def open(self) -> None:
        """Make the folder, or take over the rows that an earlier run has kept in it."""
        self._make_folder()
        try:
            if not self._resume():
                self._begin_again()
        except BaseException:
            self._open.close()
            raise

    def close(self, keep: bool) -> None:
        """Close the files, and `keep` the complete rows for another run; else remove them."""
        # Once the first file has taken its name, it is complete.
        keep = keep and self.main_file().exists()
        try:
            if keep and self._complete is not None:
                with suppress(OSError, RunError):  # the disk is full: earlier rows are kept
                    for column in self.columns.values():
                        column.cut(self._complete.rows)  # makes space for the state
                    self._save(self._complete)
        finally:
            self._open.close()
            if not keep or not self.kept:
                self.kept = 0
                shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> GrowingColumn:
        """A new column, without rows."""
        flags = os.O_CREAT | os.O_EXCL
        column = self._column(len(self.columns), flags, dtype, shape)
        column.cut(0)
        self.columns[name] = column
        return column

    def mark(self, notes: Mapping[str, str]) -> None:
        """The rows so far are complete; now and then this is written to the disk.

        Nothing where the columns do not have the same number of rows.
        """
        rows = {column.rows for column in self.columns.values()}
        if self._identity is None or len(rows) != 1:
            return
        columns = [
            _ColumnState(name, NAMES[column.dtype], list(column.shape), column.crc)
            for name, column in self.columns.items()
        ]
        self._complete = _State(self._identity, rows.pop(), columns, dict(notes))
        if time.monotonic() - self._saved >= SECONDS_PER_SAVE:
            for column in self.columns.values():
                os.fsync(column.file.fileno())
            self._save(self._complete)

    def main_file(self) -> Path:
        """The file of the first column."""
        return self._path(0)

    def _make_folder(self) -> None:
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700, parents=True)
        if not is_safe(self.folder):
            raise RunError(
                f"{self.folder}, where the rows are kept until they are complete, is not a folder "
                "that only you can write to: remove it, or choose another name"
            )

    def _resume(self) -> bool:
        """Take over the rows of an earlier run; False where there are none of this identity."""
        try:
            state = decode_json(read_bounded(self.folder / STATE), _State)
        except (OSError, ValueError):  # missing or damaged
            return False
        if self._identity is None or state.identity != self._identity or not state.columns:
            return False
        self.kept = state.rows
        try:
            for i, about in enumerate(state.columns):
                column = self._column(i, 0, DTYPES[about.dtype], tuple(about.shape))
                if not column.is_intact(state.rows, about.crc):
                    return False
                column.cut(state.rows)
                column.rows, column.crc = state.rows, about.crc
                self.columns[about.name] = column
        except (OSError, KeyError):
            return False
        self.notes, self._complete = state.notes, state
        return True

    def _begin_again(self) -> None:
        self._open.close()
        self.columns, self.kept = {}, 0
        for file in self.folder.iterdir():
            file.unlink()

    def _column(
        self, i: int, flags: int, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> GrowingColumn:
        flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path(i), flags, 0o666)
        file = self._open.enter_context(os.fdopen(descriptor, "r+b", buffering=0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{self._path(i)} is not a regular file")
        return GrowingColumn(file, dtype, shape, self._header_bytes if i == 0 else 0)

    def _path(self, i: int) -> Path:
        return self.folder / f"{i}.column"

    def _save(self, state: _State) -> None:
        write_atomically(self.folder / STATE, msgspec.json.encode(state))
        self.kept = state.rows
        self._saved = time.monotonic()
