"""Turns of threads that compute with memory that may be too small for all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Turn", "Turns"]


@dataclass(eq=False)
class Turn:
    """A computation of one thread."""

    most: int = 0
    """The most that ran at the same time since it began, itself included."""


class Turns:
    """Computations of several threads: as many at a time as are allowed, or one alone.

    >>> turns = Turns()
    >>> with turns.shared() as turn:
    ...     turn.most
    1
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[Turn] = set()
        self._alone = 0
        self._limit: int | None = None

    @contextmanager
    def shared(self) -> Iterator[Turn]:
        """Compute beside others."""
        with self._changed:
            self._changed.wait_for(self._may_start)
            turn = self._begin()
        try:
            yield turn
        finally:
            self._end(turn)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute when no other does; those that come later wait until this has ended."""
        with self._changed:
            self._alone += 1  # until it has ended
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._running)
                turn = self._begin()
            try:
                yield
            finally:
                self._end(turn)
        finally:
            with self._changed:
                self._alone -= 1
                self._changed.notify_all()

    def lower(self, limit: int) -> None:
        """At most so many at a time from now on."""
        with self._changed:
            self._limit = limit if self._limit is None else min(self._limit, limit)

    def _may_start(self) -> bool:
        return not self._alone and (self._limit is None or len(self._running) < self._limit)

    def _begin(self) -> Turn:
        turn = Turn()
        self._running.add(turn)
        for other in self._running:
            other.most = max(other.most, len(self._running))
        return turn

    def _end(self, turn: Turn) -> None:
        with self._changed:
            self._running.remove(turn)
            self._changed.notify_all()
