"""Documents: the texts that are measured, and reading them from files.

A document is an independent text: no token of one document is context for another, unless a
protocol joins them.  Its text is kept byte for byte: no newline is translated, nothing is stripped,
and its bytes are counted once, whatever the tokenizer.

========================  ==================================================================
source                    documents
========================  ==================================================================
``-``                     standard input, one document
a folder                  those of its files of the next two rows and ``.txt`` files,
                          recursively, in the order of their paths
``.jsonl``, ``.ndjson``   the field `field` of each line, named by the line's number from 1
``.parquet``              the column `field` of each row, named by the row's number from 0
any other file            one document
========================  ==================================================================
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["STANDARD_INPUT", "Document", "read_documents", "read_texts"]

STANDARD_INPUT = "-"
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
# The files of a folder that are read.
SUFFIXES = (".txt", *JSON_LINES, *PARQUET)


@dataclass(frozen=True)
class Document:
    """A text with its name."""

    name: str
    text: str

    @cached_property
    def n_bytes(self) -> int:
        """The length of the text in UTF-8."""
        return len(self.text.encode())

    @cached_property
    def n_words(self) -> int:
        """The number of words: runs of characters between whitespace.

        >>> Document("greeting", " hello  world\\n").n_words
        2
        """
        return len(self.text.split())


def read_documents(
    sources: Sequence[str | Path],
    field: str = "text",
    note: Callable[[str], None] = lambda sentence: None,
) -> list[Document]:
    """The documents in files, folders and standard input, in the order given.

    `field` is the name of the text in JSON lines and Parquet files, whose empty rows are documents
    too.  `note` is called with a sentence for each folder that has files which are not read.

    Raises `InvalidValueError` naming the file and the byte, line or column for what is missing,
    unreadable, empty, not UTF-8, not JSON, or without the field.
    """
    if not sources:
        raise InvalidValueError("there is no text: give a file, a folder, or - for standard input")
    documents: list[Document] = []
    for source in sources:
        of_source = list(_read(source, field, note))
        if not any(document.text.strip() for document in of_source):
            raise _empty("standard input" if str(source) == STANDARD_INPUT else source)
        documents += of_source
    return documents


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The texts of files, one a file whatever its suffix.

    Raises `InvalidValueError` for what is missing, unreadable, empty or not UTF-8.
    """
    texts = [_text_of(path) for path in paths]
    for path, text in zip(paths, texts, strict=True):
        if not text.strip():
            raise _empty(path)
    return texts


def _read(source: str | Path, field: str, note: Callable[[str], None]) -> Iterator[Document]:
    if str(source) == STANDARD_INPUT:
        yield Document("standard input", _decode(sys.stdin.buffer.read(), "standard input"))
        return
    path = Path(source).expanduser()
    if not path.is_dir():
        yield from _read_file(path, path.name, field)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file())
    read = [file for file in files if file.suffix in SUFFIXES]
    skipped = [
        file.relative_to(path).as_posix()
        for file in files
        if file.suffix not in SUFFIXES and not file.name.startswith(".")
    ]
    if not read:
        raise InvalidValueError(
            f"the folder {path} has no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
            f"{_listed(skipped, ', only ')}: give the names of the files"
        )
    if skipped:
        note(
            f"of the folder {path} only {', '.join(SUFFIXES)} files are read, not "
            f"{_listed(skipped)}: give the names of other files that are to be read"
        )
    for file in read:
        yield from _read_file(file, file.relative_to(path).as_posix(), field)


def _read_file(path: Path, name: str, field: str) -> Iterator[Document]:
    if path.suffix in JSON_LINES:
        yield from _json_lines(path, name, field)
    elif path.suffix in PARQUET:
        yield from _parquet(path, name, field)
    else:
        yield Document(name, _text_of(path))


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidValueError(f"the text {path} cannot be read: {error.strerror}") from None
    return _decode(content, str(path))


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"the text {name} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
            "convert it first (iconv -t utf-8)"
        ) from None


def _json_lines(path: Path, name: str, field: str) -> Iterator[Document]:
    # Not splitlines(), which also splits at characters that JSON strings may contain.
    for i, line in enumerate(_text_of(path).split("\n"), start=1):
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
                f"line {i} of {path} has no field {field!r}, only {_names(row)}: name the field "
                "that contains the text with --field"
            )
        yield Document(f"{name}:{i}", _checked(row[field], f"field {field!r}, line {i} of {path}"))


def _parquet(path: Path, name: str, field: str) -> Iterator[Document]:
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
            f"{path} is damaged or not a Parquet file: {str(error).splitlines()[0]}"
        ) from None
    if column is None:
        raise InvalidValueError(
            f"{path} has no column {field!r}, only {_names(names)}: name the column that contains "
            "the text with --field"
        )
    for i, value in enumerate(column.to_pylist()):
        yield Document(f"{name}:{i}", _checked(value, f"column {field!r}, row {i} of {path}"))


def _checked(value: object, place: str) -> str:
    """The text of a row, which must be a string that UTF-8 can encode."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{place} is {value!r:.40}: it must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{place} has half a surrogate pair (U+{ord(value[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 cannot encode: remove it"
        ) from None
    return value


def _empty(name: str | Path) -> InvalidValueError:
    return InvalidValueError(f"the text {name} is empty: there is nothing to read")


def _names(row: Sequence[str] | dict[str, object]) -> str:
    return ", ".join(repr(name) for name in list(row)[:8]) or "nothing"


def _listed(names: Sequence[str], before: str = "") -> str:
    """The first three names and the number of the others; "" for none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{before}{', '.join(names[:3])}{more}" if names else ""
