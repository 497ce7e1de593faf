"""Rows of text files: JSON Lines, JSON arrays, tables with a header, Parquet.

Each is read as the UTF-8 of one field, with the name of the row.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from kullback.errors import InvalidValueError
from kullback.text.formats import Format, Rows, opened

__all__ = ["check_utf8", "rows_of", "utf8"]

#: The name and the UTF-8 of each row.
Named: TypeAlias = Iterator[tuple[str, bytes]]

SHOWN = 40  # characters of a name in a message
PARQUET_ROWS = 1024  # that are read at a time
# A line of JSON, a file with a JSON array, and a row of a table fit into memory.
MOST_BYTES = 1 << 30
# Of an integer in JSON; one with more is read as a number with a fraction is.
MOST_DIGITS = 300
AS_TEXT = "to measure the file as it is, give it through standard input (-)"


def rows_of(file: BinaryIO, path: Path, name: str, kind: Format, field: str) -> Named:
    """The rows of an open file, which `path` is and `name` is called.

    Raises `InvalidValueError` naming the row where one is damaged or has no text in `field`.
    """
    readers: dict[Rows | None, Callable[[], Named]] = {
        "lines": lambda: _json_lines(file, path, name, field),
        "array": lambda: _json_array(file, path, name, field),
        "table": lambda: _table(file, path, name, field, kind.delimiter),
        "parquet": lambda: _parquet(file, path, name, field),
    }
    return readers[kind.rows]()


def check_utf8(
    decoder: codecs.IncrementalDecoder, block: bytes, before: int, name: str, final: bool = False
) -> None:
    """Raise `InvalidValueError` naming the byte that is not UTF-8; `before` are the bytes read."""
    waiting = len(decoder.getstate()[0])
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:
        place = before - waiting + error.start
        raise InvalidValueError(
            f"the text {name} is not UTF-8: byte {place} is 0x{error.object[error.start]:02x}; "
            "convert it first (iconv -t utf-8)"
        ) from None


def utf8(text: str, place: str) -> bytes:
    """The UTF-8 of a text; `InvalidValueError` with its place for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{place} has half a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 cannot encode: remove it"
        ) from None


def _json_lines(file: BinaryIO, path: Path, name: str, field: str) -> Named:
    begin = 0
    for i in itertools.count(1):
        line = file.readline(MOST_BYTES)
        if not line:
            return
        _check_size(line, path, f"line {i}")
        check_utf8(codecs.getincrementaldecoder("utf-8")(), line, begin, str(path), final=True)
        begin += len(line)
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=_number)
        except (ValueError, RecursionError) as error:
            raise InvalidValueError(
                f"line {i} of {path} is not JSON: {error}; each line must be an object"
            ) from None
        if not isinstance(row, dict):
            raise InvalidValueError(
                f"line {i} of {path} is a JSON {type(row).__name__}: it must be an object with "
                f"the text in its field {field!r}"
            )
        yield f"{name}:{i}", _of_object(row, field, f"line {i} of {path}")


def _json_array(file: BinaryIO, path: Path, name: str, field: str) -> Named:
    """The objects of an array; also one object a line, as many files of this name have them."""
    content = file.read(MOST_BYTES)
    _check_size(content, path, "it")
    check_utf8(codecs.getincrementaldecoder("utf-8")(), content, 0, str(path), final=True)
    try:
        value = json.loads(content, parse_int=_number)
    except (ValueError, RecursionError) as error:
        first, _, others = content.strip().partition(b"\n")
        if others and first.startswith(b"{") and _is_json(first):
            yield from _json_lines(io.BytesIO(content), path, name, field)
            return
        raise InvalidValueError(f"{path} is not JSON: {error}; {AS_TEXT}") from None
    if isinstance(value, dict):
        yield name, _of_object(value, field, str(path))
        return
    if not isinstance(value, list):
        raise InvalidValueError(
            f"{path} is a JSON {type(value).__name__}: it must be an array of objects with the "
            f"text in their field {field!r}; {AS_TEXT}"
        )
    for i, row in enumerate(value):
        place = f"item {i} of {path}"
        if isinstance(row, dict):
            yield f"{name}:{i}", _of_object(row, field, place)
        else:
            yield f"{name}:{i}", _checked(row, place)


def _table(file: BinaryIO, path: Path, name: str, field: str, delimiter: str) -> Named:
    """The rows after the header; quoted values may have line ends, which are kept."""
    quoting = _quoting(path) if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    # Strict: else a quote that is not closed would join the rows after it to one text.
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        with _long_values():
            names = next(reader, [])
            if names.count(field) != 1:
                how = "no" if field not in names else "more than one"
                raise InvalidValueError(
                    f"{path} has {how} column {field!r} in its first line, only {_names(names)}: "
                    f"name the column that contains the text with --field; {AS_TEXT}"
                )
            for i, row in enumerate(filter(None, reader)):
                if len(row) != len(names):
                    raise InvalidValueError(
                        f"row {i} of {path}, which ends in line {reader.line_num}, has {len(row)} "
                        f"columns, and its first line {len(names)}: it is damaged; {AS_TEXT}"
                    )
                place = f"column {field!r}, row {i} of {path}"
                yield f"{name}:{i}", _checked(row[names.index(field)], place)
    except csv.Error as error:
        raise InvalidValueError(
            f"{path} is damaged or not a table ({error}, line {reader.line_num}): {AS_TEXT}"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"the text {path} is not UTF-8: after line {reader.line_num} there is 0x"
            f"{error.object[error.start]:02x}; convert it first (iconv -t utf-8)"
        ) from None
    finally:
        lines.detach()  # the file is closed by who opened it


def _quoting(path: Path) -> Literal[0, 3]:
    """Whether the quotes of a table with tabs are of its text: csv's QUOTE_NONE, or QUOTE_MINIMAL.

    They are where each line is a row and one has a quote without another, which would join rows.
    Raises `InvalidValueError` where a single column leaves it open.
    """
    columns, open_at = None, 0
    with opened(path) as file, _long_values():
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        for i, line in enumerate(lines, 1):
            if not line.strip("\r\n"):
                continue
            columns = line.count("\t") if columns is None else columns
            if line.count("\t") != columns:
                return csv.QUOTE_MINIMAL
            if not open_at and '"' in line and not _is_row(line):
                open_at = i
        lines.detach()
    if open_at and columns == 0:
        raise InvalidValueError(
            f"line {open_at} of {path} has a quote that is not closed in it: whether quotes are of "
            "the text, or around texts of several lines, a table with one column does not say; "
            "write it as .jsonl"
        )
    return csv.QUOTE_NONE if open_at else csv.QUOTE_MINIMAL


def _is_row(line: str) -> bool:
    """Whether a line is a row of its own, with its quotes."""
    try:
        return len(list(csv.reader([line], delimiter="\t", strict=True))) == 1
    except csv.Error:
        return False


@contextmanager
def _long_values() -> Iterator[None]:
    """Values longer than csv's limit, which is the process's, are read meanwhile."""
    limit = csv.field_size_limit(MOST_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parquet(file: BinaryIO, path: Path, name: str, field: str) -> Named:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if field not in names:
                raise InvalidValueError(
                    f"{path} has no column {field!r}, only {_names(names)}: name the column "
                    "that contains the text with --field"
                )
            batches = table.iter_batches(PARQUET_ROWS, columns=[field])
            values = itertools.chain.from_iterable(batch[0].to_pylist() for batch in batches)
            for i, value in enumerate(values):
                yield f"{name}:{i}", _checked(value, f"column {field!r}, row {i} of {path}")
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0]
        raise InvalidValueError(f"the text {path} cannot be read: {why}") from None
    except pa.ArrowException as error:
        raise InvalidValueError(
            f"{path} is damaged or not a Parquet file: {str(error).splitlines()[0]}"
        ) from None


def _of_object(row: dict[str, object], field: str, place: str) -> bytes:
    """The text of a JSON object."""
    if field not in row:
        raise InvalidValueError(
            f"{place} has no field {field!r}, only {_names(list(row))}: name the field that "
            "contains the text with --field"
        )
    return _checked(row[field], f"field {field!r} of {place}")


def _checked(value: object, place: str) -> bytes:
    """The UTF-8 of a row, which must be a string."""
    if not isinstance(value, str):
        shown = f"{value!r:.40}"
        if isinstance(value, list | dict):
            shown = "a list" if isinstance(value, list) else "an object"
        raise InvalidValueError(
            f"{place} is {shown} and no text: write a row for each "
            'text, {"text": "..."}, or name another field with --field'
        )
    return utf8(value, place)


def _check_size(content: bytes, path: Path, what: str) -> None:
    if len(content) >= MOST_BYTES:
        raise InvalidValueError(
            f"{path} is too large: {what} has a gibibyte or more; write smaller rows, one a line "
            "(.jsonl)"
        )


def _number(digits: str) -> int | float:
    """A number of JSON, which may have more digits than Python's integers are read from."""
    return int(digits) if len(digits) < MOST_DIGITS else float(digits)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _names(names: Sequence[str]) -> str:
    # Without a header the first line of a table is a row of long texts.
    return (
        ", ".join(repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}…") for name in names[:8])
        or "nothing"
    )
