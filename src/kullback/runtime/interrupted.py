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
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kullback.errors import LostProcessError, RunError
from kullback.runtime.files import replaced

__all__ = [
    "STOPS",
    "forget",
    "interrupted_path",
    "is_anything_kept",
    "is_safe",
    "read_interrupted",
    "state_folder",
    "write_interrupted",
]

STOPS = (KeyboardInterrupt, RuntimeError, LostProcessError)
"""What ends work that can be resumed: a signal, an accelerator that fails, another process."""
DAYS = 30.0  # work that was interrupted before is removed
_DIGEST = hashlib.blake2b().digest_size


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


def write_interrupted(path: Path, pieces: Iterable[bytes | memoryview]) -> bool:
    """Keep the pieces, one after the other, with their checksum; False where that fails.

    What others left more than a month ago is removed.
    """
    if not is_safe(path.parent):
        return False
    _remove_old(path.parent)
    digest = hashlib.blake2b()
    try:
        with replaced(path) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
    except RunError:
        return False
    return True


def read_interrupted(path: Path) -> memoryview | None:
    """What `write_interrupted` kept, memory-mapped; None where nothing is there, or damaged."""
    try:
        if not path.is_file() or not is_safe(path.parent):
            return None
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    content, digest = content[:-_DIGEST], content[-_DIGEST:]
    if not content or hashlib.blake2b(content).digest() != digest:
        return None
    return content


def forget(path: Path) -> None:
    """Remove what was kept, once the work is done, and what a killed run left half written."""
    with suppress(OSError):
        for part in (path, *path.parent.glob(f".{path.name}.*.part")):
            part.unlink(missing_ok=True)


def _remove_old(folder: Path) -> None:
    limit = time.time() - DAYS * 86_400
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if path.lstat().st_mtime < limit:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()
