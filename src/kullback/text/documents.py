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

import codecs
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from kullback.errors import InvalidValueError
from kullback.runtime.inputs import check_regular
from kullback.runtime.temporary import TemporaryBytes

__all__ = ["IN_MEMORY", "STANDARD_INPUT", "Document", "read_documents", "read_texts"]

STANDARD_INPUT = "-"
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
# The files of a folder that are read.
SUFFIXES = (".txt", *JSON_LINES, *PARQUET)
PARQUET_ROWS = 1024  # that are read at a time


# Texts up to this size, all together, are in memory.
IN_MEMORY = 32 << 20
# Bytes of a long text that are read at a time.
PIECE = 1 << 20
# Of an integer in JSON; one with more is read as a number with a fraction is.
MOST_DIGITS = 300


class Document:
    """A text with its name; its bytes are in memory or, where they are many, on disk.

    >>> Document("greeting", " hello  world\\n").n_words
    2
    """

    def __init__(self, name: str, text: str) -> None:
        """Raises `InvalidValueError` where `text` has half a surrogate pair."""
        self._set(name, _utf8(text, f"the text {name}"))

    def _set(
        self, name: str, content: bytes | TemporaryBytes, begin: int = 0, end: int | None = None
    ) -> None:
        self.name = name
        self._content, self._begin = content, begin
        self.n_bytes = (len(content) if end is None else end) - begin
        """The length of the text in UTF-8."""

    @classmethod
    def of_bytes(
        cls, name: str, content: bytes | TemporaryBytes, begin: int = 0, end: int | None = None
    ) -> Document:
        """The text whose UTF-8 is in `content`, from byte `begin` to before byte `end`."""
        document = cls.__new__(cls)
        document._set(name, content, begin, end)
        return document

    @property
    def text(self) -> str:
        """The whole text."""
        return self.content().decode()

    @cached_property
    def n_words(self) -> int:
        """The number of words: runs of characters between whitespace."""
        words, inside = 0, False
        for piece in self.pieces():
            words += len(piece.split()) - (inside and not piece[0].isspace())
            inside = not piece[-1].isspace()
        return words

    def content(self, begin: int = 0, end: int | None = None) -> bytes:
        """The bytes of the text in UTF-8, or those from `begin` to before `end`."""
        first = self._begin + begin
        last = self._begin + (self.n_bytes if end is None else min(end, self.n_bytes))
        if isinstance(self._content, bytes):
            return self._content[first:last]
        return self._content.read(first, last)

    def part(self, begin: int, end: int) -> Document:
        """The bytes from `begin` to before `end` as a document of the same name."""
        return Document.of_bytes(self.name, self._content, self._begin + begin, self._begin + end)

    def pieces(self, size: int = PIECE) -> Iterator[str]:
        """The text in order, about `size` bytes at a time; none for an empty text.

        >>> list(Document("", "añb").pieces(2))
        ['a', 'ñ', 'b']
        """
        begin = 0
        while begin < self.n_bytes:
            end = self.boundary(begin + max(size, 1))
            # A character may be longer than a piece.
            end = end if end > begin else self.boundary(begin + 4)
            yield self.content(begin, end).decode()
            begin = end

    def boundary(self, place: int) -> int:
        """The byte at `place` or before it with which a character begins, or the text ends."""
        if place >= self.n_bytes:
            return self.n_bytes
        first = max(0, place - 3)
        around = self.content(first, place + 1)
        while len(around) > 1 and around[-1] & 0xC0 == 0x80:
            around = around[:-1]
        return first + len(around) - 1

    def __eq__(self, other: object) -> bool:
        """Whether name and text are the same."""
        if not isinstance(other, Document):
            return NotImplemented
        return self.name == other.name and self.content() == other.content()

    def __hash__(self) -> int:
        return hash((self.name, self.n_bytes))

    def __repr__(self) -> str:
        return f"Document({self.name!r}, {self.n_bytes:,} bytes)"


def read_documents(
    sources: Sequence[str | Path],
    field: str = "text",
    note: Callable[[str], None] = lambda sentence: None,
    stored: TemporaryBytes | None = None,
) -> list[Document]:
    """The documents in files, folders and standard input, in the order given.

    `field` is the name of the text in JSON lines and Parquet files, whose empty rows are documents
    too.  `note` is called with a sentence for each folder that has files which are not read; the
    texts are appended to `stored`, by default to bytes of their own.

    Raises `InvalidValueError` naming the file and the byte, line or column for what is missing,
    unreadable, empty, not a regular file, not UTF-8, not JSON, or without the field, `RunError`
    where texts larger than memory should be stored and the disk is full.
    """
    if not sources:
        raise InvalidValueError("there is no text: give a file, a folder, or - for standard input")
    stored = TemporaryBytes(IN_MEMORY) if stored is None else stored
    documents: list[Document] = []
    for source in sources:
        of_source = list(_read(source, field, note, stored))
        if not any(piece.strip() for document in of_source for piece in document.pieces()):
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


def _read(
    source: str | Path, field: str, note: Callable[[str], None], stored: TemporaryBytes
) -> Iterator[Document]:
    if str(source) == STANDARD_INPUT:
        yield _store(sys.stdin.buffer, "standard input", "standard input", stored)
        return
    path = Path(source).expanduser()
    check_regular(path, "the text")
    if not path.is_dir():
        yield from _read_file(path, _shown(path.name), field, stored)
        return
    # With pipes and links that lead nowhere, which are refused when they are opened.
    files = sorted(file for file in path.rglob("*") if not file.is_dir())
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
        yield from _read_file(file, _shown(file.relative_to(path).as_posix()), field, stored)


def _read_file(path: Path, name: str, field: str, stored: TemporaryBytes) -> Iterator[Document]:
    if path.suffix in JSON_LINES:
        rows = _json_lines(path, name, field)
    elif path.suffix in PARQUET:
        rows = _parquet(path, name, field)
    else:
        with _opened(path) as file:
            yield _store(file, name, str(path), stored)
        return
    for row, content in rows:
        begin = stored.append(content)
        yield Document.of_bytes(row, stored, begin, begin + len(content))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading; one sentence for whatever goes wrong while it is read."""
    try:
        check_regular(path, "the text")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidValueError(f"the text {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(f"the text {path} cannot be read: {error}") from None


def _store(file: BinaryIO, name: str, shown: str, stored: TemporaryBytes) -> Document:
    """The whole of a file as one document."""
    begin = end = len(stored)
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(PIECE):
        _check_utf8(decoder, block, end - begin, shown)
        stored.append(block)
        end += len(block)
    _check_utf8(decoder, b"", end - begin, shown, final=True)
    return Document.of_bytes(name, stored, begin, end)


def _check_utf8(
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


def _text_of(path: Path) -> str:
    with _opened(path) as file:
        return _store(file, path.name, str(path), TemporaryBytes(sys.maxsize)).text


def _json_lines(path: Path, name: str, field: str) -> Iterator[tuple[str, bytes]]:
    """The name and the UTF-8 of each row."""
    with _opened(path) as file:
        begin = 0
        for i, line in enumerate(file, start=1):
            _check_utf8(codecs.getincrementaldecoder("utf-8")(), line, begin, str(path), final=True)
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
            if field not in row:
                raise InvalidValueError(
                    f"line {i} of {path} has no field {field!r}, only {_names(row)}: name the "
                    "field that contains the text with --field"
                )
            yield f"{name}:{i}", _checked(row[field], f"field {field!r}, line {i} of {path}")


def _number(digits: str) -> int | float:
    """A number of JSON, which may have more digits than Python's integers are read from."""
    return int(digits) if len(digits) < MOST_DIGITS else float(digits)


def _parquet(path: Path, name: str, field: str) -> Iterator[tuple[str, bytes]]:
    """The name and the UTF-8 of each row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _opened(path) as content:
        try:
            with pq.ParquetFile(content) as file:
                names = file.schema_arrow.names
                if field not in names:
                    raise InvalidValueError(
                        f"{path} has no column {field!r}, only {_names(names)}: name the column "
                        "that contains the text with --field"
                    )
                batches = file.iter_batches(PARQUET_ROWS, columns=[field])
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


def _checked(value: object, place: str) -> bytes:
    """The UTF-8 of a row, which must be a string."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{place} is {value!r:.40}: it must be a text")
    return _utf8(value, place)


def _utf8(text: str, place: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{place} has half a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 cannot encode: remove it"
        ) from None


def _shown(name: str) -> str:
    """A name in UTF-8, with � for bytes that are not."""
    return os.fsencode(name).decode("utf-8", "replace")


def _empty(name: str | Path) -> InvalidValueError:
    return InvalidValueError(f"the text {name} is empty: there is nothing to read")


def _names(row: Sequence[str] | dict[str, object]) -> str:
    return ", ".join(repr(name) for name in list(row)[:8]) or "nothing"


def _listed(names: Sequence[str], before: str = "") -> str:
    """The first three names and the number of the others; "" for none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{before}{', '.join(names[:3])}{more}" if names else ""
