"""The process of a command: ``kullback`` and ``python -m kullback``.

Signals are answered from here on, before anything else is imported.
"""

from __future__ import annotations

import os
import sys

from kullback.runtime.interruption import answered_signals

__all__ = ["run"]

INTERRUPTED_ABOVE = 128  # exit codes of processes that a signal ended


def run() -> None:
    """Run the process's own command and end the process with its exit code."""
    with answered_signals(_say):
        from kullback.cli import main

        code = main()
        if code > INTERRUPTED_ABOVE:
            # Threads may still compute a window, for which Python would wait.
            sys.stdout.flush()
            os._exit(code)
    raise SystemExit(code)


def _say(sentence: str) -> None:
    # The thread that says it must not import, or wait for a lock of a stream.
    os.write(2, f"kullback: {sentence}\n".encode())


if __name__ == "__main__":
    run()
