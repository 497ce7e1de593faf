"""What interrupted work has computed, in the user's state folder."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from kullback.runtime.interrupted import BEGIN, InterruptedFile, Mark, forget, interrupted_path

#: Where the pieces "one", "two" and "three" end.
ENDS = (27, 54, 83)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the work "abc" is kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = interrupted_path("abc")
    assert path is not None
    return path


def contents(path: Path) -> list[bytes]:
    """The pieces that a new process finds."""
    with closing(InterruptedFile(path)) as file:
        return [bytes(piece) for piece, _ in file.read()]


def keep(path: Path, *pieces: bytes) -> Mark | None:
    """Append pieces as a new process does; the mark at their end."""
    with closing(InterruptedFile(path)) as file:
        marks = [BEGIN, *(mark for _, mark in file.read())]
        return file.append(pieces, marks[-1])


def test_what_was_kept_comes_back_until_it_is_forgotten(path):
    """In a folder and a file of the user's own; nothing is made before something is kept."""
    assert contents(path) == []
    assert not path.parent.exists()
    assert keep(path, b"ro", b"") is not None
    assert keep(path, b"ws") is not None
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert contents(path) == [b"ro", b"", b"ws"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    forget(path)
    assert contents(path) == []


def test_every_torn_end_is_passed_over_and_replaced(path):
    """Cut after any of its bytes, a file has its complete pieces, and others can follow them."""
    keep(path, b"one", b"two", b"three")
    content = path.read_bytes()
    assert len(content) == ENDS[-1]
    for size in range(len(content)):
        whole = [b"one", b"two", b"three"][: sum(end <= size for end in ENDS)]
        path.write_bytes(content[:size])
        assert contents(path) == whole
        keep(path, b"new")
        assert contents(path) == [*whole, b"new"]


def test_damage_is_noticed(path):
    """A bit that is not as it was written ends the file, zeros that were not yet written too."""
    keep(path, b"one", b"two", b"three")
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert contents(path) == [b"one", b"two", b"three"][: sum(end <= place for end in ENDS)]
    path.write_bytes(content + bytes(1000))
    assert contents(path) == [b"one", b"two", b"three"]


def test_pieces_of_another_file_are_no_continuation(path):
    """The checksums are of all that is before them."""
    keep(path, b"one", b"two")
    other = path.read_bytes()
    forget(path)
    keep(path, b"ONE", b"TWO")
    path.write_bytes(path.read_bytes()[: ENDS[0]] + other[ENDS[0] :])
    assert contents(path) == [b"ONE"]


def test_an_interrupted_piece_is_replaced(path):
    """What was written after the last complete append goes; the mark before it stays good."""

    def interrupted() -> Iterator[bytes]:
        yield b"two"
        raise KeyboardInterrupt

    with closing(InterruptedFile(path)) as file:
        mark = file.append([b"one"], BEGIN)
        assert mark is not None
        with pytest.raises(KeyboardInterrupt):
            file.append(interrupted(), mark)
        file.append([b"three"], mark)
    assert contents(path) == [b"one", b"three"]


def test_a_full_disk_keeps_what_was_there(path, monkeypatch):
    """And the next attempt follows it."""
    with closing(InterruptedFile(path)) as file:
        mark = file.append([b"one"], BEGIN)
        assert mark is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "no space")))
            assert file.append([b"two"], mark) is None
        assert len(path.read_bytes()) == mark.end
        file.append([b"three"], mark)
    assert contents(path) == [b"one", b"three"]


def test_one_process_at_a_time(path):
    """A second one that does the same work finds nothing, and keeps nothing."""
    with closing(InterruptedFile(path)) as first, closing(InterruptedFile(path)) as second:
        mark = first.append([b"one"], BEGIN)
        assert mark is not None
        assert list(second.read()) == []
        assert second.append([b"two"], BEGIN) is None
        forget(path)  # as the second one does when it is done
        first.append([b"three"], mark)
    assert contents(path) == [b"one", b"three"]


def test_a_folder_that_others_can_write_is_not_read(path):
    """They could have planted the rows."""
    keep(path, b"ro", b"ws")
    path.parent.chmod(0o777)
    assert contents(path) == []
    assert keep(path, b"ro", b"ws") is None


def test_a_relative_state_folder_is_ignored(path, monkeypatch, tmp_path):
    """As its specification says."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert interrupted_path("abc") == tmp_path / ".local/state/kullback/interrupted/abc"


def test_old_work_is_removed(path):
    """What is older than a month is removed."""
    keep(path, b"ro", b"ws")
    month = time.time() - 40 * 86_400
    os.utime(path, (month, month))
    keep(path.with_name("def"), b"rows")
    assert [kept.name for kept in path.parent.iterdir()] == ["def"]


def test_forgetting_removes_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    """Beside the file itself, and no other's."""
    for name in ("rows", "rows.lock", "rows.lock.pid", "others.lock"):
        (tmp_path / name).write_bytes(b"x")
    forget(tmp_path / "rows")
    assert [file.name for file in tmp_path.iterdir()] == ["others.lock"]
