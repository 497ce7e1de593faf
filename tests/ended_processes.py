"""Whether a process that was killed has ended."""

from __future__ import annotations

import time
from pathlib import Path


def assert_ends(pid: int, seconds: float = 20.0) -> None:
    """The process ends within `seconds`: a killed one runs until the kernel schedules its end."""
    state = Path(f"/proc/{pid}/stat")
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            text = state.read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if text.rpartition(")")[2].split()[0] in "ZX":  # ended, not yet waited for
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs after {seconds} s")
