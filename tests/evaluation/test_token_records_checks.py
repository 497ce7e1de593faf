"""Damaged records are refused: bits that flipped, values that no evaluation writes, other types."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_records import METADATA, rows

from kullback.errors import InvalidValueError
from kullback.evaluation.token_records import TYPES, read_metadata, read_records
from kullback.evaluation.token_records_checks import CHECKSUMS
from kullback.evaluation.token_records_writer import RecordsWriter


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 1,000 tokens in groups of 300."""
    path = tmp_path_factory.mktemp("records") / "r.parquet"
    with RecordsWriter(path, METADATA, rows_per_group=300) as writer:
        writer.append(0, rows(0, 1000))
    return path


def test_no_flipped_bit_is_accepted(file: Path, tmp_path: Path) -> None:
    """200 files with one bit changed are refused, and each bit of the names of the entries."""
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    # Half of them in the footer, which has no checksum of Parquet's.
    footer = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    schema, entry = content.index(b"ARROW:schema"), content.index(CHECKSUMS, footer)
    flips = [(int(rng.integers(footer * (i % 2), len(content))), i % 8) for i in range(200)]
    flips += [(schema + int(i), 0) for i in rng.integers(10_000, size=20)]
    flips += [
        (place, i) for place in range(entry - 8, entry + len(CHECKSUMS) + 4) for i in range(8)
    ]
    flips += [(content.index(b"kullback", footer) - 3, i) for i in range(8)]
    # The number of entries: with one less, that of the checksums is none.
    flips += [(schema - 3 - i, bit) for i in range(3) for bit in range(8)]
    damaged = tmp_path / "r.parquet"
    for place, bit in flips:
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        damaged.write_bytes(changed)
        with pytest.raises(InvalidValueError):
            read_records(damaged)


def test_files_of_before_are_readable(file: Path, tmp_path: Path) -> None:
    """Files without a checksum of the whole file, and without any."""
    with pq.ParquetFile(file) as parquet:
        entry = json.loads(parquet.metadata.metadata[CHECKSUMS])
    assert len(entry.pop("whole_file")) == 8
    for keep in (True, False):
        table = pq.read_table(file)
        entries = dict(table.schema.metadata)
        if keep:
            entries[CHECKSUMS] = json.dumps(entry).encode()
        pq.write_table(table.replace_schema_metadata(entries), tmp_path / "r.parquet")
        assert read_metadata(tmp_path / "r.parquet") == METADATA
        assert len(read_records(tmp_path / "r.parquet")[1]) == 1000


def rewritten(file: Path, path: Path, keep: bool, **columns: Any) -> Path:
    """The same records with other columns; with or without the checksums."""
    table = pq.read_table(file)
    entries = dict(table.schema.metadata)
    with pq.ParquetFile(file) as parquet:
        checksums = parquet.metadata.metadata[CHECKSUMS]
    if keep:
        entries[CHECKSUMS] = checksums
    else:
        entries.pop(CHECKSUMS, None)
    for name, values in columns.items():
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table.replace_schema_metadata(entries), path)
    return path


@pytest.mark.parametrize("name", TYPES)
def test_a_changed_value_is_found_in_its_column(name: str, file: Path, tmp_path: Path) -> None:
    """The checksum of the column is wrong; a file without checksums has the value."""
    values = pq.read_table(file)[name].to_numpy().copy()
    values[500] = values[499] if values[500] != values[499] else values[500] + 1
    with pytest.raises(InvalidValueError, match=f"checksum of the column {name}"):
        read_records(rewritten(file, tmp_path / "r.parquet", True, **{name: values}))
    if name != "document":
        read = read_records(rewritten(file, tmp_path / "r.parquet", False, **{name: values}))[1]
        assert read.columns()[name][500] == values[500]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("document", -1), ("document", 200), ("byte_start", -1), ("byte_length", -1),
        ("token_id", -1), ("position", -1), ("rank", 0), ("top1", -1), ("weight", np.nan),
        ("weight", -1), ("weight", np.inf), ("nll", np.nan), ("nll", -1), ("entropy", np.nan),
        ("entropy", -1), ("top1_probability", 1.5), ("top1_probability", np.nan),
        ("sum_of_squares", -0.5),
    ],
)  # fmt: skip
def test_impossible_values_are_named(name: str, value: float, file: Path, tmp_path: Path) -> None:
    """A file of somebody else has no checksums; its values must be possible all the same."""
    values = pq.read_table(file)[name].to_numpy().copy()
    values[700] = value
    path = rewritten(file, tmp_path / "r.parquet", False, **{name: values})
    with pytest.raises(InvalidValueError, match="damaged") as error:
        read_records(path)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "values", [None, ["x"] * 1000, [None, *range(999)], np.zeros(1000), [[1]] * 1000]
)
def test_columns_of_other_types_are_named(values: Any, file: Path, tmp_path: Path) -> None:
    """A missing column, text, nulls, floats and lists in place of ids."""
    path = rewritten(file, tmp_path / "r.parquet", False, token_id=values)
    with pytest.raises(InvalidValueError, match="token_id"):
        read_records(path)


@pytest.mark.parametrize(
    "metadata",
    [
        b"", b"{}", b"[" * 100_000, b"\xff", b'{"format": 1}',
        METADATA.to_json().replace('"format":1', '"format":2').encode(),
        METADATA.to_json().replace('"words":2', '"words":-2').encode(),
        METADATA.to_json().replace('"words":2', '"words":1e99').encode(),
        METADATA.to_json().replace('"dtype":"float32"', '"dtype":"float64"').encode(),
        METADATA.to_json().replace('"dtype":"float32"', '"dtype":{"a":{"b":1}}').encode(),
    ],
)  # fmt: skip
def test_damaged_metadata_are_one_sentence(metadata: bytes, file: Path, tmp_path: Path) -> None:
    """Whatever the JSON holds; a changed part does not fit the fingerprint."""
    table = pq.read_table(file)
    table = table.replace_schema_metadata({b"kullback": metadata})
    pq.write_table(table, tmp_path / "r.parquet")
    for read in (read_metadata, read_records):
        with pytest.raises(InvalidValueError, match="damaged or of another version"):
            read(tmp_path / "r.parquet")


def test_a_named_pipe_is_no_records(tmp_path: Path) -> None:
    """It is refused without waiting for a writer."""
    os.mkfifo(tmp_path / "r.parquet")
    with pytest.raises(InvalidValueError, match="named pipe"):
        read_records(tmp_path / "r.parquet")
