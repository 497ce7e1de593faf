"""The pass of one candidate, resumed where an earlier one was interrupted or killed.

The rows of a pass are written every half minute, and where it is interrupted or done; they are kept
until the whole comparison is done (:mod:`kullback.runtime.interrupted`).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from kullback.comparison.divergence_columns import COLUMNS, WIDTHS, DivergenceColumns
from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.text_ahead import PassText
from kullback.runtime.arrow_arrays import arrow_array
from kullback.runtime.background import in_background
from kullback.runtime.interrupted import (
    BEGIN,
    STOPS,
    InterruptedFile,
    Mark,
    forget,
    interrupted_path,
    is_anything_kept,
)
from kullback.runtime.interruption import to_keep
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics

__all__ = ["KeptPasses"]

SECONDS_WORTH_KEEPING = 2.0
# What a killed run loses, and the time of the windows it was at.
SECONDS_PER_SAVE = 30.0
# Errors of keeping rows, which neither end the pass nor hide what ended it: the name of the file is
# made of the weights, which are on a device that failed or cannot be read; rows in a temporary file
# cannot be read; the memory is too small for another copy.
NOT_KEPT = (RuntimeError, RunError, MemoryError)
_SCHEMA = pa.schema(
    (name, pa.from_numpy_dtype(kind) if width == 1 else pa.list_(pa.from_numpy_dtype(kind), width))
    for (name, kind), width in zip(COLUMNS.items(), WIDTHS.values(), strict=True)
)


class KeptPasses:
    """The passes of the candidates of one comparison."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._finished = 0
        """Passes all of whose rows are kept."""

    def rows(
        self,
        identities: Callable[[], Sequence[str]],
        text: PassText,
        compute: Callable[[int], Iterator[DivergenceStatistics]],
        processes: ProcessGroup,
    ) -> DivergenceStatistics:
        """All rows of a pass on rank 0, none on others; `compute` gives those from a window on.

        `identities` are the fingerprints of both models and their text, and whatever else the rows
        depend on; they are asked for where rows are kept, or are to be.
        """
        columns, first = DivergenceColumns(), 0
        with to_keep(), _KeptRows(columns, lambda: self._path(identities())) as kept:
            began = time.monotonic()
            try:
                if processes.is_rank_zero and is_anything_kept():
                    first = kept.read(text)
                first = processes.broadcast(first)
                if first and first == len(text.whole.windows):
                    self._finished += 1
                    return columns.statistics()
                if processes.is_rank_zero:
                    kept.begin()
                for rows in compute(first):
                    columns.append(rows)
                    kept.save_now_and_then()
            except STOPS as interruption:
                if len(columns) and (count := kept.save()):
                    interruption.add_note(
                        f"{count:,} of {text.size} tokens of this candidate are kept"
                    )
                raise
            except InvalidValueError:  # another text or model has other rows
                kept.forget()
                raise
            took = time.monotonic() - began
            if processes.is_rank_zero and (kept.count or took >= SECONDS_WORTH_KEEPING):
                self._finished += kept.save() == len(columns)
        return columns.statistics()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Tell of the passes that are kept, where the comparison is interrupted or fails inside."""
        try:
            yield
        except (*STOPS, InvalidValueError) as interruption:
            if self._finished:
                are = "candidate is" if self._finished == 1 else "candidates are"
                interruption.add_note(f"{self._finished} finished {are} kept")
            raise

    def _path(self, identities: Sequence[str]) -> Path | None:
        path = interrupted_path(hashlib.sha256("\0".join(identities).encode()).hexdigest())
        if path is not None and path not in self._paths:
            self._paths.append(path)
        return path

    def forget(self) -> None:
        """Remove all that was kept: the comparison is done."""
        for path in self._paths:
            forget(path)


class _KeptRows:
    """The rows of a pass that are on the disk, in the file of `path`, which may have to wait."""

    def __init__(self, columns: DivergenceColumns, path: Callable[[], Path | None]) -> None:
        self._columns, self._path = columns, path
        self._file: InterruptedFile | None = None
        self._done: tuple[int, Mark] = (0, BEGIN)
        self._known: list[Path | None] = []
        self._saved = math.inf
        self._saving: Callable[[], object] = lambda: None
        """Waits for the thread that writes."""

    def __enter__(self) -> _KeptRows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wait()
        if self._file is not None:
            self._file.close()

    @property
    def count(self) -> int:
        """How many rows are on the disk."""
        return self._done[0]

    def read(self, text: PassText) -> int:
        """Add the rows that are there, and return how many windows they are.

        0 where none are there, or they are of another version.
        """
        file = self._opened(self._path())
        if file is None:
            return 0
        batches: list[pa.RecordBatch] = []
        whole = rows = 0
        pieces = file.read()
        with suppress(pa.ArrowException):
            for piece, _ in pieces:
                if pa.ipc.read_schema(pa.py_buffer(piece)) != _SCHEMA:
                    return 0
                break
            for piece, mark in pieces:
                batches.append(pa.ipc.read_record_batch(pa.py_buffer(piece), _SCHEMA))
                rows += batches[-1].num_rows
                if rows in text.whole.starts[1:]:
                    whole, self._done = len(batches), (rows, mark)
        for batch in batches[:whole]:  # of the memory-mapped file
            self._columns.append_columns({name: _numpy(batch.column(name)) for name in COLUMNS})
        return int(np.searchsorted(text.whole.starts, self.count)) if self.count else 0

    def begin(self) -> None:
        """Let rows be saved every half minute, as soon as it is known where."""
        self._saved = time.monotonic()
        # The weights may still be read for their fingerprint.
        in_background(lambda: self._known.append(self._path()))

    def save_now_and_then(self) -> None:
        """Let a thread write the rows since the last time, where that is long ago."""
        if self._known and time.monotonic() - self._saved >= SECONDS_PER_SAVE:
            self._saved = math.inf  # until it is done
            rows = self._columns.settled()

            def save() -> None:
                self._save(self._known[0], rows)
                self._saved = time.monotonic()

            self._saving = in_background(save)

    def save(self) -> int:
        """Write all rows; how many are on the disk, which may be full."""
        self._wait()
        with suppress(*NOT_KEPT):
            self._save(self._path(), len(self._columns))
        return self.count

    def forget(self) -> None:
        """Remove what is on the disk."""
        self._wait()
        if self._file is not None:
            self._file.close()
            forget(self._file.path)

    def _save(self, path: Path | None, rows: int) -> None:
        file = self._opened(path)
        if file is not None:
            mark = file.append(self._pieces(rows), self._done[1])
            if mark is not None:
                self._done = (rows, mark)

    def _wait(self) -> None:
        with suppress(*NOT_KEPT):
            self._saving()

    def _pieces(self, rows: int) -> Iterator[memoryview]:
        """Messages of Arrow's: the schema, then the rows up to so many."""
        if not self.count:
            yield memoryview(_SCHEMA.serialize())
        for part in self._columns.parts(self.count, rows):
            arrays = [arrow_array(part[field.name], field.type) for field in _SCHEMA]
            yield memoryview(pa.record_batch(arrays, schema=_SCHEMA).serialize())

    def _opened(self, path: Path | None) -> InterruptedFile | None:
        if self._file is None and path is not None:
            self._file = InterruptedFile(path)
        return self._file


def _numpy(array: pa.Array) -> Shaped[np.ndarray, "m ..."]:
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    values: np.ndarray = flat.to_numpy()
    return values if flat is array else values.reshape(len(array), -1)
