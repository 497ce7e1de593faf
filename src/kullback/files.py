"""Files that are whole or not there: how results reach the disk."""

from __future__ import annotations

import os
from pathlib import Path

from kullback.errors import RunError

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all; `RunError` says why not."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(
            f"{path} cannot be written: {error.strerror}; what was there before is unharmed. "
            "Free some space or choose another folder, then run the command again"
        ) from error
