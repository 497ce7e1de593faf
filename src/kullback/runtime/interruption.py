"""Answers to the signals that ask a process to stop: Ctrl-C, SIGTERM and SIGHUP.

The first one raises `Interruption` in the main thread, so that what was computed is written on the
way out; where it is within an import, after that.  A second thread ends the process where the main
thread takes no notice, in a call that Python cannot interrupt, such as the training of a tokenizer:
soon, or where there is something `to_keep` after a while.  A second signal ends it at once.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "Interruption", "acknowledge", "answered_signals", "exit_code", "to_keep"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds after which a main thread that has not taken notice of a signal is not waited for.
PATIENCE = 0.5
# The same while there is something to keep: an import of a large library takes seconds.
PATIENCE_TO_KEEP = 10.0
# Seconds after which it is tried again to interrupt a main thread that was within an import.
AGAIN_AFTER = 0.05
AGAIN = "interrupted again: ended at once; what was written before is kept"
UNNOTICED = "interrupted: nothing more was written; run the same command again"

_noticed, _put_off = threading.Event(), threading.Event()
_keeping: list[None] = []
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
def to_keep() -> Iterator[None]:
    """What is computed inside is written where a signal ends it."""
    _keeping.append(None)
    try:
        yield
    finally:
        _keeping.pop()


@contextmanager
def answered_signals(say: Callable[[str], None]) -> Iterator[None]:
    """Handle `SIGNALS` while active; `say` is told where the process ends without its main thread.

    Signals that are ignored (under nohup, or in the background) stay ignored.  Only for the main
    thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _noticed.clear()
    _put_off.clear()
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
    if _is_importing(frame):
        _put_off.set()
        return
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
        if not _is_noticed(reader, number):
            say(UNNOTICED)
            os._exit(128 + number)


def _is_noticed(reader: int, number: int) -> bool:
    """Whether the main thread takes notice of a signal, before its time is over or the next one."""
    deadline = time.monotonic() + (PATIENCE_TO_KEEP if _keeping else PATIENCE)
    while not _noticed.is_set() and time.monotonic() < deadline:
        if select.select([reader], [], [], AGAIN_AFTER)[0]:
            break
        if _put_off.is_set() and not _noticed.is_set():
            _put_off.clear()
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            os.read(reader, 1)  # its number, which is of no signal from outside
    return _noticed.is_set()
