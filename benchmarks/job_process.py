"""Jobs of a benchmark in a process of their own, so that they do not change how others run.

A process that loads a model with kullback keeps freed memory (`kullback.runtime.memory`); a loop
that is compared with kullback must run as it would without it.  A job is prepared once and then
done each time that `measured` asks for it, so that the rounds of several jobs can alternate.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

__all__ = ["JobProcess", "measured"]


class JobProcess:
    """A new process with the jobs, by name, that `prepare(*arguments)` returns there."""

    def __init__(
        self, prepare: Callable[..., dict[str, Callable[[], object]]], *arguments: object
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other_end, prepare, arguments), daemon=True
        )
        self.process.start()
        other_end.close()
        self.names: list[str] = self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join()

    def measured(self, name: str) -> tuple[float, float]:
        """Wall and CPU seconds of that job."""
        self.connection.send(name)
        seconds: tuple[float, float] = self.connection.recv()
        return seconds


def _serve(
    connection: Connection,
    prepare: Callable[..., dict[str, Callable[[], object]]],
    arguments: tuple[object, ...],
) -> None:
    jobs = prepare(*arguments)
    connection.send(list(jobs))
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(measured(jobs[name]))


def measured(job: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu
