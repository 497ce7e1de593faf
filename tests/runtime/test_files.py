"""Atomic writing of files, and checks of output paths."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.files import check_outputs, remove_leftovers, write_atomically


def test_files_are_written_with_their_folders(tmp_path: Path):
    """The bytes are in the file, folders are created, and nothing else is left."""
    path = tmp_path / "a" / "b" / "c.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["c.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_harms_nothing(
    code: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """When a write fails the earlier file stays, no other file is left, and the error says why."""
    path = tmp_path / "file"
    write_atomically(path, b"earlier")

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    message = f"{path} cannot be written: {os.strerror(code)}"
    with pytest.raises(RunError, match=re.escape(message)):
        write_atomically(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_real_limit_on_the_size(tmp_path: Path):
    """A process limited to 1,000 bytes a file fails with one sentence and keeps the old file."""
    path = tmp_path / "file"
    write_atomically(path, b"earlier")
    code = (
        "import resource, sys, pathlib\n"
        "from kullback.errors import InvalidValueError, RunError\n"
        "from kullback.runtime.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_atomically(pathlib.Path(sys.argv[1]), bytes(5000))\n"
        "except RunError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path} cannot be written: File too large")
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An interrupt while writing keeps the earlier file and removes the temporary one."""
    path = tmp_path / "file"
    write_atomically(path, b"earlier")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_a_file(tmp_path: Path):
    """A path below a file is an error that names it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file/below cannot be written"):
        write_atomically(tmp_path / "file" / "below", b"")
    assert (tmp_path / "file").read_text() == "mine"


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path):
    """Temporary files of a killed process are removed, other files stay."""
    for name in (".model.safetensors.123.part", "part", "mine.part", ".hidden"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "mine.part", "part"]


def test_outputs_are_checked_before_the_work(tmp_path: Path):
    """A folder, an input, one file twice and an unwritable folder are named with the option."""
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "file").touch()
    a, b = tmp_path / "a", tmp_path / "sub" / "b"
    check_outputs({"--records": a, "--report": b, "-o": None}, [tmp_path / "text.txt"])
    for outputs, message in (
        ({"--report": tmp_path}, "--report .*folder"),
        ({"--report": tmp_path / "text.txt"}, r"--report .*text\.txt.*overwritten"),
        ({"--records": a, "--report": a}, "--records and --report"),
        ({"--report": tmp_path / "file" / "b"}, "--report .*file is not a writable folder"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            check_outputs(outputs, [tmp_path / "text.txt"])
