"""The lock of a run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interrupted_runs import CONFIG, complaint
from kullback.errors import RunError
from kullback.runtime import locks
from kullback.training.gpt import GPT
from kullback.training.lock import locked
from kullback.training.loop import resume, train
from tiny_runs import sizes, weather


def begin(run: Path) -> GPT:
    """Train a new model in `run`."""
    batches = weather(run.parent)
    return train(run, batches, sizes(batches), CONFIG)


def test_a_folder_that_is_a_file(tmp_path: Path):
    """A run folder that is a file is named, and the file stays."""
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(RunError, match=r"file cannot be used.*File exists.*-o"):
        begin(path)
    assert path.read_text() == "mine"


HOLD = """
import sys, pathlib
from kullback.training.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_is_in_the_folder(half: Path):
    """While one process has the folder, others are refused with its number, and may enter later."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, half], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\n"
        for action in (resume, begin):
            said = complaint(action, half)
            assert said.startswith(f"{half} is in use by process {first.pid};")
            assert "-o" in said
    finally:
        first.kill()
        first.communicate()
    with locked(half):
        assert (half / ".lock.pid").read_text() == str(os.getpid())


def test_a_full_disk_at_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk so full that not even the lock can be written is one sentence."""

    batches = weather(tmp_path)

    def full(*arguments: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(locks, "_write", full)
    with pytest.raises(RunError, match=r"run cannot be used.*No space left on device"):
        train(tmp_path / "run", batches, sizes(batches), CONFIG)
