"""Processes that share a pass, as threads of this one that exchange values in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kullback.errors import RunError
from kullback.runtime.workers import ProcessGroup

Value = TypeVar("Value")
_RANK = threading.local()
SECONDS = 60.0


def rank() -> int:
    """The rank of the calling thread; 0 where it is none of a group's."""
    return getattr(_RANK, "number", 0)


class ThreadGroup(ProcessGroup):
    """One of the threads of `in_ranks`."""

    def broadcast(self, value: Value) -> Value:
        """The value that rank 0 has."""
        return self.gather(value)[0]

    def collect(self, value: Value) -> list[Value]:
        """All values, on rank 0."""
        values = self.gather(value)
        return values if self.is_rank_zero else []

    def gather(self, value: Value) -> list[Value]:
        """All values."""
        return _RANK.exchange.gather(self.rank, value)


class _Exchange:
    """The values that both ranks have given so far."""

    def __init__(self) -> None:
        self._given: tuple[list[Any], list[Any]] = ([], [])
        self._failed = False
        self._changed = threading.Condition()

    def gather(self, rank: int, value: Value) -> list[Value]:
        """The values of both, when the other has given as many."""
        with self._changed:
            self._given[rank].append(value)
            self._changed.notify_all()
            turn = len(self._given[rank])
            other = self._given[1 - rank]
            self._changed.wait_for(lambda: len(other) >= turn or self._failed, SECONDS)
            if len(other) < turn:
                raise RunError("another process has ended")
            return [values[turn - 1] for values in self._given]

    def fail(self) -> None:
        """The other need not wait."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()


def in_ranks(work: Callable[[ProcessGroup], Value], local: int = 1) -> list[Value | Exception]:
    """What `work` returns or raises in each of two ranks; `local` of them are on a machine."""
    exchange = _Exchange()

    def run(number: int) -> Value | Exception:
        _RANK.number, _RANK.exchange = number, exchange
        try:
            return work(ThreadGroup(number, 2, local, number % local))
        except Exception as error:
            exchange.fail()
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))
