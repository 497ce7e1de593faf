"""What interrupted work has computed: kept in the user's state folder until it is resumed.

``$XDG_STATE_HOME/kullback/interrupted``, by default in ``~/.local/state``; the names are the
fingerprints of the work, so that only the same work on the same data takes it over.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from kullback.errors import RunError
from kullback.runtime.files import write_atomically

__all__ = ["forget", "interrupted_path", "is_safe", "read_interrupted", "write_interrupted"]

DAYS = 30.0  # work that was interrupted before is removed
_DIGEST = hashlib.blake2b().digest_size


def interrupted_path(fingerprint: str) -> Path | None:
    """Where work of this fingerprint is kept; None where there is no absolute home."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the specification says to ignore a relative one
        state = Path(os.path.expanduser("~")) / ".local/state"
    return state / "kullback/interrupted" / fingerprint[:32] if state.is_absolute() else None


def is_safe(folder: Path) -> bool:
    """Whether only this user can write to the folder, which is made where there is none."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    return stat.S_ISDIR(about.st_mode) and is_own and not about.st_mode & 0o022


def write_interrupted(path: Path, content: bytes) -> bool:
    """Keep `content` with its checksum; False where it cannot be written.

    What others left more than a month ago is removed.
    """
    if not is_safe(path.parent):
        return False
    _remove_old(path.parent)
    try:
        write_atomically(path, hashlib.blake2b(content).digest() + content)
    except RunError:
        return False
    return True


def read_interrupted(path: Path) -> bytes | None:
    """What `write_interrupted` kept; None where there is nothing, or it is damaged."""
    try:
        if not path.is_file() or not is_safe(path.parent):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST], content[_DIGEST:]
    return content if content and hashlib.blake2b(content).digest() == digest else None


def forget(path: Path) -> None:
    """Remove what was kept, once the work is done."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


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
