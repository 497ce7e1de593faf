"""Locks of files and folders between processes.

The operating system releases a lock when the process ends, however it ends.  A second file, with
``.pid`` after the lock's name, contains the process that holds it, because a locked file cannot be
read on every system.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kullback.errors import RunError

__all__ = ["locked"]


@contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold the lock file `path`, without waiting for it.

    Raises `RunError` with the message ``refusal(process)`` where another process, or another user
    in this one, holds it; `process` is its number or "unknown".  Raises `OSError` where the files
    cannot be written.
    """
    holder = path.with_name(f"{path.name}.pid")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(refusal(_read(holder) or "unknown")) from None
    try:
        holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
