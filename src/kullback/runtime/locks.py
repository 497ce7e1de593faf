"""Locks of files and folders between processes.

The operating system releases a lock when the process ends, however it ends.  A second file, with
``.pid`` after the lock's name, contains the process that holds it, because a locked file cannot be
read on every system.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kullback.errors import RunError
from kullback.runtime.files import explained, remove_leftovers

__all__ = ["locked", "locked_output", "made_folder"]

# Digits of the largest number of a process on any system.
_LONGEST = 20


@contextmanager
def locked(path: Path, refusal: Callable[[str], str], remove: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, without waiting for it; `remove` removes it at the end.

    Raises `RunError` with the message ``refusal(process)`` where another process, or another user
    in this one, holds it; `process` is its number or "unknown".  Also where one of the files is a
    symbolic link, which is not followed.  Raises `OSError` where the files cannot be written.
    """
    holder = path.with_name(f"{path.name}.pid")
    for file in (path, holder):
        if file.is_symlink():
            raise RunError(
                f"the lock {file} is a symbolic link, which is not followed: remove the link, then "
                "run the command again"
            )
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(refusal(_read(holder) or "unknown")) from None
    try:
        _write(holder, str(os.getpid()))
        yield
    finally:
        if remove:
            # While it is held: who waits for a file that is gone locks a new one.
            for file in (holder, path):
                with suppress(OSError):
                    file.unlink()
        lock.release()


@contextmanager
def locked_output(path: Path | None, make: bool = False) -> Iterator[None]:
    """Hold the lock of an output, a file or a folder, and remove what killed runs left of it.

    The lock is ``.NAME.lock`` beside the output, inside a folder that exists, or that is made
    because files appear in it one by one (`make`): both have the same lock then.  At the end it is
    removed, and so are folders that were made for it and are still empty.  Nothing for None.
    Raises `RunError` where another process writes the output, and where nothing can be written.
    """
    if path is None:
        yield
        return
    target = Path(os.path.realpath(path))
    folder = target if make or target.is_dir() else target.parent

    def refusal(process: str) -> str:
        return f"{path} is being written by process {process}: wait for it, or choose another name"

    with ExitStack() as held:
        with explained(path):
            held.enter_context(made_folder(folder))
            held.enter_context(locked(folder / f".{target.name}.lock", refusal, remove=True))
        remove_leftovers(folder, target.name)
        yield


@contextmanager
def made_folder(folder: Path, mode: int = 0o777) -> Iterator[None]:
    """Make a folder where it is missing; at the end remove what was made and is still empty.

    `mode` is that of a folder that is made, less the umask; its parents have the usual one.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _write(holder: Path, content: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(holder, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(content)


def _read(holder: Path) -> str:
    """The number of a process in the file `holder`; nothing where it has no number."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(holder, flags), "rb") as file:
            content = file.read(_LONGEST).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return content if content.isascii() and content.isdecimal() else ""
