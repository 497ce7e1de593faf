"""The lock of a run folder: one process at a time may write into it.

The lock is on the file ``.lock``; the operating system releases it when the process ends, however
it ends.  ``.lock.pid`` names the process that holds it, and is a separate file because a locked
file cannot be read on every system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kullback.errors import RunError
from kullback.runtime.files import remove_leftovers

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder, which is created where missing, for this process.

    Raises `RunError` naming the process that has locked it already, or saying why it cannot be
    used as a run folder.
    """
    holder = folder / ".lock.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(
            f"{folder} is in use by process {_read(holder) or 'unknown'}; wait for it, stop it, or "
            "choose another folder with -o"
        ) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    try:
        try:
            holder.write_text(str(os.getpid()), encoding="utf-8")
        except OSError as error:
            raise _unusable(folder, error) from None
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _unusable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder} cannot be used as a run folder: {error.strerror}; free some space, or choose "
        "another folder with -o"
    )
