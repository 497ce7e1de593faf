"""The cache of compiled libraries: what is odd in it is never loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import warnings
from pathlib import Path

import pytest

from ended_processes import assert_ends
from kullback.runtime import compiled_library
from kullback.runtime.compiled_library import cache_folder, load_compiled
from kullback.runtime.progress import Note

FLAGS = ("-O1", "-shared", "-fPIC")
needs_compiler = pytest.mark.skipif(
    compiled_library.compiler() is None, reason="there is no C compiler here"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A C file."""
    path = tmp_path / "seven.c"
    path.write_text("int seven(void) { return 7; }\n", encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kullback"


def silently(source: Path) -> ctypes.CDLL | None:
    """The library, where no note is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_compiled(source, FLAGS)


@pytest.fixture
def library(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a library in the cache; from here on, loading any is counted as a failure."""
    assert silently(source) is not None
    (path,) = cache.glob("*.so")

    def forbidden(name: str) -> None:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(compiled_library.ctypes, "CDLL", forbidden)
    return path


@needs_compiler
def test_a_library_is_compiled_once_and_is_this_users_alone(source: Path, cache: Path) -> None:
    """The folder has mode 700, the file 600; the second time no compiler runs."""
    loaded = silently(source)
    assert loaded is not None
    assert loaded.seven() == 7
    (path,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat().st_mtime_ns
    assert silently(source) is not None
    assert path.stat().st_mtime_ns == before


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "flipped", "replaced"])
def test_a_damaged_library_is_not_loaded(damage: str, source: Path, library: Path) -> None:
    """A file whose hash is not the one in its name is named in a note."""
    content = bytearray(library.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"\x7fELF planted")
    library.unlink()  # this process has mapped the file, and would crash where that is cut short
    library.write_bytes(content)
    library.chmod(0o600)
    with pytest.warns(Note, match="damaged"):
        assert load_compiled(source, FLAGS) is None


@needs_compiler
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_library_that_others_can_write_is_not_loaded(
    mode: int, source: Path, library: Path
) -> None:
    """The mode is in the note."""
    library.chmod(mode)
    with pytest.warns(Note, match=f"mode {mode:o}"):
        assert load_compiled(source, FLAGS) is None


@needs_compiler
def test_a_folder_that_others_can_write_is_not_used(source: Path, library: Path) -> None:
    """Nor is one inside a folder that others can write."""
    library.parent.chmod(0o777)
    with pytest.warns(Note, match="mode 777"):
        assert load_compiled(source, FLAGS) is None
    library.parent.chmod(0o700)
    library.parent.parent.chmod(0o777)
    with pytest.warns(Note, match="another user can replace"):
        assert load_compiled(source, FLAGS) is None


@needs_compiler
def test_the_library_of_another_user_is_not_loaded(
    source: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a process of another user, root among them, the files are foreign."""
    owner = os.geteuid()
    monkeypatch.setattr(compiled_library.os, "geteuid", lambda: owner + 1)
    with pytest.warns(Note, match="another user"):
        assert load_compiled(source, FLAGS) is None


@needs_compiler
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_not_a_file_is_not_loaded(kind: str, source: Path, library: Path) -> None:
    """A link to the very library, a pipe and a folder are refused without waiting."""
    elsewhere = library.parent.parent / "elsewhere.so"
    library.rename(elsewhere)
    if kind == "link":
        library.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(library)
    else:
        library.mkdir()
    with pytest.warns(Note, match="remove it"):
        assert load_compiled(source, FLAGS) is None


def test_a_relative_cache_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The specification says so: the folder would depend on where the command runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "cache", "./cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "kullback"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other" / "kullback"


def test_without_a_home_there_is_no_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose user has no home folder gets none, not an error."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert silently(source) is None


def test_without_a_compiler_nothing_is_written(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is ordinary: no note, no folder."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert silently(source) is None
    assert not cache.exists()


@pytest.mark.parametrize("command", ["false", "true"])
def test_a_compiler_that_makes_nothing_is_no_compiler(
    command: str, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the compiler fails, or leaves no file, a note says so and nothing is left."""
    monkeypatch.setattr(compiled_library, "compiler", lambda: command)
    with pytest.warns(Note, match=f"compiler {command}"):
        assert load_compiled(source, FLAGS) is None
    assert not list(cache.iterdir())


def test_a_hanging_compiler_is_stopped_with_its_children(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the limit neither the compiler nor what it started is running."""
    script = tmp_path / "cc"
    script.write_text(f"#!/bin/sh\nsleep 600 & echo $! > {tmp_path}/child\nwait\n")
    script.chmod(0o700)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(compiled_library, "COMPILER_SECONDS", 1.0)
    monkeypatch.setattr(compiled_library, "_too_slow", set())
    with pytest.warns(Note, match="stopped.*next command tries again"):
        assert load_compiled(source, FLAGS) is None
    monkeypatch.setattr(compiled_library, "COMPILER_SECONDS", 10_000.0)
    with pytest.warns(Note, match="stopped"):  # which is not waited for twice
        assert load_compiled(source, FLAGS) is None
    child = int((tmp_path / "child").read_text())
    assert_ends(child)
    assert not list(cache.iterdir())


@needs_compiler
def test_drafts_of_killed_processes_are_removed(source: Path, cache: Path) -> None:
    """An old draft goes; that of a process that may still run stays."""
    old, new = cache / ".compiling-old", cache / ".compiling-new"
    for draft in (old, new):
        draft.mkdir(parents=True)
    cache.chmod(0o700)
    os.utime(old, (0, 0))
    assert silently(source) is not None
    assert not old.exists()
    assert new.exists()
