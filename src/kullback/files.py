"""Files that are whole or not there: how results reach the disk."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kullback.errors import RunError

__all__ = ["remove_leftovers", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all; `RunError` says why not.

    The bytes go to a file beside it, are flushed to the disk, and take the name in one step; what
    had the name before stays until then.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; what was there before is unharmed. "
            "Free some space or choose another folder, then run the command again"
        ) from error
    finally:  # after Ctrl-C too
        with suppress(OSError):
            beside.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed in the middle of `write_atomically` left in `folder`.

    Only for whoever has the folder alone: another process's file may still grow.
    """
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):
            leftover.unlink()
