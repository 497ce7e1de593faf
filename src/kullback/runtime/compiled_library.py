"""C libraries that the system's compiler makes at their first use, in a cache that is checked.

A library is loaded only where no other user can have written it: its file and folder belong to
this user and only this user can write them, the folders above belong to this user or to root, and
the SHA-256 of the file is the one in its name.  A name is ``STEM-SOURCE-LIBRARY.so``: the first 16
digits of the SHA-256 of the source with the compiler's flags, and of the library's bytes.

The cache is ``XDG_CACHE_HOME/kullback``, by default in ``~/.cache``.  A relative path there is
ignored, as the XDG Base Directory Specification (0.8, "Environment variables") says.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sysconfig
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from kullback.runtime.inputs import open_regular
from kullback.runtime.progress import Note

__all__ = [
    "COMPILER_SECONDS",
    "FLAGS",
    "FLOAT",
    "INT",
    "LONG",
    "POINTER",
    "cache_folder",
    "compiler",
    "load_compiled",
    "source_digest",
]

COMPILER_SECONDS = 60.0
"""A compiler that takes longer is stopped; it takes up to three seconds, on a busy machine ten."""
FLAGS = ("-O3", "-shared", "-fPIC", "-Wno-psabi")
"""Of every library; those of vector instructions (`vector_flags`) are added where it uses them."""
# The types of the libraries' arguments and results.
POINTER, LONG, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
DRAFT = ".compiling-"
# A draft this old is that of a killed process: a compiler is stopped long before.
OLD_SECONDS = 600.0
# Compilers that this process has stopped, and does not wait for again.
_too_slow: set[str] = set()
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class _OddError(Exception):
    """Why the cache is not used, and how to correct it."""


def load_compiled(source: Path, flags: Sequence[str] = FLAGS) -> ctypes.CDLL | None:
    """The library of a C file, compiled with `flags` unless it is in the cache.

    None with ``KULLBACK_COMPILE=0``, and where there is no compiler or folder for a cache.  Where
    the cache, the file or the compiler is not as it should be, a `Note` says what and what to do,
    and the result is None.
    """
    if os.environ.get("KULLBACK_COMPILE") == "0":
        return None
    try:
        folder = cache_folder()
        path = _cached_or_compiled(source, flags, folder)
        if path is None:
            return None
        _check_library(path)
        return ctypes.CDLL(str(path))
    except RuntimeError:  # there is no home folder
        return None
    except (_OddError, OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"{source.name} is not used, and the same results are computed more slowly: {error}",
            Note,
            stacklevel=2,
        )
        return None


def source_digest(source: Path, flags: Sequence[str] = FLAGS) -> str:
    """What tells the library of a C file from that of another version of it."""
    about = "\n".join((*flags, platform.machine(), platform.system()))
    return _digest(source.read_bytes() + about.encode())


def cache_folder() -> Path:
    """The folder of compiled libraries; `RuntimeError` where there is no home folder for it."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".cache"
    if not base.is_absolute():
        raise RuntimeError(f"the home folder {base.parent} is not an absolute path")
    return base / "kullback"


def compiler() -> str | None:
    """The C compiler: ``CC``, the one that built Python, or one of the usual names."""
    of_python = str(sysconfig.get_config_var("CC") or "").split()
    for name in (os.environ.get("CC"), *of_python[:1], "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    return None


def _cached_or_compiled(source: Path, flags: Sequence[str], folder: Path) -> Path | None:
    """The library's file; None where it is not cached and there is no compiler."""
    stem = f"{source.stem}-{source_digest(source, flags)}"
    if folder.exists():
        _check_folder(folder)
        cached = sorted(folder.glob(f"{stem}-*.so"))
        if cached:
            return cached[0]
    command = compiler()
    if command is None:
        return None
    if command in _too_slow:
        raise _slow_compiler(command)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_folder(folder)
    folder.chmod(0o700)
    _remove_old_drafts(folder)
    with TemporaryDirectory(dir=folder, prefix=DRAFT) as draft:
        output = Path(draft) / "compiled.so"
        _compile([command, *flags, "-o", str(output), str(source), "-lm"])
        if not output.is_file():
            raise _OddError(f"the C compiler {command} made no library; set CC to another")
        return _publish(output.read_bytes(), Path(draft) / "complete.so", folder, stem)


def _slow_compiler(command: str) -> _OddError:
    return _OddError(
        f"the C compiler {command} was stopped after {COMPILER_SECONDS:g} seconds; the next "
        "command tries again; set CC to another, or KULLBACK_COMPILE=0 to do without one"
    )


def _compile(command: list[str]) -> None:
    """Run the compiler, and stop it with its children after `COMPILER_SECONDS`."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        code = process.wait(COMPILER_SECONDS)
    except subprocess.TimeoutExpired:
        _too_slow.add(command[0])
        raise _slow_compiler(command[0]) from None
    finally:  # after Ctrl-C too
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
    if code:
        raise _OddError(
            f"the C compiler {command[0]} failed with code {code}; set CC to another, or "
            "KULLBACK_COMPILE=0"
        )


def _publish(content: bytes, draft: Path, folder: Path, stem: str) -> Path:
    """Write the library under its name: completely, on the disk, readable by this user alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path = folder / f"{stem}-{_digest(content)}.so"
    draft.replace(path)
    return path


def _check_folder(folder: Path) -> None:
    """Raise `_OddError` where another user could replace what is in the folder."""
    real = folder.resolve()
    _check_owned(real, f"the cache folder {folder}")
    if not hasattr(os, "geteuid"):
        return
    for parent in real.parents:
        status = parent.stat()
        shared = status.st_mode & WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or shared:
            raise _OddError(
                f"another user can replace the cache folder {folder}, because {parent} is not "
                "this user's alone; set XDG_CACHE_HOME to a folder of your own"
            )


def _check_library(path: Path) -> None:
    """Raise `_OddError` unless the file is one that `_publish` wrote as this user."""
    try:
        file = open_regular(path, follow=False)
    except OSError as error:
        raise _OddError(f"{path} cannot be read ({error.strerror}); remove it") from None
    with file:
        _check_status(os.fstat(file.fileno()), str(path))
        if _digest(file.read()) != path.stem.rpartition("-")[2]:
            raise _OddError(
                f"{path} is damaged (its SHA-256 is not the one in its name); remove it"
            )


def _check_owned(path: Path, name: str) -> None:
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise _OddError(f"{name} is not a folder; set XDG_CACHE_HOME to another")
    _check_status(status, name)


def _check_status(status: os.stat_result, name: str) -> None:
    if not hasattr(os, "geteuid"):  # Windows has other permissions
        return
    if status.st_uid != os.geteuid():
        raise _OddError(f"{name} belongs to another user ({status.st_uid}) and is not loaded")
    if status.st_mode & WRITABLE_BY_OTHERS:
        raise _OddError(
            f"{name} can be written by other users (mode {stat.S_IMODE(status.st_mode):o}) and is "
            "not loaded; remove it"
        )


def _remove_old_drafts(folder: Path) -> None:
    for draft in folder.glob(f"{DRAFT}*"):
        if time.time() - draft.lstat().st_mtime > OLD_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
