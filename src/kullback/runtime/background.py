"""Values that a thread computes beside the rest of the program."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

__all__ = ["in_background"]

Value = TypeVar("Value")


def in_background(compute: Callable[[], Value]) -> Callable[[], Value]:
    """Start `compute` in a thread; the result waits for it, and raises what it raised.

    The thread does not keep the process from ending.

    >>> in_background(lambda: 2 + 2)()
    4
    """
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(compute())
        # Whoever asks for the value is to know, whatever it is.
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="kullback-background", daemon=True).start()
    return future.result
