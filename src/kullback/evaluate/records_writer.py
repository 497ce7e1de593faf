"""Writing records, a group of rows at a time, so that a run that was killed can go on.

Rows are written in groups of a fixed number, each to a file of its own in a folder beside the
records, whole or not at all.  A run that is killed and started again goes on after the last whole
group (`RecordsWriter.done`), and the file that it assembles at the end is the same, byte for byte.
The groups of another fingerprint are refused.  What stood at the path before stays there, whole,
until then.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from kullback.errors import InvalidValueError, RunError
from kullback.evaluate.records import Records, RecordsMetadata, from_table, schema_of, to_table
from kullback.files import write_atomically

__all__ = ["RecordsWriter"]

ROWS_PER_GROUP = 65_536


class RecordsWriter:
    """Writes the records of an evaluation, and goes on with those of one that was interrupted.

    Use it as a context manager.  `done` rows are on disk at the start: leave out the windows that
    lie before, and `append` all others in order; rows that are there already are passed over.
    Leaving without an exception assembles the file; leaving with one keeps the groups.

    Raises `RunError` where the folder of groups is of another fingerprint or in use by another
    process, and where nothing can be written.
    """

    def __init__(
        self, path: Path, metadata: RecordsMetadata, rows_per_group: int = ROWS_PER_GROUP
    ) -> None:
        if path.is_dir():
            raise InvalidValueError(f"the records {path} are a folder: give the name of a file")
        if rows_per_group < 1:
            raise InvalidValueError(f"rows_per_group is {rows_per_group}: it must be positive")
        self.path = path
        self.metadata = metadata
        self.folder = path.with_name(f".{path.name}.groups")
        self.rows_per_group = rows_per_group
        self.done = 0
        """Rows on disk when the writing began."""
        self._next = 0
        self._groups = 0
        self._waiting: list[pa.Table] = []
        self._schema = schema_of(metadata)
        self._open = ExitStack()

    def __enter__(self) -> RecordsWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._open.enter_context((self.folder / "lock").open("a+"))
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}; choose another file"
            ) from None
        try:
            _lock(lock, self.path)
            self._go_on()
        except BaseException:
            self._open.close()
            raise
        return self

    def append(self, first_row: int, records: Records) -> None:
        """Add rows that begin at row `first_row` of the file.

        Raises `InvalidValueError` where rows are left out, or where a value does not fit its
        column's type.
        """
        if first_row > self._next:
            raise InvalidValueError(
                f"first_row is {first_row}: rows {self._next} to {first_row - 1} are not written "
                "yet; append in order"
            )
        rows = to_table(records, self._schema)[self._next - first_row :]
        self._next += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= self.rows_per_group:
            waiting = pa.concat_tables(self._waiting).combine_chunks()
            while len(waiting) >= self.rows_per_group:
                self._write_group(waiting[: self.rows_per_group])
                waiting = waiting[self.rows_per_group :]
            self._waiting = [waiting]

    def earlier(self) -> Records:
        """The `done` rows, for those who need them all."""
        tables = [pq.read_table(self._group(i)) for i in range(self.done // self.rows_per_group)]
        return from_table(pa.concat_tables([*tables, self._schema.empty_table()]))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            if kind is None:
                self._assemble()

    def _go_on(self) -> None:
        """Take over the whole groups of an earlier run with the same metadata."""
        about = self.folder / "metadata.json"
        ours = json.dumps([self.rows_per_group, self.metadata.to_json()]).encode()
        if about.is_file() and about.read_bytes() != ours:
            raise RunError(self._refusal(about.read_bytes()))
        if not about.is_file():
            # Groups that nobody says anything about are of no use.
            for group in self.folder.glob("*.parquet"):
                group.unlink()
            write_atomically(about, ours)
        while _whole(self._group(self._groups)):
            self._groups += 1
        self.done = self._next = self._groups * self.rows_per_group

    def _refusal(self, theirs: bytes) -> str:
        try:
            rows_per_group, content = json.loads(theirs)
            other = RecordsMetadata.from_json(content)
            differences = other.fingerprint.differences(self.metadata.fingerprint)
            what = f"with fingerprint {other.fingerprint}, not {self.metadata.fingerprint}"
            if differences:
                what += f" (what differs: {', '.join(differences)})"
            elif rows_per_group != self.rows_per_group:
                what = f"in groups of {rows_per_group} rows, not {self.rows_per_group}"
            else:
                what = "with other names of the model or the documents"
        except (ValueError, KeyError, TypeError):
            what = "that cannot be read"
        return (
            f"{self.folder} holds the rows of an interrupted run {what}: run that again to finish "
            "it, remove the folder, or choose another file"
        )

    def _group(self, i: int) -> Path:
        return self.folder / f"{i:06d}.parquet"

    def _write_group(self, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=self.rows_per_group, compression="zstd")
        write_atomically(self._group(self._groups), sink.getvalue().to_pybytes())
        self._groups += 1

    def _assemble(self) -> None:
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with pq.ParquetWriter(beside, self._schema, compression="zstd") as writer:
                groups = (pq.read_table(self._group(i)) for i in range(self._groups))
                rest = pa.concat_tables([*self._waiting, self._schema.empty_table()])
                for table in itertools.chain(groups, [rest]):
                    # In one piece: how rows came in must not show in the pages.
                    writer.write_table(table.combine_chunks(), self.rows_per_group)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise RunError(
                f"{self.path} cannot be written: {error.strerror or error}; what was there before "
                "is unharmed, and the rows are kept. Free some space, then run the command again"
            ) from error
        shutil.rmtree(self.folder)


def _whole(group: Path) -> bool:
    try:
        return bool(pq.read_metadata(group).num_rows)
    except (OSError, pa.ArrowException):
        return False


def _lock(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise RunError(
            f"{path} is being written by process {lock.read().strip() or 'unknown'}; wait for it, "
            "or choose another file"
        ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
