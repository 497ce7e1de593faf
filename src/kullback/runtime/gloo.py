"""Threads of gloo that outlive their process group.

A thread of gloo says that an exchange is done and then drops its tensors.  For the last reference
but Python's it takes Python's lock, and where the interpreter has begun to end by then, Python ends
the thread, which C++ does not allow there: the process aborts ("terminate called without an active
exception", exit code 134) although all its work is done.  `destroy_process_group` joins these
threads, but not where a device mesh still refers to the group, as sharded training leaves one in
torch's caches.
"""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["wait_for_gloo"]

THREADS = Path("/proc/self/task")
NAME = "pt_gloo_runloop"
# Seconds between two looks, in which a thread that wants Python's lock gets it.
BETWEEN = 0.002
# Seconds after which threads that still compute are left alone.
PATIENCE = 10.0
# Seconds, where the system does not list the threads of a process.
UNSEEN = 0.05


def wait_for_gloo() -> None:
    """Wait until the threads of gloo that are left have nothing to do.

    That is where each sleeps, and has not run between two looks.  Returns at once where there are
    none.
    """
    if not THREADS.is_dir():
        time.sleep(UNSEEN)
        return
    end = time.monotonic() + PATIENCE
    before: dict[str, str] | None = None
    while (now := _threads()) and time.monotonic() < end:
        if now == before and all("\tS (sleeping)" in status for status in now.values()):
            return
        before = now
        time.sleep(BETWEEN)


def _threads() -> dict[str, str]:
    """State and number of context switches of each of gloo's threads."""
    threads = {}
    for folder in THREADS.iterdir():
        try:
            if (folder / "comm").read_text().strip() == NAME:
                lines = (folder / "status").read_text().splitlines()
                shown = [line for line in lines if line.startswith("State") or "switches" in line]
                threads[folder.name] = "\n".join(shown)
        except OSError:  # it has ended
            continue
    return threads
