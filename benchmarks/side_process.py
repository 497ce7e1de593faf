"""One side of a benchmark in a process of its own, so that no side changes how another runs.

kullback lets its process keep freed memory (`kullback.runtime.memory`); a loop that it is
compared with must run as it would without kullback.  The work is prepared once and then done each
time that `measured` asks for it, so that the rounds of several sides can alternate.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

__all__ = ["SideProcess", "measured"]


class SideProcess:
    """`prepare(*arguments)`, called in a new process, gives the work of each name."""

    def __init__(
        self, prepare: Callable[..., dict[str, Callable[[], object]]], *arguments: object
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, prepare, arguments), daemon=True
        )
        self.process.start()
        theirs.close()
        self.names: list[str] = self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join()

    def measured(self, name: str) -> tuple[float, float]:
        """Wall and processor seconds of that work."""
        self.connection.send(name)
        seconds: tuple[float, float] = self.connection.recv()
        return seconds


def _serve(
    connection: Connection,
    prepare: Callable[..., dict[str, Callable[[], object]]],
    arguments: tuple[object, ...],
) -> None:
    work = prepare(*arguments)
    connection.send(list(work))
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(measured(work[name]))


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu
