"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kullback.errors import RunError
from kullback.runtime.locks import locked, locked_output

HOLD = """
import sys, pathlib
from kullback.runtime.locks import locked
with locked(pathlib.Path(sys.argv[1]), str):
    print("in", flush=True)
    sys.stdin.read()
"""


def refusal(process: str) -> str:
    """Return a message with the process."""
    return f"held by {process}"


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    """The refusal has the number of the process; the lock of a killed process is free."""
    path = tmp_path / "lock"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\n"
        with pytest.raises(RunError, match=f"held by {first.pid}$"), locked(path, refusal):
            pass
    finally:
        first.kill()
        first.communicate()
    with locked(path, refusal):
        assert (tmp_path / "lock.pid").read_text() == str(os.getpid())


def test_a_second_user_in_the_same_process_is_refused(tmp_path: Path) -> None:
    """Two locks of one process exclude each other; afterwards the lock is free."""
    path = tmp_path / "lock"
    for _ in range(2):
        with locked(path, refusal), pytest.raises(RunError, match=f"held by {os.getpid()}$"):
            locked(path, refusal).__enter__()


def test_a_lock_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """Below a file there is no lock."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        locked(tmp_path / "file" / "lock", refusal).__enter__()


HOLD_OUTPUT = """
import sys, pathlib
from kullback.runtime.locks import locked_output
with locked_output(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_links_at_the_names_of_the_lock_are_not_followed(tmp_path: Path) -> None:
    """A planted link destroys nothing: lock and number of the process do not follow it."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("lock", "lock.pid"):
        (tmp_path / name).symlink_to(victim)
        with pytest.raises(RunError, match=r"symbolic link.*remove"):
            locked(tmp_path / "lock", refusal).__enter__()
        (tmp_path / name).unlink()
        assert victim.read_text() == "mine"


@pytest.mark.parametrize("content", ["\x1b[31m7", "", "12a", "9" * 1000, "-1"])
def test_only_a_number_is_taken_for_a_process(content: str, tmp_path: Path) -> None:
    """What somebody else has written into the file is not shown."""
    with locked(tmp_path / "lock", refusal):
        (tmp_path / "lock.pid").write_text(content)
        with pytest.raises(RunError, match=r"held by (unknown|9{20})$"):
            locked(tmp_path / "lock", refusal).__enter__()


def test_the_lock_of_an_output_leaves_nothing(tmp_path: Path) -> None:
    """Lock and leftovers of the output are removed, empty folders that were made for it too."""
    path = tmp_path / "a" / "b" / "report.html"
    with locked_output(path):
        assert sorted(p.name for p in path.parent.iterdir()) == [
            ".report.html.lock",
            ".report.html.lock.pid",
        ]
    assert list(tmp_path.iterdir()) == []
    for name in (".r.12.part", ".other.12.part"):
        (tmp_path / name).touch()
    with locked_output(tmp_path / "r"):
        (tmp_path / "r").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.12.part", "r"]
    with locked_output(None):
        pass


def test_two_names_of_one_output_have_one_lock(tmp_path: Path) -> None:
    """A second process is refused with the first one's number, also where it uses a link."""
    path, link = tmp_path / "out.rec", tmp_path / "link"
    link.symlink_to(path)
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD_OUTPUT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\n"
        for name in (path, link):
            message = f"{name} is being written by process {first.pid}"
            with pytest.raises(RunError, match=message), locked_output(name):
                pass
    finally:
        first.kill()
        first.communicate()
    with locked_output(link):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


KILLED = """
import os, pathlib, signal, sys
from kullback.runtime.files import draft_folder, draft_of
from kullback.runtime.locks import locked_output
path = pathlib.Path(sys.argv[1])
with locked_output(path):
    if sys.argv[2] == "file":
        with draft_of(path) as draft:
            draft.file.write(bytes(100_000))
            os.kill(os.getpid(), signal.SIGKILL)
    with draft_folder(path) as draft:
        (draft / "weights").write_bytes(bytes(100_000))
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder"])
def test_the_next_run_removes_what_a_killed_one_left(kind: str, tmp_path: Path) -> None:
    """After kill -9 there is a draft and a lock; after the next run there is nothing of both."""
    path = tmp_path / "out"
    if kind == "empty folder":
        path.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, path, kind], check=False, timeout=60)
    assert done.returncode == -9
    assert len([p for p in tmp_path.rglob(".out.*") if p.suffix in (".part", ".lock")]) == 2
    assert path.exists() == (kind == "empty folder")
    with locked_output(path):
        assert list(tmp_path.rglob(".out.*.part")) == []
    assert list(tmp_path.rglob(".out.*")) == []
    assert list(tmp_path.iterdir()) == ([path] if kind == "empty folder" else [])
