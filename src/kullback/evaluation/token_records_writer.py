"""Writing records, a group of rows at a time, so that a killed run can resume.

Rows are written in groups of a fixed number, each to a file of its own in a folder beside the
records, complete or not at all:

==================  ===============================================================================
``000000.parquet``  a complete group
``000001.begun``    the first rows of the group that comes next, written anew every 30 seconds
``metadata.json``   what the rows are of
``lock``            locked by the process that writes; ``lock.pid`` names it
==================  ===============================================================================

A run that is killed and started again resumes after the last row there (`RecordsWriter.done`), and
the file that it assembles at the end is the same, byte for byte: its groups are cut by the number
of rows, never by the time.  Text and model may have been renamed meanwhile.  Whole groups of
another fingerprint are refused; a group that has only begun is given up for another run.  A file
that is at the path already is kept, whole, until the new one is assembled.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.token_records import (
    KEY,
    Records,
    RecordsMetadata,
    from_table,
    schema_of,
    to_table,
)
from kullback.evaluation.token_records_checks import CHECKSUMS, RowChecksums, write_whole_file
from kullback.runtime.files import explained, remove_leftovers, replaced, write_atomically
from kullback.runtime.locks import locked, made_folder

__all__ = ["RecordsWriter", "check_groups", "groups_folder", "remove_begun"]

ROWS_PER_GROUP = 65_536
# What a killed run loses, and the time of the window it was at.  A group takes at most 4 MB.
SECONDS_PER_SAVE = 30.0


def check_groups(path: Path) -> None:
    """Raise `InvalidValueError` where the rows of `path` would go elsewhere than to a folder."""
    folder = groups_folder(path)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        what = "a link" if folder.is_symlink() else "a file"
        raise InvalidValueError(
            f"{folder} is {what}, and the rows of {path} are kept in a folder of that name until "
            "they are complete: remove it, or name another file"
        )


def remove_begun(path: Path) -> None:
    """Remove what killed runs left beside finished records, unless it has whole groups.

    Nothing where another process writes it, or where it cannot be removed.
    """
    folder = groups_folder(path)
    if not folder.is_dir() or folder.is_symlink():
        return
    with suppress(RunError, OSError), locked(folder / "lock", str, remove=True):
        if not any(map(_has_rows, folder.glob("*.parquet"))):
            shutil.rmtree(folder, ignore_errors=True)


def groups_folder(path: Path) -> Path:
    """Where the rows of the file `path` are until they are complete."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.groups")


class RecordsWriter:
    """Writes the records of an evaluation, and resumes those of one that was interrupted.

    Use it as a context manager.  `done` rows are on disk at the start: leave out the windows that
    lie before, and `append` all others in order; rows that are there already are passed over.
    Leaving without an exception assembles the file (or, if it is not to be `assembled`, removes the
    rows); leaving with one writes the rows that wait, or removes the folder where there are none.

    Raises `RunError` where the folder has whole groups of another fingerprint or is in use by
    another process, and where nothing can be written.
    """

    def __init__(
        self,
        path: Path,
        metadata: RecordsMetadata,
        rows_per_group: int = ROWS_PER_GROUP,
        assembled: bool = True,
    ) -> None:
        if path.is_dir():
            raise InvalidValueError(f"the records {path} are a folder: give the name of a file")
        if rows_per_group < 1:
            raise InvalidValueError(f"rows_per_group is {rows_per_group}: it must be positive")
        self.path = path
        self.metadata = metadata
        # Where a link leads: two names of one file share the folder and its lock.
        self._target = Path(os.path.realpath(path))
        self.folder = groups_folder(path)
        self.rows_per_group = rows_per_group
        self.assembled = assembled
        self.done = 0
        """Rows on disk when the writing began."""
        self.kept = 0
        """Rows that are on disk now."""
        self._next = 0
        self._groups = 0
        self._waiting: list[pa.Table] = []
        self._saved = 0.0
        self._is_described = False
        self._open = ExitStack()

    def __enter__(self) -> RecordsWriter:
        check_groups(self.path)
        with explained(self.path), ExitStack() as held:
            # Rows of a file that only its owner may read are no one else's before they are in it.
            held.enter_context(made_folder(self.folder, mode=0o700))
            held.enter_context(locked(self.folder / "lock", self._in_use, remove=True))
            self._open = held.pop_all()
        try:
            self._open.callback(self._remove_folder_without_rows)
            remove_leftovers(self.folder)
            remove_leftovers(self._target.parent, self._target.name)
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
        if time.monotonic() - self._saved >= SECONDS_PER_SAVE:
            self._save()

    def earlier(self, rows: int) -> Iterator[Records]:
        """The first `rows` of the rows that were done, in parts."""
        groups = (pq.read_table(self._group(i)) for i in range(self._groups))
        for table in itertools.chain(groups, [self._rest()]):
            part = from_table(table[:rows])
            rows -= len(part)
            yield part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            if kind is None and self.assembled:
                self._assemble()
            elif kind is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            else:
                with suppress(RunError):  # the disk is full: the error that is raised says so
                    self._save()

    def _go_on(self) -> None:
        """Take over the rows of an earlier run with the same metadata."""
        about = self.folder / "metadata.json"
        theirs = about.read_bytes() if about.is_file() else None
        # The fingerprint may still be computed: it is waited for only where there are earlier rows.
        self._is_described = theirs is not None and theirs == self._description()
        if not self._is_described and not (theirs is not None and self._are_ours(theirs)):
            if theirs is not None and any(map(_has_rows, self.folder.glob("*.parquet"))):
                raise RunError(self._refusal(theirs))
            # Groups without a description are of no use, and those of another fingerprint
            # that have only begun are not worth a refusal.
            for pattern in ("*.parquet", "*.begun"):
                for file in self.folder.glob(pattern):
                    file.unlink()
            about.unlink(missing_ok=True)
        while _has_rows(self._group(self._groups)):
            self._groups += 1
        if self._begun().is_file():  # the library loads pandas before it looks
            with suppress(OSError, pa.ArrowException):  # damaged
                self._waiting = [pq.read_table(self._begun())]
        self.done = self._next = self._groups * self.rows_per_group + len(self._rest())
        self.kept = self.done
        self._saved = time.monotonic()

    def _remove_folder_without_rows(self) -> None:
        """Leave nothing behind that no run could resume."""
        files = (*self.folder.glob("*.parquet"), *self.folder.glob("*.begun"))
        if not any(map(_has_rows, files)):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _in_use(self, process: str) -> str:
        return (
            f"{self.path} is being written by process {process}; wait for it, or choose another "
            "file"
        )

    def _are_ours(self, theirs: bytes) -> bool:
        """Whether rows are of this text and model, which had other names."""
        try:
            rows_per_group, content = json.loads(theirs)
            other = RecordsMetadata.from_json(content).fingerprint
        except (ValueError, KeyError, TypeError):
            return False
        return (rows_per_group, other.full) == (self.rows_per_group, self.metadata.fingerprint.full)

    def _refusal(self, theirs: bytes) -> str:
        try:
            rows_per_group, content = json.loads(theirs)
            other = RecordsMetadata.from_json(content)
            differences = other.fingerprint.differences(self.metadata.fingerprint)
            what = f"with fingerprint {other.fingerprint}, not {self.metadata.fingerprint}"
            if differences:
                what += f" (what differs: {', '.join(differences)})"
            else:
                what = f"in groups of {rows_per_group} rows, not {self.rows_per_group}"
        except (ValueError, KeyError, TypeError):
            what = "that cannot be read"
        return (
            f"{self.folder} holds the rows of an interrupted run {what}: run that again to finish "
            "it, remove the folder, or choose another file"
        )

    def _group(self, i: int) -> Path:
        return self.folder / f"{i:06d}.parquet"

    def _begun(self) -> Path:
        return self.folder / f"{self._groups:06d}.begun"

    def _rest(self) -> pa.Table:
        """The rows after the last whole group."""
        # The schema's own empty table would be made with pandas.
        none = pa.Table.from_batches([], self._schema)
        return pa.concat_tables([*self._waiting, none]).combine_chunks()

    def _save(self) -> None:
        """Write the group that has begun, so that its rows are not lost with the process."""
        rest = self._rest()
        if len(rest):
            self._write(self._begun(), rest)
            self.kept = self._groups * self.rows_per_group + len(rest)
        self._waiting = [rest]

    def _write_group(self, table: pa.Table) -> None:
        self._write(self._group(self._groups), table)
        self._begun().unlink(missing_ok=True)
        self._groups += 1
        self.kept = self._groups * self.rows_per_group

    def _description(self) -> bytes:
        return json.dumps([self.rows_per_group, self.metadata.to_json()]).encode()

    @cached_property
    def _schema(self) -> pa.Schema:
        return schema_of(self.metadata)

    def _write(self, path: Path, table: pa.Table) -> None:
        if not self._is_described:
            write_atomically(self.folder / "metadata.json", self._description())
            self._is_described = True
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, row_group_size=self.rows_per_group, compression="zstd",
            write_page_checksum=True,
        )  # fmt: skip
        write_atomically(path, sink.getvalue().to_pybytes())
        self._saved = time.monotonic()

    def _assemble(self) -> None:
        self._save()
        checksums = RowChecksums(self._schema.metadata[KEY])
        with replaced(self.path) as file:
            with pq.ParquetWriter(
                file, self._schema, compression="zstd", write_page_checksum=True
            ) as writer:
                groups = (
                    pq.read_table(self._group(i), page_checksum_verification=True)
                    for i in range(self._groups)
                )
                for table in itertools.chain(groups, [self._rest()]):
                    # In one piece: how rows came in must not show in the pages.
                    writer.write_table(table.combine_chunks(), self.rows_per_group)
                    checksums.add(from_table(table).columns())
                writer.add_key_value_metadata({CHECKSUMS: checksums.to_json()})
            write_whole_file(file)
        # Windows does not remove a file that is locked: the next run uses the folder again.
        shutil.rmtree(self.folder, ignore_errors=True)


def _has_rows(file: Path) -> bool:
    """Whether `file` is a group that can be read."""
    try:
        return bool(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException):
        return False
