"""Answers to the signals that ask a process to stop: Ctrl-C, SIGTERM and SIGHUP.

The first one raises `Interruption` in the main thread, so that what was computed is written on the
way out.  Where the main thread is within an import, or a call that Python cannot interrupt, such as
the training of a tokenizer, a second thread ends the process.  A second signal ends it at once.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "Interruption", "acknowledge", "answered_signals", "exit_code"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds after which a main thread that has not taken notice of a signal is not waited for.
PATIENCE = 0.5
AGAIN = "interrupted again: ended at once; what was written before is kept"
UNNOTICED = "interrupted: nothing more was written; run the same command again"

_noticed = threading.Event()
_numbers: list[int] = []


class Interruption(KeyboardInterrupt):
    """A signal asked the process to stop."""


def acknowledge(number: int) -> None:
    """A handler in the main thread has taken notice of signal `number`, and will stop the work."""
    _numbers.append(number)
    _noticed.set()


def exit_code() -> int:
    """128 + the last signal, as shells have it; that of Ctrl-C where there was none."""
    return 128 + (_numbers[-1] if _numbers else signal.SIGINT)


@contextmanager
def answered_signals(say: Callable[[str], None]) -> Iterator[None]:
    """Handle `SIGNALS` while active; `say` is told where the process ends without its main thread.

    Signals that are ignored (under nohup, or in the background) stay ignored.  Only for the main
    thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _noticed.clear()
    _numbers.clear()
    previous: dict[signal.Signals, Any] = {}
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, _interrupt)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reader, say), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(writer)  # ends the thread
        thread.join()
        os.close(reader)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A module that is left half-imported fails later, in ways that hide the interruption.
    if not _is_importing(frame):
        acknowledge(number)
        raise Interruption


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(reader: int, say: Callable[[str], None]) -> None:
    """Read the numbers of signals as they arrive; end the process if its main thread does not."""
    first = True
    while received := os.read(reader, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        if not first:
            say(AGAIN)
            os._exit(128 + number)
        first = False
        select.select([reader], [], [], PATIENCE)  # until the next signal, or in vain
        if not _noticed.is_set():
            say(UNNOTICED)
            os._exit(128 + number)
