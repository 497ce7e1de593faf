"""What interrupted work has computed: kept in the user's state folder until it is resumed.

``$XDG_STATE_HOME/kullback/interrupted``, by default in ``~/.local/state``; the names are the
fingerprints of the work, so that only the same work on the same data takes it over.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kullback.errors import RunError
from kullback.runtime.files import write_all
from kullback.runtime.locks import locked

__all__ = [
    "BEGIN",
    "STOPS",
    "InterruptedFile",
    "Mark",
    "forget",
    "interrupted_path",
    "is_anything_kept",
    "is_safe",
    "remove_old",
    "state_folder",
]

STOPS = (KeyboardInterrupt, RuntimeError, RunError, MemoryError)
"""What ends work that can be resumed: a signal, an accelerator that fails, a full disk, too little
memory, another process.  An `InvalidValueError` does not: corrected, it is other work."""
DAYS = 30.0  # work that was interrupted before is removed
# Bytes of a checksum and of a length.
_DIGEST, _LENGTH = 16, 8


def state_folder(name: str) -> Path | None:
    """The folder of that name in kullback's state; None where there is no absolute home."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the specification says to ignore a relative one
        state = Path(os.path.expanduser("~")) / ".local/state"
    return state / "kullback" / name if state.is_absolute() else None


def interrupted_path(fingerprint: str) -> Path | None:
    """Where work of this fingerprint is kept; None where there is no absolute home."""
    folder = state_folder("interrupted")
    return None if folder is None else folder / fingerprint[:32]


def is_anything_kept() -> bool:
    """Whether some work is kept: else a fingerprint, which may take long, need not be known."""
    folder = state_folder("interrupted")
    with suppress(OSError):
        return folder is not None and any(folder.iterdir())
    return False


def is_safe(folder: Path) -> bool:
    """Whether only this user can write to the folder, which is made where there is none."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    return stat.S_ISDIR(about.st_mode) and is_own and not about.st_mode & 0o022


class Mark(NamedTuple):
    """A place in an `InterruptedFile`, and the checksum of all before it."""

    end: int
    digest: hashlib.blake2b


BEGIN = Mark(0, hashlib.blake2b(digest_size=_DIGEST))


class InterruptedFile:
    """Pieces of bytes, appended to a file as they are computed: a kill loses the last one at most.

    A piece has its length before it, and after it a checksum of all bytes so far; what a killed
    process has begun to write is passed over.  Only this user can read the file, and one process at
    a time uses it: others read nothing and keep nothing.  `close` it in the end; the pieces stay
    until `forget`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._open = ExitStack()

    def read(self) -> Iterator[tuple[memoryview, Mark]]:
        """The complete pieces, memory-mapped, and the end of each."""
        if not self.path.is_file() or not self._is_ours():
            return
        assert self._file is not None
        try:
            content = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # ValueError: it is empty
            return
        mark = BEGIN
        while mark.end + _LENGTH <= len(content):
            begin = mark.end + _LENGTH
            end = begin + int.from_bytes(content[mark.end : begin], "little")
            mark = _after(mark, content[begin:end])
            if content[end : end + _DIGEST] != mark.digest.digest():
                return
            yield content[begin:end], mark

    def append(self, pieces: Iterable[bytes | memoryview], after: Mark) -> Mark | None:
        """Write pieces to the disk in place of all `after` a mark; the end, None where that fails.

        Where it fails or is interrupted, what is before `after` stays.
        """
        if self._file is None:
            if not self._is_ours():
                return None
            remove_old(self.path.parent, DAYS)
        assert self._file is not None
        mark = after
        try:
            self._file.truncate(mark.end)
            self._file.seek(mark.end)
            for piece in pieces:
                mark = _after(mark, piece)
                length = len(piece).to_bytes(_LENGTH, "little")
                for part in (length, piece, mark.digest.digest()):
                    write_all(self._file, part)
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(after.end)
            return None
        return mark

    def close(self) -> None:
        """Let other processes use it."""
        self._file = None
        self._open.close()

    def _is_ours(self) -> bool:
        """Whether the file is open for this process alone."""
        if self._file is not None:
            return True
        if not is_safe(self.path.parent):
            return False
        with ExitStack() as opened:
            try:
                opened.enter_context(locked(_lock(self.path), str, remove=True))
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(self.path, flags, 0o600)
                file = opened.enter_context(os.fdopen(descriptor, "r+b", buffering=0))
            except (OSError, RunError):  # RunError: another process does the same work
                return False
            self._open, self._file = opened.pop_all(), file
        return True


def _after(mark: Mark, piece: bytes | memoryview) -> Mark:
    """The mark at the end of a piece that begins at another."""
    digest = mark.digest.copy()
    digest.update(len(piece).to_bytes(_LENGTH, "little"))
    digest.update(piece)
    return Mark(mark.end + _LENGTH + len(piece) + _DIGEST, digest)


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def forget(path: Path) -> None:
    """Remove what was kept, once the work is done, and the lock that a killed run left.

    What another process uses stays until that is done.
    """
    with suppress(OSError, RunError):  # RunError: another process does the same work
        if path.parent.is_dir():
            with locked(_lock(path), str, remove=True):
                path.unlink(missing_ok=True)


def remove_old(folder: Path, days: float) -> None:
    """Remove what is in the folder and was not changed for so many days, where that is allowed."""
    limit = time.time() - days * 86_400
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if path.lstat().st_mtime < limit:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()
