"""What interrupted work has computed, in the user's state folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kullback.runtime.interrupted import (
    forget,
    interrupted_path,
    read_interrupted,
    write_interrupted,
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the work "abc" is kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = interrupted_path("abc")
    assert path is not None
    return path


def test_what_was_kept_comes_back_until_it_is_forgotten(path):
    """In a folder of the user's own; nothing is made before something is kept."""
    assert read_interrupted(path) is None
    assert not path.parent.exists()
    assert write_interrupted(path, [b"ro", b"ws"])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_interrupted(path) == b"rows"
    forget(path)
    assert read_interrupted(path) is None


def test_damage_is_noticed(path):
    """A bit that is not as it was written."""
    write_interrupted(path, [b"rows"] * 10)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    assert read_interrupted(path) is None


def test_a_folder_that_others_can_write_is_not_read(path):
    """They could have planted the rows."""
    write_interrupted(path, [b"ro", b"ws"])
    path.parent.chmod(0o777)
    assert read_interrupted(path) is None
    assert not write_interrupted(path, [b"ro", b"ws"])


def test_a_relative_state_folder_is_ignored(path, monkeypatch, tmp_path):
    """As its specification says."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert interrupted_path("abc") == tmp_path / ".local/state/kullback/interrupted/abc"


def test_old_work_is_removed(path):
    """What is older than a month is removed."""
    write_interrupted(path, [b"ro", b"ws"])
    month = time.time() - 40 * 86_400
    os.utime(path, (month, month))
    write_interrupted(path.with_name("def"), [b"rows"])
    assert [kept.name for kept in path.parent.iterdir()] == ["def"]


def test_forgetting_removes_what_a_killed_run_left_half_written(tmp_path: Path) -> None:
    """Beside the file itself, and no other's."""
    path = tmp_path / "rows"
    for name in ("rows", ".rows.0123abcd.part", ".others.0123abcd.part"):
        (tmp_path / name).write_bytes(b"x")
    forget(path)
    assert [file.name for file in tmp_path.iterdir()] == [".others.0123abcd.part"]
