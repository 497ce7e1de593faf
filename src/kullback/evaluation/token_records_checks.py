"""Checks of records that are read: checksums, types and ranges.

Pages have the CRC-32 of Parquet, but the footer, the headers of pages and the metadata have none.
So the metadata of the file have, under `CHECKSUMS`, JSON with the number of rows, the CRC-32 of the
bytes of each column, one row after the other, that of the entry ``kullback``, and that of the whole
file, whose own eight digits count as zeros.

Axes: M rows.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import IO

import msgspec
import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from kullback.runtime.decoding import decode_json

__all__ = [
    "CHECKSUMS",
    "RowChecksums",
    "check_checksums",
    "check_ranges",
    "check_types",
    "check_whole_file",
    "write_whole_file",
]

CHECKSUMS = b"kullback_checksums"
# Of probabilities in float32, whose sums are rounded.
ROUNDING = 1e-3
# Columns that are counts or ids, with the smallest value of each.
LEAST = {
    "document": 0, "byte_start": 0, "byte_length": 0, "token_id": 0, "position": 0, "rank": 1,
    "top1": 0,
}  # fmt: skip
# What is before the CRC-32 of the whole file, and the digits that it is computed with.
_WHOLE_FILE = b'"whole_file":"'
_ZEROS = b"00000000"
_PIECE_BYTES = 1 << 20
PROBABILITIES = ("top1_probability", "sum_of_squares")


class _Checksums(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the entry `CHECKSUMS`; that of earlier files has no `whole_file`."""

    rows: int
    columns: dict[str, str]
    metadata: str
    whole_file: str = ""


class RowChecksums:
    """The checksums of rows that are added in order, and of the metadata beside them."""

    def __init__(self, metadata: bytes) -> None:
        self._metadata = zlib.crc32(metadata)
        self._columns: dict[str, int] = {}
        self._rows = 0

    def add(self, columns: Mapping[str, Shaped[np.ndarray, "M"]]) -> None:
        """Add rows; each column has the type of the file."""
        for name, values in columns.items():
            content = np.ascontiguousarray(values).view(np.uint8).data
            self._columns[name] = zlib.crc32(content, self._columns.get(name, 0))
        self._rows += len(next(iter(columns.values())))

    def to_json(self) -> bytes:
        """The entry of the file, in which `write_whole_file` replaces the zeros."""
        entry = {
            "rows": self._rows,
            "columns": {name: f"{crc:08x}" for name, crc in self._columns.items()},
            "metadata": f"{self._metadata:08x}",
            "whole_file": _ZEROS.decode(),
        }
        return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def check_checksums(
    entry: bytes | None, metadata: bytes, columns: Mapping[str, Shaped[np.ndarray, "M"]] | None
) -> None:
    """Raise `ValueError` where the entry `CHECKSUMS` of a file is not that of its content.

    A file of kullback 0.1 has no entry.  With `columns` of None only the metadata are checked.
    """
    if entry is None:
        return
    expected = decode_json(entry, _Checksums)
    checksums = RowChecksums(metadata)
    if columns is not None:
        checksums.add(columns)
    actual = decode_json(checksums.to_json(), _Checksums)
    if actual.metadata != expected.metadata:
        raise ValueError("the checksum of the metadata is wrong")
    if columns is None:
        return
    if actual.rows != expected.rows:
        raise ValueError(f"there are {actual.rows:,} rows, and {expected.rows:,} were written")
    for name, crc in actual.columns.items():
        if expected.columns.get(name) != crc:
            raise ValueError(f"the checksum of the column {name} is wrong")


def write_whole_file(file: IO[bytes]) -> None:
    """Write the CRC-32 of a file that is complete otherwise, open for reading and writing."""
    position, crc = _whole_file(file)
    file.seek(position)
    file.write(f"{crc:08x}".encode())


def check_whole_file(entry: bytes | None, file: IO[bytes], metadata_only: bool = False) -> None:
    """Raise `ValueError` where a byte of the file is not what was written.

    Earlier files, and those that other programs wrote, have no checksum of the whole file.  With
    `metadata_only` the file is not read, except for its footer.
    """
    if entry is None:
        footer = _footer(file)
        if CHECKSUMS in footer or _WHOLE_FILE in footer:
            raise ValueError("the entry of its checksums is damaged")
        return
    expected = decode_json(entry, _Checksums).whole_file
    if expected and not metadata_only and expected != f"{_whole_file(file)[1]:08x}":
        raise ValueError("the checksum of the whole file is wrong")


def _footer(file: IO[bytes]) -> bytes:
    """The last bytes of a Parquet file: the footer, its length in four bytes, and four letters."""
    file.seek(-8, os.SEEK_END)
    file.seek(-8 - int.from_bytes(file.read(4), "little"), os.SEEK_END)
    return file.read()


def _whole_file(file: IO[bytes]) -> tuple[int, int]:
    """Where the CRC-32 of the whole file is, and what it should be."""
    footer = _footer(file)
    size, digits = file.tell(), footer.rfind(_WHOLE_FILE) + len(_WHOLE_FILE)
    if digits < len(_WHOLE_FILE):
        raise ValueError("the checksum of the whole file is missing")
    file.seek(0)
    crc, rest = 0, size - len(footer)
    while rest:
        piece = file.read(min(rest, _PIECE_BYTES))
        if not piece:
            raise ValueError("it is truncated")
        crc = zlib.crc32(piece, crc)
        rest -= len(piece)
    crc = zlib.crc32(footer[:digits] + _ZEROS + footer[digits + len(_ZEROS) :], crc)
    return size - len(footer) + digits, crc


def check_types(schema: pa.Schema, types: Mapping[str, type[np.generic]]) -> None:
    """Raise `ValueError` unless the schema has columns of these names and types."""
    for name, kind in types.items():
        if schema.names.count(name) != 1:
            raise ValueError(f"there is no column {name}")
        field = schema.field(name)
        if field.type != pa.from_numpy_dtype(kind):
            raise ValueError(f"the column {name} is of the type {field.type}")


def check_ranges(columns: Mapping[str, Shaped[np.ndarray, "M"]], documents: int) -> None:
    """Raise `ValueError` for values that no evaluation of so many documents writes."""
    if not len(columns["document"]):
        return
    for name, least in LEAST.items():
        if columns[name].min() < least:
            raise ValueError(f"the column {name} has {columns[name].min()}")
    if columns["document"].max() >= documents:
        raise ValueError(
            f"a row is of document {columns['document'].max()}, and there are {documents}"
        )
    weight, nll, entropy = columns["weight"], columns["nll"], columns["entropy"]
    if not (np.isfinite(weight).all() and weight.min() >= 0):
        raise ValueError("the column weight has a value that is negative or not finite")
    for name, values in (("nll", nll), ("entropy", entropy)):
        if np.isnan(values).any() or values.min() < -ROUNDING:
            raise ValueError(f"the column {name} has a value that is negative or not a number")
    for name in PROBABILITIES:
        values = columns[name]
        if not (values.min() >= 0 and values.max() <= 1 + ROUNDING):
            raise ValueError(f"the column {name} has a value outside [0, 1]")
