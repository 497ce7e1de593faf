"""What was found at each token, on disk: a Parquet file of one row a token.

Any tool that reads Parquet reads it; `read_records` gives arrays.  The columns take 60 bytes a
token before compression:

================  =======  ====================================================================
document          int32    which of the documents in the metadata, from 0
byte_start        int64    where the token begins in the document's UTF-8 bytes
byte_length       int32    its bytes; 0 for a BOS that a preset scores
token_id          int32
position          int32    tokens that the model had read before it, BOS included
weight            float32  how often it counts: 1, unless a preset weighs windows
nll               float64  -log q[token], nats
entropy           float64  H(q), nats
rank              int32    1 + the words that are more probable
top1              int32    the most probable word
top1_probability  float32
sum_of_squares    float32  Σ q²
================  =======  ====================================================================

The schema's metadata hold, under ``kullback``, JSON with the fingerprint and its parts, the model's
name and the documents' names, bytes and words.  Nothing in a file depends on when or where it was
written.

**Interruption.**  Rows are written in groups of a fixed number, each to a file of its own in a
folder beside the records, whole or not at all.  A run that is killed and started again goes on
after the last whole group (`RecordsWriter.done`), and the file that it assembles at the end is the
same, byte for byte.  The groups of another fingerprint are refused.  What stood at the path before
stays there, whole, until then.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from kullback.documents import Document
from kullback.errors import InvalidValueError, RunError
from kullback.evaluate.fingerprint import Fingerprint, Part
from kullback.files import write_atomically

__all__ = [
    "DocumentInfo",
    "Records",
    "RecordsMetadata",
    "RecordsWriter",
    "concatenate_records",
    "read_records",
]

FORMAT = 1
KEY = b"kullback"
ROWS_PER_GROUP = 65_536
UNITS = {"nll": "nats", "entropy": "nats", "byte_start": "bytes", "byte_length": "bytes"}


@dataclass(frozen=True)
class DocumentInfo:
    """A document, without its text."""

    name: str
    n_bytes: int
    n_words: int


@dataclass(frozen=True)
class RecordsMetadata:
    """What the rows of a file have in common."""

    model: str
    fingerprint: Fingerprint
    documents: tuple[DocumentInfo, ...]

    @classmethod
    def of(
        cls, model: str, fingerprint: Fingerprint, documents: Sequence[Document]
    ) -> RecordsMetadata:
        """The metadata of documents that are in memory."""
        found = tuple(DocumentInfo(each.name, each.n_bytes, each.n_words) for each in documents)
        return cls(model, fingerprint, found)

    def to_json(self) -> str:
        """Canonical JSON, as it stands in the file."""
        return json.dumps(
            {
                "format": FORMAT,
                "model": self.model,
                "fingerprint": str(self.fingerprint),
                "parts": dict(self.fingerprint.parts),
                "documents": [
                    {"name": each.name, "bytes": each.n_bytes, "words": each.n_words}
                    for each in self.documents
                ],
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, content: str) -> RecordsMetadata:
        """Read what `to_json` wrote; `ValueError`, `KeyError` or `TypeError` where it is not."""
        data = json.loads(content)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']} is not {FORMAT}")
        parts: dict[str, Part] = data["parts"]
        documents = tuple(
            DocumentInfo(str(each["name"]), int(each["bytes"]), int(each["words"]))
            for each in data["documents"]
        )
        return cls(str(data["model"]), Fingerprint(parts), documents)


@dataclass(frozen=True, eq=False)
class Records:
    """Rows in the order of the text; the columns of the table above."""

    document: Int[np.ndarray, "M"]
    byte_start: Int[np.ndarray, "M"]
    byte_length: Int[np.ndarray, "M"]
    token_id: Int[np.ndarray, "M"]
    position: Int[np.ndarray, "M"]
    weight: Float[np.ndarray, "M"]
    nll: Float[np.ndarray, "M"]
    entropy: Float[np.ndarray, "M"]
    rank: Int[np.ndarray, "M"]
    top1: Int[np.ndarray, "M"]
    top1_probability: Float[np.ndarray, "M"]
    sum_of_squares: Float[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.document)

    def part(self, rows: slice) -> Records:
        """Some of the rows."""
        return Records(**{name: column[rows] for name, column in self.columns().items()})

    def typed(self) -> Records:
        """The rows in the types of the file, so that what is computed from either is the same."""
        return Records(**{name: np.asarray(c, TYPES[name]) for name, c in self.columns().items()})

    def columns(self) -> dict[str, Shaped[np.ndarray, "M"]]:
        """The arrays by name, in the order of the file."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


TYPES: dict[str, type[np.generic]] = {
    "document": np.int32,
    "byte_start": np.int64,
    "byte_length": np.int32,
    "token_id": np.int32,
    "position": np.int32,
    "weight": np.float32,
    "nll": np.float64,
    "entropy": np.float64,
    "rank": np.int32,
    "top1": np.int32,
    "top1_probability": np.float32,
    "sum_of_squares": np.float32,
}


def concatenate_records(parts: Sequence[Records]) -> Records:
    """All rows, one part after the other."""
    names = [each.name for each in fields(Records)]
    return Records(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


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
        self._schema = _schema(metadata)
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
        table = _table(records, self._schema)[self._next - first_row :]
        self._next += len(table)
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= self.rows_per_group:
            waiting = pa.concat_tables(self._waiting).combine_chunks()
            while len(waiting) >= self.rows_per_group:
                self._write_group(waiting[: self.rows_per_group])
                waiting = waiting[self.rows_per_group :]
            self._waiting = [waiting]

    def earlier(self) -> Records:
        """The `done` rows, for those who need them all."""
        tables = [pq.read_table(self._group(i)) for i in range(self.done // self.rows_per_group)]
        return _records(pa.concat_tables([*tables, self._schema.empty_table()]))

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


def read_records(path: Path) -> tuple[RecordsMetadata, Records]:
    """The metadata and the rows of a file that `RecordsWriter` wrote.

    Raises `InvalidValueError` where it is missing, cut short, or another Parquet file.
    """
    try:
        with path.open("rb") as content, pq.ParquetFile(content) as file:
            about = (file.schema_arrow.metadata or {}).get(KEY)
            if about is None:
                raise InvalidValueError(
                    f"{path} is a Parquet file, but no records of ours: write some with kullback "
                    "evaluate --records"
                )
            metadata = RecordsMetadata.from_json(about.decode())
            return metadata, _records(file.read(columns=list(TYPES)))
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0]
        raise InvalidValueError(f"the records {path} cannot be read: {why}") from None
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(
            f"the records {path} are damaged or of another version: "
            f"{str(error).splitlines()[0]}; write them again"
        ) from None


def _schema(metadata: RecordsMetadata) -> pa.Schema:
    columns = [
        pa.field(
            name,
            pa.from_numpy_dtype(kind),
            nullable=False,
            metadata={"unit": UNITS[name]} if name in UNITS else None,
        )
        for name, kind in TYPES.items()
    ]
    return pa.schema(columns, metadata={KEY: metadata.to_json().encode()})


def _table(records: Records, schema: pa.Schema) -> pa.Table:
    columns: Mapping[str, Shaped[np.ndarray, "M"]] = records.columns()
    arrays = []
    for name, kind in TYPES.items():
        values = np.asarray(columns[name])
        if np.issubdtype(kind, np.integer) and len(values):
            limits = np.iinfo(np.dtype(kind).name)
            if values.min() < limits.min or values.max() > limits.max:
                raise InvalidValueError(
                    f"{name} holds {values.max()}: the column goes from {limits.min} to "
                    f"{limits.max}"
                )
        arrays.append(pa.array(values.astype(kind, copy=False)))
    if len({len(array) for array in arrays}) != 1:
        lengths = {name: len(array) for name, array in zip(TYPES, arrays, strict=True)}
        raise InvalidValueError(f"the columns have different lengths: {lengths}")
    return pa.table(arrays, schema=schema)


def _records(table: pa.Table) -> Records:
    return Records(**{name: table[name].to_numpy() for name in TYPES})


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
