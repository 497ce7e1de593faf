"""Checks of files that users name for reading."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["check_regular"]

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path, what: str) -> None:
    """Raise `InvalidValueError` for a pipe, socket or device, which might never end.

    `what` is what the file should contain, such as "the text".  Folders and missing files are left
    to the caller.

    >>> check_regular(Path("/dev/null"), "the text")
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: the text /dev/null is a device: give a regular file
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # missing, or with a NUL in its name
        return
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None:
        raise InvalidValueError(f"{what} {path} is {kind}: give a regular file")
