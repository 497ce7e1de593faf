"""Token records on disk: a Parquet file of one row a token.

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
rank              int32    1 + the tokens that are more probable
top1              int32    the most probable token
top1_probability  float32
sum_of_squares    float32  Σ q²
================  =======  ====================================================================

The schema's metadata hold, under ``kullback``, JSON with the fingerprint and its parts, the model's
name and the documents' names, bytes and words.  Nothing in a file depends on when or where it was
written.  `kullback.evaluation.token_records_writer` writes them, with checksums that are verified
when they are read (`kullback.evaluation.token_records_checks`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from kullback.errors import InvalidValueError
from kullback.evaluation.token_records_checks import (
    CHECKSUMS,
    check_checksums,
    check_ranges,
    check_types,
    check_whole_file,
)
from kullback.runtime.arrow_arrays import arrow_array
from kullback.runtime.decoding import Count, decode_json
from kullback.runtime.inputs import open_regular
from kullback.runtime.limits import check_fits
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint

__all__ = [
    "TYPES",
    "DocumentInfo",
    "Records",
    "RecordsMetadata",
    "from_table",
    "is_records",
    "read_metadata",
    "read_records",
    "schema_of",
    "to_table",
]

FORMAT = 1
KEY = b"kullback"
MAGIC = b"PAR1"
# In memory: 60 bytes of columns, in Arrow's arrays and in numpy's.
ROW_BYTES = 120
UNITS = {"nll": "nats", "entropy": "nats", "byte_start": "bytes", "byte_length": "bytes"}


@dataclass(frozen=True)
class DocumentInfo:
    """A document, without its text."""

    name: str
    n_bytes: int
    n_words: int


class _Document(msgspec.Struct):
    """A document in the JSON of the metadata."""

    name: str
    bytes: Count
    words: Count


class _Metadata(msgspec.Struct):
    """The JSON of the metadata."""

    format: int
    model: str
    fingerprint: str
    parts: dict[str, str | int | bool | dict[str, str | int | bool | None] | None]
    documents: list[_Document]
    begins_with: int | msgspec.UnsetType | None = msgspec.UNSET


@dataclass(frozen=True)
class RecordsMetadata:
    """What the rows of a file have in common."""

    model: str
    fingerprint: Fingerprint
    documents: tuple[DocumentInfo, ...]
    begins_with: int | msgspec.UnsetType | None = msgspec.UNSET
    """The id of the BOS that each text was read after, None for none; unset where unknown."""

    @classmethod
    def of(
        cls,
        model: str,
        fingerprint: Fingerprint,
        documents: Sequence[Document],
        begins_with: int | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> RecordsMetadata:
        """The metadata of documents that are in memory."""
        infos = tuple(
            DocumentInfo(document.name, document.n_bytes, document.n_words)
            for document in documents
        )
        return cls(model, fingerprint, infos, begins_with)

    def to_json(self) -> str:
        """Canonical JSON, as it is in the file."""
        return json.dumps(
            {
                "format": FORMAT,
                "model": self.model,
                "fingerprint": str(self.fingerprint),
                "parts": dict(self.fingerprint.parts),
                "documents": [
                    {"name": info.name, "bytes": info.n_bytes, "words": info.n_words}
                    for info in self.documents
                ],
                **({} if self.begins_with is msgspec.UNSET else {"begins_with": self.begins_with}),
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, content: str) -> RecordsMetadata:
        """Read what `to_json` wrote; `ValueError` where it is not."""
        data = decode_json(content, _Metadata)
        if data.format != FORMAT:
            raise ValueError(f"format {data.format} is not {FORMAT}")
        fingerprint = Fingerprint(data.parts)
        if data.fingerprint != str(fingerprint):
            raise ValueError(f"the fingerprint {data.fingerprint} is not that of its parts")
        documents = tuple(
            DocumentInfo(info.name, info.bytes, info.words) for info in data.documents
        )
        return cls(data.model, fingerprint, documents, data.begins_with)


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
        return {field.name: getattr(self, field.name) for field in fields(self)}


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


def is_records(path: Path) -> bool:
    """Whether `path` is meant to be a file of records: its name or its first bytes are Parquet's.

    Whether it exists and is complete, `read_records` says.
    """
    if path.is_dir():
        return False
    if path.suffix == ".parquet":
        return True
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_metadata(path: Path) -> RecordsMetadata:
    """What a file of records is about, without its rows; raises as `read_records` does."""
    with _opened(path) as (content, file, metadata):
        _check_file(content, file, None)
        return metadata


def read_records(path: Path) -> tuple[RecordsMetadata, Records]:
    """The metadata and the rows of a file of records.

    Raises `InvalidValueError` where it is missing, cut short, damaged, or another Parquet file.
    """
    with _opened(path) as (content, file, metadata):
        check_types(file.schema_arrow, TYPES)
        check_fits(file.metadata.num_rows * ROW_BYTES, f"the rows of {path}")
        table = file.read(columns=list(TYPES))
        if len(table) != file.metadata.num_rows or any(c.null_count for c in table.columns):
            raise ValueError(f"it has {len(table):,} of {file.metadata.num_rows:,} rows, or nulls")
        records = from_table(table)
        _check_file(content, file, records.columns())
        check_ranges(records.columns(), len(metadata.documents))
        return metadata, records


def _check_file(
    content: BinaryIO,
    file: pq.ParquetFile,
    columns: Mapping[str, Shaped[np.ndarray, "M"]] | None,
) -> None:
    """Raise `ValueError` where a checksum of the file is wrong; of None, of its metadata."""
    entries = file.metadata.metadata
    check_checksums(entries.get(CHECKSUMS), entries[KEY], columns)
    check_whole_file(entries.get(CHECKSUMS), content, metadata_only=columns is None)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, pq.ParquetFile, RecordsMetadata]]:
    """The file and its metadata; whatever goes wrong while it is open is one sentence."""
    try:
        with (
            open_regular(path) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as file,
        ):
            about = (file.metadata.metadata or {}).get(KEY)
            if about is None:
                raise InvalidValueError(
                    f"{path} is a Parquet file, but contains no token records: write "
                    "some with kullback record"
                )
            yield content, file, RecordsMetadata.from_json(about.decode())
    except OSError as error:
        why = error.strerror or str(error).partition("\n")[0] or "it is damaged"
        raise InvalidValueError(f"the records {path} cannot be read: {why}") from None
    except (pa.ArrowException, ValueError, KeyError, MemoryError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(
            f"the records {path} are damaged or of another version: "
            f"{str(error).partition(chr(10))[0] or 'too large'}; write them again"
        ) from None


def schema_of(metadata: RecordsMetadata) -> pa.Schema:
    """The columns of a file, with their units and the metadata."""
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


def to_table(records: Records, schema: pa.Schema) -> pa.Table:
    """Rows as they are written.

    Raises `InvalidValueError` where lengths differ or a value does not fit its column's type.
    """
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
        arrays.append(arrow_array(values.astype(kind, copy=False), pa.from_numpy_dtype(kind)))
    if len({len(array) for array in arrays}) != 1:
        lengths = {name: len(array) for name, array in zip(TYPES, arrays, strict=True)}
        raise InvalidValueError(f"the columns have different lengths: {lengths}")
    return pa.table(arrays, schema=schema)


def from_table(table: pa.Table) -> Records:
    """Rows as they are read."""
    return Records(**{name: table[name].to_numpy() for name in TYPES})
