"""The seconds that the rungs of a ladder took, added up over calls that were interrupted."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kullback.errors import RunError
from kullback.runtime.files import write_atomically

__all__ = ["SECONDS_FILE", "added_seconds", "training_seconds"]

SECONDS_FILE = "seconds.json"


def training_seconds(folder: Path) -> float:
    """Those of all calls before in this folder; 0 where they are not known."""
    try:
        seconds = float(json.loads((folder / SECONDS_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


@contextmanager
def added_seconds(folder: Path) -> Iterator[None]:
    """Add what is done inside, where it is interrupted, too."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds = training_seconds(folder) + time.perf_counter() - begin
        with suppress(RunError):  # a full disk, of which something else says so
            write_atomically(folder / SECONDS_FILE, json.dumps(round(seconds, 3)).encode())
