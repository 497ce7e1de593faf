"""Fingerprints of files that were hashed before, by what the system says of the files.

Name, size, inode and times of change identify the content of a file, as they do for make and git: a
file that is written again gets another time, which no program sets (``st_ctime``).  A file that was
changed while it was read, or just before, is not remembered.

The folder is ``$XDG_STATE_HOME/kullback/fingerprints``, by default in ``~/.local/state``; a file in
it, named by the SHA-256 of the identity, contains 64 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kullback.errors import RunError
from kullback.runtime.files import write_atomically
from kullback.runtime.inputs import open_regular
from kullback.runtime.interrupted import is_safe, remove_old, state_folder

__all__ = ["files_key", "recall", "remember"]

SETTLED_SECONDS = 2.0
DAYS = 365.0  # what was remembered before is removed
DIGITS = 64


def files_key(files: Sequence[Path], about: Mapping[str, str], read_at: float) -> str | None:
    """What identifies the content of `files`, with whatever else a fingerprint depends on.

    `read_at` is when their reading began, by `time.time`.  None where there are no files, where the
    state of one cannot be read, and where one was changed later than `SETTLED_SECONDS` before
    `read_at`, since clocks have steps.
    """
    states: list[list[object]] = []
    for file in files:
        try:
            state = file.stat()
        except OSError:
            return None
        if read_at - max(state.st_mtime, state.st_ctime) < SETTLED_SECONDS:
            return None
        states.append(
            [str(file.absolute()), state.st_dev, state.st_ino, state.st_size,
             state.st_mtime_ns, state.st_ctime_ns]
        )  # fmt: skip
    if not states:
        return None
    return hashlib.sha256(json.dumps([states, dict(about)], sort_keys=True).encode()).hexdigest()


def recall(key: str) -> str | None:
    """The fingerprint that was remembered for `key`; None where there is none."""
    folder = state_folder("fingerprints")
    if folder is None or not folder.is_dir() or not is_safe(folder):
        return None
    try:
        with open_regular(folder / key) as file:
            content = file.read(DIGITS + 1)
    except (OSError, RunError, ValueError):
        return None
    return content.decode() if re.fullmatch(rb"[0-9a-f]{%d}" % DIGITS, content) else None


def remember(key: str, fingerprint: str) -> None:
    """Keep the fingerprint for `key`, where that is possible."""
    folder = state_folder("fingerprints")
    if folder is None or not is_safe(folder):
        return
    with suppress(RunError, OSError):
        remove_old(folder, DAYS)
        write_atomically(folder / key, fingerprint.encode())
