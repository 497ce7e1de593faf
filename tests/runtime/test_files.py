"""Atomic writing of files and folders."""

from __future__ import annotations

import errno
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.files import (
    draft_folder,
    draft_of,
    explained,
    remove_leftovers,
    replaced,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    """Return the names of what is in the folder."""
    return sorted(path.name for path in folder.iterdir())


def failing(code: int) -> Callable[..., None]:
    """Return a function that fails as the system does with the error `code`."""

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_files_are_written_with_their_folders(tmp_path: Path):
    """The bytes are in the file, folders are created, and nothing else is left."""
    path = tmp_path / "a" / "b" / "c.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["c.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_harms_nothing(
    code: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """When a write fails the earlier file stays, no other file is left, and the error says why."""
    path = tmp_path / "file"
    write_atomically(path, b"earlier")
    monkeypatch.setattr(os, call, failing(code))
    message = f"{path} cannot be written: {os.strerror(code)}"
    with pytest.raises(RunError, match=re.escape(message)):
        write_atomically(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert names(tmp_path) == ["file"]


def test_a_real_limit_on_the_size(tmp_path: Path):
    """A process limited to 1,000 bytes a file fails with one sentence and keeps the old file."""
    path = tmp_path / "file"
    write_atomically(path, b"earlier")
    code = (
        "import resource, sys, pathlib\n"
        "from kullback.errors import RunError\n"
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
    assert names(tmp_path) == ["file"]


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
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_a_file(tmp_path: Path):
    """A path below a file is an error that names it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file/below cannot be written"):
        write_atomically(tmp_path / "file" / "below", b"")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_is_that_of_the_earlier_file_or_of_the_umask(umask: int, tmp_path: Path):
    """A file of mode 0600 or 0664 keeps it; a new one gets what the umask leaves of 0666."""
    old = os.umask(umask)
    try:
        for mode in (0o600, 0o664):
            path = tmp_path / f"{mode:o}"
            path.touch()
            path.chmod(mode)
            write_atomically(path, b"new content")
            assert path.stat().st_mode & 0o7777 == mode
        write_atomically(tmp_path / "new", b"")
        assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o666 & ~umask
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder").chmod(0o700)
        for name in ("folder", "new folder"):
            with draft_folder(tmp_path / name) as draft:
                (draft / "file").touch()
        assert (tmp_path / "folder").stat().st_mode & 0o7777 == 0o700
        assert (tmp_path / "new folder").stat().st_mode & 0o7777 == 0o777 & ~umask
    finally:
        os.umask(old)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_and_stays(exists: bool, tmp_path: Path):
    """What a link leads to is written, in its own folder; the link is not replaced."""
    target, link = tmp_path / "there" / "file", tmp_path / "here" / "link"
    link.parent.mkdir()
    link.symlink_to(target)
    if exists:
        target.parent.mkdir()
        target.write_bytes(b"earlier")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert (names(target.parent), names(link.parent)) == (["file"], ["link"])


def test_a_link_at_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Somebody who guesses the random name and puts a link there destroys nothing with it."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("mine")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / ".file.00000000.part").symlink_to(victim)
    with pytest.raises(RunError, match="file cannot be written: File exists"):
        write_atomically(path, b"new")
    assert victim.read_text() == "mine"
    assert not path.exists()


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path):
    """A FIFO and a folder stay what they are, also where they appear while the draft is written."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(RunError, match=r"fifo cannot be written: .*regular file"):
        write_atomically(fifo, b"")
    assert fifo.is_fifo()

    def write_while_it_appears() -> None:
        with replaced(tmp_path / "late") as file:
            file.write(b"x")
            os.mkfifo(tmp_path / "late")

    with pytest.raises(RunError, match=r"late cannot be written: .*regular file"):
        write_while_it_appears()
    assert names(tmp_path) == ["fifo", "late"]


def test_a_draft_that_is_not_published_is_removed(tmp_path: Path):
    """Only `publish` gives the file its name."""
    with draft_of(tmp_path / "file") as draft:
        draft.file.write(b"x")
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    """After an exception nothing is there; an existing empty folder stays the same folder."""
    for name in ("new", "existing"):
        folder = tmp_path / name
        if name == "existing":
            folder.mkdir()
        before = folder.stat().st_ino if folder.exists() else None
        with suppress(KeyboardInterrupt), draft_folder(folder) as draft:
            (draft / "a").touch()
            raise KeyboardInterrupt
        assert folder.exists() == (before is not None)
        assert before is None or names(folder) == []
        with draft_folder(folder) as draft:
            (draft / "a").write_text("a")
            (draft / "sub").mkdir()
            (draft / "sub" / "b").write_text("b")
            assert not (folder / "a").exists()
        assert names(folder) == ["a", "sub"]
        assert before in (None, folder.stat().st_ino)
    assert names(tmp_path) == ["existing", "new"]


def test_the_errors_of_rust_are_explained(tmp_path: Path):
    """A number of the system in a message is a full disk; any other exception stays itself."""
    with (
        pytest.raises(RunError, match="x cannot be written: No space left on device"),
        explained(Path("x")),
    ):
        raise Exception("No space left on device (os error 28)")
    with pytest.raises(ZeroDivisionError), explained(Path("x")):
        raise ZeroDivisionError
    with pytest.raises(InvalidValueError, match=r"^\(os error 2\)$"), explained(Path("x")):
        raise InvalidValueError("(os error 2)")


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path):
    """Temporary files and folders of killed processes are removed, other files stay."""
    ours = (".model.safetensors.123.part", ".model.safetensors.0a1b2c3d.part")
    others = ("part", "mine.part", ".hidden", ".other.123.part", ".model.safetensors.rest.part")
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / ".model.safetensors.00000000.part").mkdir()
    (tmp_path / ".model.safetensors.00000000.part" / "x").touch()
    remove_leftovers(tmp_path, "model.safetensors")
    assert names(tmp_path) == sorted(others)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(set(others) - {".other.123.part"})
