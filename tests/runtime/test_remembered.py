"""Fingerprints of files that were hashed before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kullback.runtime.interrupted import state_folder
from kullback.runtime.remembered import files_key, recall, remember

LATER = time.time() + 3600.0
FINGERPRINT = "ab" * 32


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of weights."""
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def test_a_file_that_changes_is_another(file: Path) -> None:
    """Content of the same size, with the time of before put back, another file, another type."""
    about = {"dtype": "float32"}
    before, times = files_key([file], about, LATER), file.stat()
    assert before == files_key([file], about, LATER)
    assert before != files_key([file], {"dtype": "bfloat16"}, LATER)
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = files_key([file], about, LATER)
    assert changed != before
    other = file.rename(file.with_name("other"))
    assert files_key([other], about, LATER) not in (before, changed, None)


def test_what_may_have_changed_is_not_identified(file: Path) -> None:
    """A file that was written while it was read, one that is gone, and no file at all."""
    assert files_key([file], {}, time.time()) is None
    assert files_key([file, file.with_name("gone")], {}, LATER) is None
    assert files_key([], {}, LATER) is None


def test_a_fingerprint_comes_back(file: Path) -> None:
    """Only under its key, and only where it is one."""
    key = files_key([file], {}, LATER)
    assert key is not None
    assert recall(key) is None
    remember(key, FINGERPRINT)
    assert recall(key) == FINGERPRINT
    assert recall("0" * 64) is None
    folder = state_folder("fingerprints")
    assert folder is not None
    for content in (b"", b"ab" * 31, b"ab" * 33, b"XY" * 32):
        (folder / key).write_bytes(content)
        assert recall(key) is None


def test_a_folder_of_others_is_not_believed(file: Path) -> None:
    """Where another user can write, nothing is read."""
    key = files_key([file], {}, LATER)
    assert key is not None
    remember(key, FINGERPRINT)
    folder = state_folder("fingerprints")
    assert folder is not None
    folder.chmod(0o777)
    assert recall(key) is None


def test_old_fingerprints_are_removed(file: Path) -> None:
    """What was remembered more than a year ago goes when something new comes."""
    remember("0" * 64, FINGERPRINT)
    folder = state_folder("fingerprints")
    assert folder is not None
    os.utime(folder / ("0" * 64), (0, 0))
    remember("1" * 64, FINGERPRINT)
    assert [path.name for path in folder.iterdir()] == ["1" * 64]
