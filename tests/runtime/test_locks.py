"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kullback.errors import RunError
from kullback.runtime.locks import locked

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
