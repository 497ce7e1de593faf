"""Corpora: files that are read one piece after another, none of which is kept.

What `kullback.text.documents` reads for a measurement, which goes back to each document, is read
here for training, which does not: memory does not grow with the corpus.  A piece is a part of a
document of about `PIECE` characters.  It ends before whitespace that follows other characters, or
before Chinese or Japanese punctuation that follows a letter: places that no byte-level BPE with
GPT-2's pre-tokenizer has a token across.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kullback.errors import InvalidValueError
from kullback.text.documents import files_of
from kullback.text.formats import check_no_json_rows, format_of, has_fields, opened
from kullback.text.rows import check_utf8, rows_of

__all__ = ["Corpus", "Piece"]

PIECE = 1 << 18
# What is longer and has no boundary is cut: tokenizers take about 250 bytes of memory a character.
LONGEST_WORD = 1 << 18
BLOCK = 1 << 20
_PATTERN = re.compile(r"[*?\[]")
# Letters of every version of Unicode; without whitespace a text would be one long word.
_BOUNDARY = re.compile(
    "(?<=\\S)[ \\t\\n\\r]|(?<=[\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5])"
    "[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"
)
# Characters at the end of a piece in which a boundary is looked for first.
_TAIL = 256
# Of the size of text in a compressed file: gzip and zstd reach 3 to 4 on English.
_EXPANSION = 4


@dataclass(frozen=True)
class Piece:
    """A part of a document, in order."""

    document: int
    """The number of the document in the corpus, from 0; empty documents are counted."""
    text: str


@dataclass(frozen=True)
class Corpus:
    """Files of text, in the order given."""

    files: tuple[tuple[Path, str], ...]
    """Each with its name in messages."""
    field: str = "text"
    """Of the text in files with rows."""

    @classmethod
    def of(
        cls,
        sources: Sequence[str | Path],
        field: str = "text",
        note: Callable[[str], None] = lambda sentence: None,
    ) -> Corpus:
        """The files, those of the folders, and those that the patterns (``*.jsonl``) stand for.

        `note` is told of files of a folder that are not read.  Raises `InvalidValueError` for a
        pattern without a file, for what `files_of` refuses, and for a name that is not UTF-8.
        """
        files: list[tuple[Path, str]] = []
        for source in sources:
            for path in _matches(source):
                files += files_of(path, note)
        for path, _ in files:
            if format_of(path).rows is None:
                with opened(path) as file:
                    check_no_json_rows(file, path, note)
            try:
                str(path.resolve()).encode()
            except UnicodeEncodeError:
                raise InvalidValueError(
                    f"the name of the text {path} is not UTF-8: rename the file"
                ) from None
        return cls(tuple(files), field)

    @property
    def paths(self) -> tuple[str, ...]:
        """The absolute names of the files."""
        return tuple(str(path.resolve()) for path, _ in self.files)

    @property
    def estimated_bytes(self) -> int:
        """The bytes of text, from the sizes of the files; a guess for compressed ones."""
        total = 0
        for path, _ in self.files:
            with opened(path):  # says what is wrong with it
                size = path.stat().st_size
            dense = bool(format_of(path).compression) or format_of(path).suffix == ".parquet"
            total += size * (_EXPANSION if dense else 1)
        return total

    @property
    def has_rows(self) -> bool:
        """Whether a file has rows, each of which is a document."""
        return any(has_fields(path) for path, _ in self.files)

    def pieces(self) -> Iterator[Piece]:
        """All documents in order, piece by piece.

        Raises `InvalidValueError` as `kullback.text.documents.read_documents` does.
        """
        document = 0
        for path, name in self.files:
            kind = format_of(path)
            with opened(path) as file:
                if kind.rows is None:
                    for text in _cut(_decoded(iter(lambda: file.read(BLOCK), b""), str(path))):
                        yield Piece(document, text)
                    document += 1
                    continue
                for _, content in rows_of(file, path, name, kind, self.field):
                    for text in _cut([content.decode()]):
                        yield Piece(document, text)
                    document += 1


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; `InvalidValueError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidValueError(f"the text {path} cannot be read: {error.strerror}") from None


def _matches(source: str | Path) -> list[str | Path]:
    """The files that a pattern stands for; the name itself where it is none or a file."""
    name = str(Path(source).expanduser())
    if not _PATTERN.search(name) or "\0" in name or Path(name).exists():
        return [source]
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise InvalidValueError(f"no file matches the pattern {source}: check the name")
    return list(matches)


def _decoded(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    checker, decoder = (codecs.getincrementaldecoder("utf-8")() for _ in range(2))
    before = 0
    for block in blocks:
        check_utf8(checker, block, before, name)
        yield decoder.decode(block)
        before += len(block)
    check_utf8(checker, b"", before, name, final=True)


def _cut(blocks: Iterable[str]) -> Iterator[str]:
    """The text in pieces that end where a token must end.

    A stretch of `LONGEST_WORD` characters without such a place is cut.
    """
    waiting = ""
    for block in blocks:
        waiting += block
        begin = 0
        while len(waiting) - begin > PIECE:
            end = _boundary(waiting, begin, begin + PIECE)
            if end is None and len(waiting) - begin <= LONGEST_WORD:
                break
            end = min(end or len(waiting), begin + max(PIECE, LONGEST_WORD))
            yield waiting[begin:end]
            begin = end
        waiting = waiting[begin:]
    if waiting:
        yield waiting


def _boundary(text: str, begin: int, end: int) -> int | None:
    """The last boundary in text[begin:end], else the first after; None where there is none."""
    tail = _TAIL
    while tail < 2 * (end - begin):
        first = max(begin + 1, end - tail)
        places = [match.start() for match in _BOUNDARY.finditer(text, first, end)]
        if places:
            return places[-1]
        tail *= 4
    after = _BOUNDARY.search(text, end)
    return after.start() if after else None
