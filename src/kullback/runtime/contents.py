"""Kinds of files that kullback writes, known by their content and not by their names.

Only the beginning or the end of a file is read, and nothing of it is interpreted.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ["NAMES", "FileKind", "is_kind"]

FileKind: TypeAlias = Literal["report", "records", "recording", "logits", "result", "figure"]

#: What a file of each kind is called in a message.
NAMES = {
    "report": "an HTML report of kullback",
    "records": "a file of token records",
    "recording": "a recording",
    "logits": "a logits file of llama.cpp",
    "result": "a JSON result of kullback",
    "figure": "an SVG figure",
}
_BEGINNING = 4096
# A footer of Parquet has about 100 bytes for each column of each group of rows.
_LONGEST_FOOTER = 64 << 20


def is_kind(path: Path, kind: str) -> bool:
    """Whether the file has the mark that files of this kind begin or end with.

    False too for a file that cannot be read and for what is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            beginning = file.read(_BEGINNING)
            if kind != "records":
                return _begins_as(beginning, kind)
            if not beginning.startswith(b"PAR1"):
                return False
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            if file.read(4) != b"PAR1" or not 0 < length <= min(_LONGEST_FOOTER, file.tell() - 12):
                return False
            file.seek(-8 - length, os.SEEK_END)
            return b"kullback" in file.read(length)
    except OSError:
        return False


def _begins_as(beginning: bytes, kind: str) -> bool:
    if kind == "report":
        is_html = beginning.lstrip()[:15].lower() == b"<!doctype html>"
        return is_html and b'<meta name="generator" content="kullback">' in beginning
    if kind == "recording":
        return beginning[8:].lstrip().startswith(b'{"__metadata__":{"kullback_recording"')
    if kind == "logits":
        return beginning.startswith(b"_logits_")
    if kind == "result":
        return beginning.startswith(b"{") and b'"schema": "kullback.' in beginning[:200]
    return kind == "figure" and b"<svg " in beginning[:200]
