"""Bounded decoding of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kullback.runtime.decoding import MOST_DEPTH, Count, Hash, Index, decode_json, read_bounded


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("[" * 100_000, Any), ("[" * 100_000 + "]" * 100_000, Any), ('{"a":' * 100_000, Any),
        ("1e999", float), ("NaN", float), ("-1", Index), (str(2**31), Index), ("-1", Count),
        (str(2**70), Count), ('"x"', Hash), ("{", Any), ("", Any), ("[1, 2", list), ('"1"', int),
        ("1.0", int), ("true", int), ("\ud800", str), (b'"\xff"', str),
    ],
)  # fmt: skip
def test_what_is_not_the_type_is_a_value_error(content: str | bytes, kind: Any) -> None:
    """Nesting, ranges, other types and damaged text."""
    with pytest.raises(ValueError, match=r".+"):
        decode_json(content, kind)


def test_depth_is_counted_outside_strings() -> None:
    """Brackets in a string do not nest."""
    depth = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert decode_json(depth, list) is not None
    text = '"' + "[" * 1000 + r"\"" + "{" * 1000 + '"'
    assert len(decode_json(text, str)) == 2001


def test_large_files_are_not_read(tmp_path: Path) -> None:
    """A limit on the bytes holds before they are in memory."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    assert read_bounded(path, 100) == b"x" * 100
    with pytest.raises(ValueError, match="more than 99 bytes"):
        read_bounded(path, 99)
    with pytest.raises(ValueError, match="more than 99"):
        decode_json(b"x" * 100, str, 99)
