"""Tests of kullback.cli.training_config."""

from __future__ import annotations

from pathlib import Path

import pytest

from kullback.cli.training_config import read_config
from kullback.errors import InvalidValueError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_fields_are_read(encoding: str, tmp_path: Path) -> None:
    """With a byte order mark, too, which some editors write."""
    path = tmp_path / "mine.toml"
    path.write_text("steps = 20\nsize = 'nano'\ntied = true\n", encoding=encoding)
    fields = read_config(path, {"steps", "size", "tied"}, {"size"}, {"tied"})
    assert fields == {"steps": 20, "size": "nano", "tied": True}


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    """With the file's name."""
    path = tmp_path / "mine.toml"
    path.write_text("steps = 20", encoding="utf-16")
    with pytest.raises(InvalidValueError, match=r"mine\.toml is not a TOML file"):
        read_config(path, {"steps"}, set(), set())
