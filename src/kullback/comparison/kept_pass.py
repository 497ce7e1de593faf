"""The pass of one candidate, resumed where an earlier one was interrupted.

The rows of a finished pass are kept until the whole comparison is done, and those of the first
windows where it is interrupted (:mod:`kullback.runtime.interrupted`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from kullback.comparison.divergence_columns import COLUMNS, WIDTHS, DivergenceColumns
from kullback.evaluation.passes import TokenizedText
from kullback.runtime.interrupted import (
    STOPS,
    forget,
    interrupted_path,
    is_anything_kept,
    read_interrupted,
    write_interrupted,
)
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics

__all__ = ["KeptPasses"]

SECONDS_WORTH_KEEPING = 2.0
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
        tokenized: TokenizedText,
        compute: Callable[[int], Iterator[DivergenceStatistics]],
        processes: ProcessGroup,
    ) -> DivergenceStatistics:
        """All rows of a pass on rank 0, none on others; `compute` gives those from a window on.

        `identities` are the fingerprints of both models and their text, and whatever else the rows
        depend on; they are asked for where rows are kept, or are to be.
        """
        columns, first = DivergenceColumns(), 0
        if processes.is_rank_zero and is_anything_kept():
            first = _read(self._path(identities()), tokenized, columns)
        first = processes.broadcast(first)
        if first == len(tokenized.windows):
            self._finished += 1
            return columns.statistics()
        began = time.monotonic()
        try:
            for rows in compute(first):
                columns.append(rows)
        except STOPS as interruption:
            if len(columns) and self._keep(identities, columns):
                interruption.add_note(
                    f"{len(columns):,} of {len(tokenized):,} tokens of this candidate are kept"
                )
            raise
        if processes.is_rank_zero and time.monotonic() - began >= SECONDS_WORTH_KEEPING:
            self._finished += _write(self._path(identities()), columns)
        return columns.statistics()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Tell of the passes that are kept, where the comparison is interrupted inside."""
        try:
            yield
        except STOPS as interruption:
            if self._finished:
                are = "candidate is" if self._finished == 1 else "candidates are"
                interruption.add_note(f"{self._finished} finished {are} kept")
            raise

    def _keep(self, identities: Callable[[], Sequence[str]], columns: DivergenceColumns) -> bool:
        try:
            return _write(self._path(identities()), columns)
        except RuntimeError:  # the weights are on a device that failed
            return False

    def _path(self, identities: Sequence[str]) -> Path | None:
        path = interrupted_path(hashlib.sha256("\0".join(identities).encode()).hexdigest())
        if path is not None and path not in self._paths:
            self._paths.append(path)
        return path

    def forget(self) -> None:
        """Remove all that was kept: the comparison is done."""
        for path in self._paths:
            forget(path)


def _write(path: Path | None, columns: DivergenceColumns) -> bool:
    return path is not None and write_interrupted(path, _pieces(columns))


def _pieces(columns: DivergenceColumns) -> Iterator[bytes | memoryview]:
    """A stream of Arrow's, as `_read` reads it."""
    yield memoryview(_SCHEMA.serialize())
    for part in columns.parts():
        batch = pa.record_batch([_arrow(values) for values in part.values()], schema=_SCHEMA)
        yield memoryview(batch.serialize())


def _arrow(values: Shaped[np.ndarray, "m ..."]) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _read(path: Path | None, tokenized: TokenizedText, columns: DivergenceColumns) -> int:
    """Add the rows of the first windows that were kept, and return how many windows there are.

    0 where none were kept, or they are of another version.
    """
    content = None if path is None else read_interrupted(path)
    if content is None:
        return 0
    try:
        with pa.ipc.open_stream(pa.py_buffer(content)) as reader:
            if reader.schema != _SCHEMA:
                return 0
            batches = list(reader)  # of the memory-mapped file
    except pa.ArrowException:
        return 0
    rows = sum(batch.num_rows for batch in batches)
    if rows not in tokenized.starts[1:]:
        return 0
    for batch in batches:
        arrays = {name: _numpy(batch.column(name)) for name in COLUMNS}
        columns.append_columns(arrays)
    return int(np.searchsorted(tokenized.starts, rows))


def _numpy(array: pa.Array) -> Shaped[np.ndarray, "m ..."]:
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    values: np.ndarray = flat.to_numpy()
    return values if flat is array else values.reshape(len(array), -1)
