"""Interruption of a training run by a signal.

SIGINT (Ctrl-C), SIGTERM and SIGHUP are requests: the loop finishes its step, writes a checkpoint
and raises `Interrupted`.  A second signal interrupts immediately with `KeyboardInterrupt`, or ends
the process of a command; the last checkpoint stays valid.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from kullback.runtime.interruption import SIGNALS, Interruption, acknowledge

__all__ = ["Interrupted", "resume_command", "stop_on_signal"]


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training stopped at the user's request; the checkpoint of `step` is on disk.

    Where `trained` is true, the model is on disk as well, and only measuring it is left.  Where the
    step is None, it is that of the last checkpoint.
    """

    def __init__(self, run: Path, step: int | None, trained: bool = False) -> None:
        said = f"stopped at step {step}; resume with"
        if trained:
            after = "" if step is None else f", {step}"
            said = f"stopped after the last step{after}; {run} is trained, and is measured with"
        elif step is None:
            said = f"interrupted; {run} is resumed from its last checkpoint with"
        super().__init__(f"{said}: {resume_command(run)}")
        self.run, self.step, self.trained = run, step, trained


def resume_command(run: Path) -> str:
    """The shell command that resumes `run`."""
    return f"kullback train --resume {shlex.quote(str(run))}"


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Handle SIGINT, SIGTERM and SIGHUP while active; the function says whether one has arrived.

    The previous handlers are restored on exit.  Outside the main thread, which alone may set
    handlers, nothing is changed.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        acknowledge(number)
        if received:
            raise Interruption
        received.append(number)

    previous: dict[signal.Signals, Any] = {}
    try:
        with suppress(ValueError):  # not in the main thread
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    previous[number] = signal.signal(number, handle)
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
