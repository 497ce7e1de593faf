"""Temporary files without a name: what is too long for memory, for as long as a process lives."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kullback.errors import RunError

__all__ = ["SharedFile", "TemporaryBytes", "shares_files", "temporary_folder"]


class SharedFile(NamedTuple):
    """A file without a name, as another process of this machine opens it."""

    path: str
    device: int
    inode: int


def shares_files() -> bool:
    """Whether processes can open one another's files by descriptor: on Linux."""
    return Path("/proc/self/fd").is_dir()


def temporary_folder() -> Path:
    """TMPDIR where it is set, else /var/tmp, which is on a disk where /tmp may be in memory.

    Raises `RunError` where nothing can be written to any folder of temporary files.

    >>> temporary_folder().is_dir()
    True
    """
    if "TMPDIR" not in os.environ:
        disk = Path("/var/tmp")
        if disk.is_dir() and os.access(disk, os.W_OK | os.X_OK):
            return disk
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        raise RunError(
            "no folder for temporary files can be written to: set TMPDIR to one that can"
        ) from None


class TemporaryBytes:
    """Bytes that one thread appends to, and any reads from any place, also while that appends.

    They are in memory up to `limit`, and in a file without a name above it, which disappears with
    the process.  Raises `RunError` where the disk is full.

    >>> stored = TemporaryBytes(limit=4)
    >>> stored.append(b"abc"), stored.append(b"defg")
    (0, 3)
    >>> stored.read(2, 5), len(stored), stored.is_on_disk
    (b'cde', 7, True)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._memory = bytearray()
        self._size = 0
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        """Held where what is in memory is read, or grows."""

    @classmethod
    def opened(cls, file: SharedFile) -> TemporaryBytes:
        """What another process stores in a file, and no longer appends to; to be read.

        Raises `RunError` where it cannot be opened.
        """
        stored = cls(limit=0)
        try:
            stored._descriptor = os.open(file.path, os.O_RDONLY)
            status = os.fstat(stored._descriptor)
        except OSError as error:
            raise RunError(f"{file.path} cannot be opened ({error.strerror})") from None
        if (status.st_dev, status.st_ino) != (file.device, file.inode):
            raise RunError(f"{file.path} is another file")
        stored._size = status.st_size
        return stored

    def shared(self) -> SharedFile:
        """The file for `opened` in another process of this machine, as long as this one lives."""
        with self._lock:
            if self._descriptor is None:
                self._move()
        assert self._descriptor is not None
        status = os.fstat(self._descriptor)
        path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return SharedFile(path, status.st_dev, status.st_ino)

    def __len__(self) -> int:
        return self._size

    @property
    def is_on_disk(self) -> bool:
        """Whether the limit was passed."""
        return self._descriptor is not None

    def append(self, content: bytes | memoryview) -> int:
        """Add `content`, and return where it begins."""
        begin = self._size
        with self._lock:
            if self._descriptor is None and begin + len(content) > self._limit:
                self._move()
            if self._descriptor is None:
                self._memory += content
        if self._descriptor is not None:
            _write(self._descriptor, content, begin)
        self._size += len(content)
        return begin

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` to before `end`, or to the last one."""
        end = min(end, self._size)
        with self._lock:
            if self._descriptor is None:
                return bytes(memoryview(self._memory)[begin:end])
        parts = []
        while begin < end:
            part = os.pread(self._descriptor, end - begin, begin)
            if not part:
                raise RunError("a temporary file was cut short: run the command again")
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def mapped(self) -> bytes | mmap.mmap:
        """All bytes, memory-mapped where they are in a file; valid as long as it is referred to."""
        if self._descriptor is None:
            return bytes(self._memory)
        return mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_READ)

    def _move(self) -> None:
        """Move to a file; where that cannot be written, what is in memory stays there."""
        folder = temporary_folder()
        try:
            descriptor, name = tempfile.mkstemp(prefix="kullback-", dir=folder)
            os.unlink(name)
        except OSError as error:
            raise _full(folder, error) from None
        try:
            _write(descriptor, self._memory, 0)
        except RunError:
            os.close(descriptor)
            raise
        self._descriptor, self._memory = descriptor, bytearray()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            with suppress(OSError):
                os.close(self._descriptor)  # type: ignore[arg-type]


def _write(descriptor: int, content: bytes | bytearray | memoryview, begin: int) -> None:
    rest = memoryview(content)
    try:
        while rest:
            count = os.pwrite(descriptor, rest, begin)
            rest, begin = rest[count:], begin + count
    except OSError as error:
        raise _full(temporary_folder(), error) from None


def _full(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"temporary data cannot be written to {folder} ({error.strerror}): set TMPDIR to a folder "
        "with more space"
    )
