"""Formats of text files, by their names: with rows or whole, compressed or not.

A file with rows is never measured as raw text, and neither are archives and documents of office
programs; standard input (`-`) is read as it is, whatever it contains.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

from kullback.errors import InvalidValueError
from kullback.runtime.inputs import check_regular

__all__ = [
    "FOLDER_SUFFIXES",
    "ROWS",
    "Format",
    "check_no_json_rows",
    "format_of",
    "has_fields",
    "is_read_of_folder",
    "opened",
]

Rows: TypeAlias = Literal["lines", "array", "table", "parquet"]

#: By the end of the name; any other text file is one document.
ROWS: dict[str, Rows] = {
    ".jsonl": "lines", ".ndjson": "lines", ".jsonlines": "lines", ".json": "array",
    ".csv": "table", ".tsv": "table", ".tab": "table", ".parquet": "parquet",
}  # fmt: skip
COMPRESSIONS = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")
# Of a folder, which may have other files in the other formats (a configuration, a list).
FOLDER_SUFFIXES = (".txt", ".jsonl", ".jsonlines", ".ndjson", ".parquet")
# After another: of a piece of a file, of a download that goes on, or of an older version.
PIECE = re.compile(r"\.(part\d*|partial|crdownload|download|tmp|bak|old|\d+)")
# The first line of a file with JSON objects, or its beginning.
JSON_OBJECT = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"([^"\\\n]|\\.)*"\s*:')
# An array of objects or strings, the first of which may be longer than what is looked at.
JSON_ARRAY = re.compile(
    rb'(\xef\xbb\xbf)?\s*\[\s*(\{\s*"([^"\\\n]|\\.)*"\s*:|'
    rb'"(([^"\\\n]|\\.)*"\s*(\]\s*\Z|,\s*")|([^"\\\n]|\\.){4000}))'
)
FIRST_BYTES = 4096
# How files begin whose names should say so.
BEGINNINGS = {
    "compressed with gzip": re.compile(rb"\x1f\x8b\x08"),
    "compressed with bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
    "compressed with xz": re.compile(rb"\xfd7zXZ\0"),
    "compressed with Zstandard": re.compile(rb"\x28\xb5\x2f\xfd"),
    "compressed with LZ4": re.compile(rb"\x04\x22\x4d\x18"),
    "an archive (zip), or a document made of one": re.compile(rb"PK\x03\x04"),
    "a PDF": re.compile(rb"%PDF-\d"),
    "a Parquet file": re.compile(rb"PAR1"),
}
OTHERS = {
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar"),
        "an archive: extract it first",
    ),
    **{
        suffix: f"compressed with {name}, which is not read here: decompress it first"
        for suffix, name in {
            ".br": "Brotli",
            ".bz": "bzip",
            ".lz": "lzip",
            ".lz4": "LZ4",
            ".lzma": "LZMA",
            ".lzo": "LZO",
            ".snappy": "Snappy",
            ".sz": "Snappy",
            ".z": "compress",
        }.items()
    },
    **dict.fromkeys(
        (".pdf", ".doc", ".docx", ".odt", ".epub", ".rtf"),
        "a document with a layout: convert it to .txt first",
    ),
    **dict.fromkeys(
        (".xls", ".xlsx", ".ods", ".arrow", ".feather", ".orc", ".avro", ".sqlite", ".db"),
        "a table in a format that is not read here: convert it to .parquet or .jsonl first",
    ),
}


@dataclass(frozen=True)
class Format:
    """What the name of a file says about it."""

    suffix: str
    """Without that of a compression, in lower case."""
    compression: str
    """".gz", for example; "" for none."""

    @property
    def rows(self) -> Rows | None:
        """How its rows are written; None where it is one document."""
        return ROWS.get(self.suffix)

    @property
    def delimiter(self) -> str:
        """Between the columns of a table."""
        return "\t" if self.suffix in (".tsv", ".tab") else ","


def format_of(path: Path) -> Format:
    """The format of a file by its name.

    Raises `InvalidValueError` for one that is not read.

    >>> format_of(Path("docs.JSONL.gz"))
    Format(suffix='.jsonl', compression='.gz')
    """
    name = _by_name(path)
    suffix, compression = name.suffix, name.compression
    if suffix in OTHERS:
        raise InvalidValueError(f"the text {path} is {OTHERS[suffix]}")
    if compression and suffix == ".parquet":
        raise InvalidValueError(
            f"the text {path} is a compressed Parquet file, which needs all of it at once: "
            "decompress it first"
        )
    return name


def _by_name(path: Path) -> Format:
    """As `format_of`, of any file; "docs.jsonl.gz.part" and "docs.jsonl.1.gz" have rows, too."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-4:]]
    bare = [suffix for suffix in suffixes if not PIECE.fullmatch(suffix)]
    if {*bare[-2:]} & {*ROWS, *COMPRESSIONS, *OTHERS}:
        suffixes = bare
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return Format(suffixes[-1] if suffixes else "", compression)


def has_fields(path: Path) -> bool:
    """Whether a file has rows with fields, by its name."""
    return _by_name(path).rows is not None


def is_read_of_folder(path: Path) -> bool:
    """Whether a file is read where its folder is given."""
    name = _by_name(path)
    if name.suffix == ".parquet" and name.compression:
        return False
    return name.suffix in FOLDER_SUFFIXES


def check_no_json_rows(
    file: BinaryIO, path: Path, note: Callable[[str], None] = lambda sentence: None
) -> None:
    """Raise `InvalidValueError` where a file that is one text by its name has rows of JSON.

    Objects, or an array of objects or strings.  `file` is at its beginning, and stays there.  The
    name of a .txt file says that it is a text; `note` is told of one that has them.
    """
    content = _beginning(file)
    if JSON_OBJECT.match(content):
        what, suffix = "a JSON object", ".jsonl"
    elif JSON_ARRAY.match(content):
        what, suffix = "a JSON array", ".json"
    else:
        return
    if _by_name(path).suffix == ".txt":
        note(
            f"the text {path} begins with {what}, and is read as it is, keys and quotes and all, "
            f"as its name says: rename it to {suffix} to read the texts in it"
        )
        return
    raise InvalidValueError(
        f"the text {path} begins with {what}, and its name says nothing of rows: rename "
        f"it to {suffix}, or to .txt to read it as it is, keys and quotes and all"
    )


def _check_beginning(file: BinaryIO, path: Path) -> None:
    """Raise `InvalidValueError` where a file is of another kind than its name says."""
    if _by_name(path).suffix == ".parquet":
        return
    content = _beginning(file)
    for kind, beginning in BEGINNINGS.items():
        if beginning.match(content):
            raise InvalidValueError(
                f"the text {path} is {kind}, and its name does not say so: give it the name of its "
                "kind, or convert it to text first"
            )


def _beginning(file: BinaryIO) -> bytes:
    """The first bytes of a file, which stays where it is."""
    peek: Callable[[int], bytes] = getattr(file, "peek", lambda size: b"")
    return peek(FIRST_BYTES)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading, decompressed; one sentence for whatever goes wrong."""
    try:
        check_regular(path, "the text")
        compression = format_of(path).compression
        with path.open("rb") as file:
            content = _decompressed(file, compression)
            _check_beginning(content, path)
            yield content
    except InvalidValueError:
        raise
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InvalidValueError(
            f"the text {path} is damaged or not a {path.suffix} file ({error}): download it again"
        ) from None
    except OSError as error:
        if error.errno is None and _by_name(path).compression:  # pyarrow's
            raise InvalidValueError(f"the text {path} is damaged ({error})") from None
        reason = error.strerror or str(error).splitlines()[0]
        raise InvalidValueError(f"the text {path} cannot be read: {reason}") from None
    except ValueError as error:  # a NUL in the name
        raise InvalidValueError(f"the text {path} cannot be read: {error}") from None


def _decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    if compression in (".zst", ".zstd"):
        import pyarrow as pa

        # It reads blocks, as a raw file does, and has no lines of its own.
        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    openers: dict[str, Callable[..., Any]] = {
        ".gz": gzip.open, ".gzip": gzip.open, ".bz2": bz2.open, ".xz": lzma.open
    }  # fmt: skip
    if compression in openers:
        return cast("BinaryIO", openers[compression](file, "rb"))
    return file
