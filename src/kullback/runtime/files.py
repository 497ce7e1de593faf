"""Atomic writing of files and folders.

What is written goes to a temporary file ``.NAME.RANDOM.part`` in the folder of the target, is
flushed to the disk, and takes the target's name in one step; until then an earlier file of that
name stays.  The temporary file is always a new one: a link that somebody has put at its name is
never followed.  A target that is a symbolic link is written where the link leads, and the link
stays; an existing file keeps its mode, a new one gets that of the umask.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from kullback.errors import KullbackError, RunError

__all__ = [
    "TEMPORARY_BYTES",
    "Draft",
    "UnwritableError",
    "draft_folder",
    "draft_of",
    "explained",
    "publish",
    "remove_leftovers",
    "replaced",
    "write_all",
    "write_atomically",
]

#: How many bytes the name of a temporary file has more than that of its target.
TEMPORARY_BYTES = len("..12345678.part")
# What Rust's libraries (tokenizers, safetensors) say at the end of an error of the system.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


class UnwritableError(RunError):
    """A file cannot be written; `what` says which one and why, without what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}, then run the command again")
        self.what = what


class Draft:
    """A temporary file that `publish` gives the name of its target.

    `folder` is that of the target, in which further temporary files belong.
    """

    def __init__(self, path: Path) -> None:
        self._target = Path(os.path.realpath(path))
        self.folder = self._target.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = _regular_file(self._target)
        self._path = _temporary(self._target)
        self.file: IO[bytes] = os.fdopen(_create(self._path, earlier), "w+b")
        self._published = False

    def publish(self) -> None:
        """Flush the file to the disk and give it the target's name, in one step."""
        publish(self.file, self._path, self._target)
        self._published = True

    def close(self) -> None:
        """Close the file, and remove it where it was not published."""
        try:
            # What is still in the buffer of a file that is given up need not fit on the disk.
            with suppress(OSError):
                self.file.close()
        finally:
            if not self._published:
                with suppress(OSError):
                    self._path.unlink()


def publish(file: IO[bytes], path: Path, target: Path) -> None:
    """Flush an open file to the disk and rename it from `path` to `target`, in one step.

    It takes the mode of an earlier file there.  Raises `OSError` where that is no regular file, or
    the disk is full.
    """
    file.flush()
    earlier = _regular_file(target)
    if earlier is not None:
        _keep_mode(file.fileno(), earlier)
    os.fsync(file.fileno())
    _regular_file(target)
    os.replace(path, target)


@contextmanager
def draft_of(path: Path) -> Iterator[Draft]:
    """A draft of the file `path`, removed at the end unless it was published.

    Missing folders are made.  Raises `OSError` where it cannot be written, and where `path` is
    neither a regular file nor missing.
    """
    draft = Draft(path)
    try:
        yield draft
    finally:  # after Ctrl-C too
        draft.close()


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` where the block ends without an exception.

    Raises `RunError` where it cannot be written.
    """
    with explained(path), draft_of(path) as draft:
        yield draft.file
        draft.publish()


def write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write to a file without a buffer, which may take less than it is given."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` completely or not at all; `RunError` says why not."""
    with replaced(path) as file:
        file.write(content)


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` where the block ends without an exception.

    An existing `folder` must be empty: it stays, and the files are moved into it, in the reverse
    order of their names.  Raises `RunError` where it cannot be written.
    """
    target = Path(os.path.realpath(folder))
    with explained(folder, "nothing was left there"):
        exists = target.is_dir()
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = _temporary(target / target.name if exists else target)
        draft.mkdir()
        try:
            yield draft
            _flush_files(draft)
            if exists:
                for file in sorted(draft.iterdir(), reverse=True):
                    os.rename(file, target / file.name)
            else:
                os.rename(draft, target)
        finally:  # after Ctrl-C too
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def explained(path: Path, otherwise: str = "an existing file is unchanged") -> Iterator[None]:
    """Turn a failure to write `path` into a `RunError`; `otherwise` says what holds nevertheless.

    Libraries in Rust raise errors of their own for a full disk; they are known by their numbers.
    """
    try:
        yield
    except KullbackError:
        raise
    except OSError as error:
        raise _cannot_be_written(path, error.strerror or str(error), otherwise) from error
    except Exception as error:
        number = _RUST_ERROR.search(str(error))
        if number is None:
            raise
        raise _cannot_be_written(path, os.strerror(int(number[1])), otherwise) from error


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of killed processes in `folder`: all, or those of file `name`.

    Only for a caller that has locked the folder or the file: another process may still write.
    """
    of_name = "[^/]+" if name is None else re.escape(name)
    ours = re.compile(rf"\.{of_name}\.[0-9a-f]+\.part")
    with suppress(OSError):
        for leftover in sorted(folder.iterdir()):
            if not ours.fullmatch(leftover.name):
                continue
            with suppress(OSError):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _create(path: Path, earlier: os.stat_result | None) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # Not readable by others before it is known to be no more secret than the earlier file.
    return os.open(path, flags, 0o666 if earlier is None else 0o600)


def _keep_mode(descriptor: int, earlier: os.stat_result) -> None:
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (earlier.st_uid, earlier.st_gid):
        with suppress(OSError):  # only root may give a file away
            os.fchown(descriptor, earlier.st_uid, earlier.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(earlier.st_mode))


def _regular_file(target: Path) -> os.stat_result | None:
    """Its state, None where it is missing; `OSError` where it is anything but a regular file."""
    try:
        state = target.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode):
        raise OSError(f"{target} is not a regular file")
    return state


def _flush_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _cannot_be_written(path: Path, reason: str, otherwise: str) -> UnwritableError:
    is_of_name = reason in map(os.strerror, (errno.EEXIST, errno.ENOTDIR, errno.EISDIR))
    remedy = "Choose another place" if is_of_name else "Free some space or choose another place"
    return UnwritableError(f"{path} cannot be written: {reason}; {otherwise}", remedy)
