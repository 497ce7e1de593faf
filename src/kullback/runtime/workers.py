"""Who shares the work of a pass over windows: the threads of this process, and other processes.

Under ``torchrun --nproc-per-node N -m kullback ...`` the N processes split the windows; the first
one collects what the others found, in text order, and does everything else.  A window is worked on
with the same arithmetic on as many cores wherever that is, so the numbers do not depend on N.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from kullback.runtime.threads import cores, workers

__all__ = ["ProcessGroup", "process_group"]

# Windows that each thread of each process does between two collections.
WINDOWS_A_THREAD = 8

Window = TypeVar("Window")
Result = TypeVar("Result")
Shared = TypeVar("Shared")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that work together; `rank` 0 leads."""

    rank: int = 0
    size: int = 1
    on_this_machine: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process collects, writes and prints."""
        return self.rank == 0

    def share(self, value: Shared) -> Shared:
        """The leader's value, for everyone."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def map(
        self,
        measure: Callable[[Window], Result],
        windows: Sequence[Window],
        at_once: int | None = None,
    ) -> Iterator[Result]:
        """`measure` of each window, in order, for the leader; for the others nothing, but work.

        This machine works on at most `at_once` of them at a time, by default one a core, and they
        share its cores evenly.
        """
        at_once = max(1, min(at_once or cores(), cores()))
        threads = math.ceil(at_once / self.on_this_machine)
        with workers(threads, cores_each=cores() // at_once) as pool:
            if self.size == 1:
                yield from pool.map(measure, windows)
                return
            together = WINDOWS_A_THREAD * threads * self.size
            for start in range(0, len(windows), together):
                part = windows[start : start + together]
                own = list(pool.map(measure, part[self.rank :: self.size]))
                gathered: list[list[Result]] | None = [[] for _ in range(self.size)]
                dist.gather_object(own, gathered if self.is_rank_zero else None, dst=0)
                if self.is_rank_zero and gathered is not None:
                    for i in range(len(part)):
                        yield gathered[i % self.size][i // self.size]


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The team that torchrun's environment describes; a team of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    dist.init_process_group("gloo")
    try:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        yield ProcessGroup(dist.get_rank(), size, here)
    finally:
        dist.destroy_process_group()
