"""Documents: the texts that are measured, and reading them from files.

A document is an independent text: no token of one document is context for another, unless a
protocol joins them.  Its text is kept byte for byte: no newline is translated, nothing is stripped,
and its bytes are counted once, whatever the tokenizer.

==========================  ================================================================
source                      documents
==========================  ================================================================
``-``                       standard input, one document
a folder                    those of its ``.txt``, ``.jsonl``, ``.jsonlines``, ``.ndjson`` and
                            ``.parquet`` files, recursively, in the order of their paths
``.jsonl``, ``.jsonlines``  the field `field` of each line, named by the line's number from 1;
or ``.ndjson``              also as a piece or a version (``.jsonl.part``, ``.jsonl.1``)
``.json``                   that of each object of an array, named by its number from 0, or of
                            each line
``.csv``, ``.tsv``,         the column `field` of each row after the header, by its number from 0
``.tab``
``.parquet``                the column `field` of each row, named by the row's number from 0
archives, office documents  none: an error
any other file              one document; an error where it begins with a JSON object, or an
                            array of objects or strings (a note for ``.txt``)
==========================  ================================================================

All but Parquet may be compressed: ``.gz`` or ``.gzip``, ``.bz2``, ``.xz``, ``.zst`` or ``.zstd``.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from kullback.errors import InvalidValueError
from kullback.runtime.inputs import check_regular
from kullback.runtime.temporary import TemporaryBytes
from kullback.text.formats import (
    FOLDER_SUFFIXES,
    check_no_json_rows,
    format_of,
    is_read_of_folder,
    opened,
)
from kullback.text.rows import check_utf8, rows_of, utf8

__all__ = ["IN_MEMORY", "STANDARD_INPUT", "Document", "files_of", "read_documents", "read_texts"]

STANDARD_INPUT = "-"

# Texts up to this size, all together, are in memory.
IN_MEMORY = 32 << 20
# Bytes of a long text that are read at a time.
PIECE = 1 << 20


class Document:
    """A text with its name; its bytes are in memory or, where they are many, on disk.

    >>> Document("greeting", " hello  world\\n").n_words
    2
    """

    def __init__(self, name: str, text: str) -> None:
        """Raises `InvalidValueError` where `text` has half a surrogate pair."""
        self._set(name, utf8(text, f"the text {name}"))

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

    `field` is the name of the text in files with rows, whose empty rows are documents too.  `note`
    is called with a sentence for each folder that has files which are not read, and each .txt file
    that begins with a JSON object; the texts are appended to `stored`, by default to bytes of
    their own.

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
        yield _store(_standard_input(), "standard input", "standard input", stored)
        return
    for path, name in files_of(source, note):
        yield from _read_file(path, name, field, note, stored)


def files_of(source: str | Path, note: Callable[[str], None]) -> list[tuple[Path, str]]:
    """The file, or the files of the folder that are read, each with its name in that folder.

    Files whose name begins with a dot, or that are in such a folder, are not read.  `note` is
    called with a sentence where a folder has texts that are not read for that, and other files.
    Raises `InvalidValueError` for a pipe or device, and for a folder without a file that is read.
    """
    path = Path(source).expanduser()
    check_regular(path, "the text")
    if not path.is_dir():
        return [(path, _shown(path.name))]
    # With pipes and links that lead nowhere, which are refused when they are opened.
    files = sorted(file for file in path.rglob("*") if not file.is_dir())
    texts = [file for file in files if is_read_of_folder(file)]
    read = [file for file in texts if not _is_hidden(file, path)]
    hidden = [file.relative_to(path).as_posix() for file in texts if _is_hidden(file, path)]
    skipped = [
        file.relative_to(path).as_posix()
        for file in files
        if not is_read_of_folder(file) and not _is_hidden(file, path)
    ]
    if not read:
        raise InvalidValueError(
            f"the folder {path} has no {', '.join(FOLDER_SUFFIXES[:-1])} or "
            f"{FOLDER_SUFFIXES[-1]} file{_listed([*skipped, *hidden], ', only ')}: give the names "
            "of the files"
        )
    if hidden:
        note(
            f"of the folder {path} files whose names begin with a dot are not read "
            f"({_listed(hidden)}): give the names of those that are to be read"
        )
    if skipped:
        note(
            f"of the folder {path} only {', '.join(FOLDER_SUFFIXES)} files are read, not "
            f"{_listed(skipped)}: give the names of other files that are to be read"
        )
    return [(file, _shown(file.relative_to(path).as_posix())) for file in read]


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether its name, or that of a folder between, begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _standard_input() -> BinaryIO:
    """Standard input; `InvalidValueError` where it is closed, or a device that may never end."""
    if sys.stdin is None:
        raise InvalidValueError(
            "the text -, standard input, is closed: send the text to it, or give the name of a file"
        )
    with suppress(OSError):  # one of Python's own has no descriptor
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not sys.stdin.isatty()):
            raise InvalidValueError(
                "the text -, standard input, is a device: send the text to it, or give the name "
                "of a file"
            )
    return sys.stdin.buffer


def _read_file(
    path: Path, name: str, field: str, note: Callable[[str], None], stored: TemporaryBytes
) -> Iterator[Document]:
    kind = format_of(path)
    with opened(path) as file:
        if kind.rows is None:
            check_no_json_rows(file, path, note)
            yield _store(file, name, str(path), stored)
            return
        for row, content in rows_of(file, path, name, kind, field):
            begin = stored.append(content)
            yield Document.of_bytes(row, stored, begin, begin + len(content))


def _store(file: BinaryIO, name: str, shown: str, stored: TemporaryBytes) -> Document:
    """The whole of a file as one document."""
    begin = end = len(stored)
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(PIECE):
        check_utf8(decoder, block, end - begin, shown)
        stored.append(block)
        end += len(block)
    check_utf8(decoder, b"", end - begin, shown, final=True)
    return Document.of_bytes(name, stored, begin, end)


def _text_of(path: Path) -> str:
    with opened(path) as file:
        return _store(file, path.name, str(path), TemporaryBytes(sys.maxsize)).text


def _shown(name: str) -> str:
    """A name in UTF-8, with � for bytes that are not."""
    return os.fsencode(name).decode("utf-8", "replace")


def _empty(name: str | Path) -> InvalidValueError:
    return InvalidValueError(f"the text {name} is empty: there is nothing to read")


def _listed(names: Sequence[str], before: str = "") -> str:
    """The first three names and the number of the others; "" for none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{before}{', '.join(names[:3])}{more}" if names else ""
