"""Opening of files that users name for reading: regular files only, without waiting.

Opening a named pipe waits for a writer, reading a device may never end, and neither can be read
twice.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from kullback.errors import InvalidValueError

__all__ = ["check_regular", "open_regular", "read_bytes", "read_text"]

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path, what: str) -> None:
    """Raise `InvalidValueError` for a pipe, socket or device, which might never end.

    Also for a name that the system refuses: one that is too long, or with a NUL.  `what` is what
    the file should contain, such as "the text".  Folders and missing files are left to the caller.

    >>> check_regular(Path("/dev/null"), "the text")
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: the text /dev/null is a device: give a regular file
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL
        raise InvalidValueError(
            f"{what} {path} cannot be opened: {error}; check its name"
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidValueError(
                f"{what} {path} cannot be opened: {error.strerror}; check its name"
            ) from None
        return  # missing, or not to be seen
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None:
        raise InvalidValueError(f"{what} {path} is {kind}: give a regular file")


def open_regular(path: Path, follow: bool = True) -> BinaryIO:
    """The file, open for reading bytes; a link is followed only with `follow`.

    Raises `OSError` where it cannot be opened or is no regular file, so that a reader needs no
    sentence of its own for what only looks like its file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError:
        _check(os.stat(path), path)  # a socket cannot be opened
        raise
    except ValueError:
        raise OSError(errno.EINVAL, "a file name cannot contain NUL", str(path)) from None
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The content of a regular file in UTF-8, line ends as they are; `OSError`, or `ValueError`."""
    return read_bytes(path).decode("utf-8")


def _check(status: os.stat_result, path: Path) -> None:
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"it is {kind}, not a regular file", str(path))
