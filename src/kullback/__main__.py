"""The process of a command: ``kullback`` and ``python -m kullback``.

Signals are answered from here on, before anything else is imported.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress

from kullback.runtime.interruption import answered_signals
from kullback.runtime.ranks import is_rank_zero, others_said

__all__ = ["run"]

INTERRUPTED_ABOVE = 128  # exit codes of processes that a signal ended


def run() -> None:
    """Run the process's own command and end the process with its exit code."""
    with answered_signals(_say):
        from kullback.cli import main

        code = main(interrupted=_end)
        if code > INTERRUPTED_ABOVE:
            _end(code)
    # A thread of torch or gloo that wants Python's lock while the interpreter ends would abort the
    # process: that of a failed command that still hashes weights, or of an exchange that is done.
    if threading.active_count() > 1 or os.environ.get("WORLD_SIZE", "1") != "1":
        atexit._run_exitfuncs()
        _end(code)
    raise SystemExit(code)


def _end(code: int) -> None:
    """End the process at once: files are closed, and all else is the system's to free.

    Threads may still compute a window, for which Python would wait; texts and models take a second
    where they are freed object by object.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # standard output may be a full disk
            stream.flush()
    os._exit(code)


def _say(sentence: str) -> None:
    # The thread that says it must not import, or wait for a lock of a stream.
    if is_rank_zero() and not others_said():
        os.write(2, f"kullback: {sentence}\n".encode())


if __name__ == "__main__":
    run()
