"""Decoding of JSON that others wrote: typed, and bounded in size and depth.

A reader declares what it expects as a `msgspec.Struct` (or a type of builtins) and gets exactly
that, or a `ValueError` whose message is the reason, for the sentence of the reader.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from kullback.runtime.inputs import open_regular

__all__ = ["MOST_DEPTH", "Count", "Hash", "Index", "decode_json", "read_bounded"]

T = TypeVar("T")

MOST_DEPTH = 64
"""Of nested lists and objects; what kullback writes has fewer than ten."""
MOST_BYTES = 256 << 20

Index = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def decode_json(content: bytes | str, kind: type[T], most_bytes: int = MOST_BYTES) -> T:
    """The value of a JSON document; `ValueError` where it is not one of the type `kind`.

    >>> decode_json('{"a": 1}', dict[str, int])
    {'a': 1}
    >>> decode_json("[" * 100, list)
    Traceback (most recent call last):
    ValueError: it is nested more than 64 deep
    """
    document = content.encode() if isinstance(content, str) else content
    if len(document) > most_bytes:
        raise ValueError(f"it has {len(document):,} bytes, more than {most_bytes:,}")
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", document)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def read_bounded(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file that is to be decoded.

    Raises `OSError` as `open_regular` does, `ValueError` where it is larger than `most_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content
