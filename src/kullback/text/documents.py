"""Which texts are measured, and where they came from.

A document is a text that stands by itself: no token of one is context for another, unless a
protocol joins them.  It is what people wrote, byte for byte: no newline is translated, nothing is
stripped, and its bytes are counted once, whatever a tokenizer makes of them.

=====================  ==========================================================
source                 documents
=====================  ==========================================================
``-``                  standard input, one
a folder               each ``*.txt`` in it and below, in the order of the paths
``.jsonl``, ``.ndjson``  the field of each line (`field`), named by the line
``.parquet``           the column `field` of each row, named by the row
any other file         one
=====================  ==========================================================
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["STANDARD_INPUT", "Document", "read_documents"]

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Document:
    """A text and what it is called."""

    name: str
    text: str

    @cached_property
    def n_bytes(self) -> int:
        """Its length in UTF-8."""
        return len(self.text.encode())

    @cached_property
    def n_words(self) -> int:
        """The runs of characters between blanks.

        >>> Document("greeting", " hello  world\\n").n_words
        2
        """
        return len(self.text.split())


def read_documents(sources: Sequence[str | Path], field: str = "text") -> list[Document]:
    """The documents in files, folders and standard input, in the order given.

    `field` is the text's name in JSON lines and Parquet files.  Empty rows of these are documents
    too; an empty file is an error.

    Raises `InvalidValueError` naming the file and the byte, line or column for what is missing,
    unreadable, empty, not UTF-8, not JSON, or without the field.
    """
    if not sources:
        raise InvalidValueError("there is no text: give a file, a folder, or - for standard input")
    documents: list[Document] = []
    for source in sources:
        found = list(_read(source, field))
        if not any(document.text.strip() for document in found):
            name = "standard input" if str(source) == STANDARD_INPUT else str(source)
            raise InvalidValueError(f"the text {name} is empty: there is nothing to measure")
        documents += found
    return documents


def _read(source: str | Path, field: str) -> Iterator[Document]:
    if str(source) == STANDARD_INPUT:
        yield Document("standard input", _decode(sys.stdin.buffer.read(), "standard input"))
        return
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise InvalidValueError(
                f"the folder {path} has no .txt file in it or below: name the files themselves"
            )
        for file in files:
            yield Document(file.relative_to(path).as_posix(), _decode(_bytes(file), str(file)))
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path, field)
    elif path.suffix == ".parquet":
        yield from _parquet(path, field)
    else:
        yield Document(path.name, _decode(_bytes(path), str(path)))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidValueError(f"the text {path} cannot be read: {error.strerror}") from None


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"the text {name} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
            "convert it first (iconv -t utf-8)"
        ) from None


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    # Not splitlines(): that also splits at characters which JSON strings may hold.
    for i, line in enumerate(_decode(_bytes(path), str(path)).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidValueError(
                f"line {i} of {path} is not JSON: {error}; each line must be an object"
            ) from None
        if not isinstance(row, dict):
            raise InvalidValueError(
                f"line {i} of {path} is a JSON {type(row).__name__}: it must be an object with the "
                f"text in its field {field!r}"
            )
        if field not in row:
            raise InvalidValueError(
                f"line {i} of {path} has no field {field!r}, only {_names(row)}: say which one "
                "holds the text with --field"
            )
        yield Document(
            f"{path.name}:{i}", _text(row[field], f"field {field!r}, line {i} of {path}")
        )


def _parquet(path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as content, pq.ParquetFile(content) as file:
            names = file.schema_arrow.names
            column = file.read(columns=[field])[field] if field in names else None
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0]
        raise InvalidValueError(f"the text {path} cannot be read: {why}") from None
    except pa.ArrowException as error:
        raise InvalidValueError(
            f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}"
        ) from None
    if column is None:
        raise InvalidValueError(
            f"{path} has no column {field!r}, only {_names(names)}: say which one holds the text "
            "with --field"
        )
    for i, value in enumerate(column.to_pylist()):
        yield Document(f"{path.name}:{i}", _text(value, f"column {field!r}, row {i} of {path}"))


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{place} is {value!r:.40}: it must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{place} has half a character (U+{ord(value[error.start]):04X}) at character "
            f"{error.start}: no UTF-8 can hold it; write the text anew"
        ) from None
    return value


def _names(row: Sequence[str] | dict[str, object]) -> str:
    return ", ".join(repr(name) for name in list(row)[:8]) or "nothing"
