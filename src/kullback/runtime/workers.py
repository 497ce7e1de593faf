"""Sharing of the windows of a pass among the threads of this process and among processes.

Under ``torchrun --nproc-per-node N -m kullback ...`` the N processes share the windows; rank 0
collects their results in the order of the text, and does everything else.  Every window is computed
with the same arithmetic on the same number of cores, so the numbers do not depend on N.  Results
are arrays in host memory, which gloo carries; tensors on a GPU would go by nccl.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from kullback.errors import LostProcessError, RunError
from kullback.runtime.gloo import wait_for_gloo
from kullback.runtime.memory import kept_freed_memory
from kullback.runtime.ranks import process_count
from kullback.runtime.threads import cores, map_ahead, workers

__all__ = ["ProcessGroup", "local_processes", "lost_processes", "own_cores", "process_group"]

# Windows that each thread of each process computes before rank 0 collects the results, or ahead of
# what it has taken where it is alone.
WINDOWS_A_THREAD = 8
# How long a process waits for the others: one may tokenise a corpus for hours.
PATIENCE = timedelta(days=1)

Window = TypeVar("Window")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share a pass, as torch.distributed names them."""

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    """The number of processes on this machine."""
    local_rank: int = 0
    """The number of this process among them."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process collects, writes and prints; non-zero ranks only compute."""
        return self.rank == 0

    def broadcast(self, value: Value) -> Value:
        """The value that rank 0 has, in all processes."""
        if self.world_size == 1:
            return value
        values = [value]
        with lost_processes():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def decide(self, decision: Callable[[], Value]) -> Value:
        """What `decision` gives on rank 0, in all processes; it is called there only."""
        return self.broadcast(decision() if self.is_rank_zero else None)  # type: ignore[return-value] # rank 0's

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes by their ranks, in all processes."""
        if self.world_size == 1:
            return [value]
        values = [value] * self.world_size
        with lost_processes():
            dist.all_gather_object(values, value)
        return values

    def collect(self, value: Value) -> list[Value]:
        """The values of all processes by their ranks, on rank 0; none on others."""
        values: list[Value] = [value] * self.world_size if self.is_rank_zero else []
        with lost_processes():
            dist.gather_object(value, values if self.is_rank_zero else None, dst=0)
        return values

    def broadcast_tensor(self, tensor: torch.Tensor) -> None:
        """Copy the contiguous tensor that rank 0 has into that of each process."""
        with lost_processes():
            dist.broadcast(tensor, src=0)

    def map(
        self,
        measure: Callable[[Window], Result],
        windows: Sequence[Window],
        at_once: int | None = None,
        one_each: bool = False,
    ) -> Iterator[Result]:
        """`measure` of each window, in order, on rank 0; non-zero ranks compute and yield nothing.

        This machine computes at most `at_once` windows at a time, by default one per core; they
        share its cores evenly.  With `one_each` each process computes one at a time, on its part of
        the cores: for what runs on an accelerator or in threads of its own.  Other machines use as
        many cores for a window as that of rank 0, and as many threads as their own cores allow.
        Freed memory is kept until the last window is done.
        """
        wanted = self.local_world_size if one_each else at_once or cores()
        at_once = max(1, min(wanted, cores()))
        threads = math.ceil(at_once / self.local_world_size)
        cores_each, per_round = self.broadcast(
            (cores() // at_once, WINDOWS_A_THREAD * threads * self.world_size)
        )
        if not self.is_rank_zero:
            here = max(1, cores() // cores_each)
            threads = math.ceil(min(at_once, here) / self.local_world_size)
        with kept_freed_memory(), workers(threads, cores_each) as pool:
            if self.world_size == 1:
                yield from map_ahead(pool, measure, windows, WINDOWS_A_THREAD * threads)
                return
            for start in range(0, len(windows), per_round):
                part = windows[start : start + per_round]
                own = list(pool.map(measure, part[self.rank :: self.world_size]))
                collected = self.collect(own)
                if self.is_rank_zero:
                    assert sum(map(len, collected)) == len(part), "all have the same windows"
                    for i in range(len(part)):
                        yield collected[i % self.world_size][i // self.world_size]


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The processes that torchrun's environment describes; without it, this one alone.

    Raises `RunError` where they cannot be reached, or the environment is not torchrun's.
    """
    world_size = process_count("WORLD_SIZE", 1)
    if world_size == 1:
        yield ProcessGroup()
        return
    backend = "cpu:gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend += ",cuda:nccl"
    _join(backend, world_size)
    try:
        local_rank, local_world_size = local_processes()
        yield ProcessGroup(dist.get_rank(), world_size, local_world_size, local_rank)
    finally:
        dist.destroy_process_group()
        wait_for_gloo()


def _join(backend: str, world_size: int) -> None:
    """Meet the other processes; `RunError` where that fails."""
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    # torch raises a ValueError for what is missing in the environment, and errors of its stores.
    except (ValueError, RuntimeError) as error:
        first = str(error).partition("\n")[0].rstrip(". ")
        raise RunError(
            f"the environment variable WORLD_SIZE is {world_size}, and this process cannot join "
            f"the others ({first}): start it with torchrun, or unset WORLD_SIZE"
        ) from error


def local_processes() -> tuple[int, int]:
    """This process's number among those of torchrun on this machine, and how many they are.

    (0, 1) without torchrun.  Raises `InvalidValueError` for what torchrun never sets.
    """
    world_size = process_count("WORLD_SIZE", 1)
    if world_size == 1:
        return 0, 1
    return process_count("LOCAL_RANK", 0, least=0), process_count("LOCAL_WORLD_SIZE", world_size)


def own_cores() -> int:
    """This process's part of the cores where torchrun starts several here, at least one."""
    return max(1, cores() // local_processes()[1])


@contextmanager
def lost_processes() -> Iterator[None]:
    """Say in a sentence that another process has ended, for which torch raises its own errors."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_exchange(error):
            raise
        first = str(error).partition("\n")[0]
        raise LostProcessError(
            f"another process of torchrun has ended, or cannot be reached ({first}): see what it "
            "said, then run the command again, or resume a training (--resume)"
        ) from error


def _is_of_exchange(error: RuntimeError) -> bool:
    """Whether an error is of the processes' exchange, for which gloo has no class of its own."""
    words = ("gloo", "nccl", "connection", "timed out", "process group", "peer")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
