"""Turns of threads that compute with memory that may be too small for all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turns"]


class Turns:
    """Computations of several threads: as many at a time as are allowed, or one alone.

    >>> turns = Turns()
    >>> with turns.shared() as running:
    ...     running
    1
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._waiting_alone = 0
        self._most: int | None = None

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Compute beside others; yields how many then do."""
        with self._changed:
            self._changed.wait_for(self._may_start)
            self._running += 1
            running = self._running
        try:
            yield running
        finally:
            self._end()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute when no other does; those that come later wait until this has ended."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: self._running == 0)
            self._running += 1
            self._waiting_alone -= 1
        try:
            yield
        finally:
            self._end()

    def lower(self, most: int) -> None:
        """At most so many at a time from now on."""
        with self._changed:
            self._most = most if self._most is None else min(self._most, most)

    def _may_start(self) -> bool:
        return not self._waiting_alone and (self._most is None or self._running < self._most)

    def _end(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
