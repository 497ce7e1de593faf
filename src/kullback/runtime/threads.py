"""Pools of threads that each compute on a fixed number of cores.

Operations on small tensors are hardly faster when each is split over the cores, and much slower
while another program uses one of these: each operation then waits for the slowest thread.  So work
is divided into large pieces, one thread computes a piece, and torch's own threads are not used.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["cores", "map_ahead", "part_workers", "workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(count: int, cores_each: int = 1) -> Iterator[ThreadPoolExecutor]:
    """`count` threads in which torch uses `cores_each` cores; restores torch's setting after.

    Where the caller is interrupted, what the threads are at is not waited for.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(cores_each)
    pool = ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(cores_each))
    wait = True
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)
        torch.set_num_threads(threads)


@contextmanager
def part_workers(
    count: int,
) -> Iterator[Callable[[Callable[[Item], None], Sequence[Item]], None]]:
    """What calls a function for each part of a piece of work and returns when all are done.

    In `count` threads, without gradients; in the caller's thread where it is 1.
    """
    if count <= 1:

        def for_all(function: Callable[[Item], None], parts: Sequence[Item]) -> None:
            for part in parts:
                function(part)

        yield for_all
        return
    with workers(count) as pool:

        def for_all_at_once(function: Callable[[Item], None], parts: Sequence[Item]) -> None:
            # A setting of the thread, not of the process.
            for _ in pool.map(torch.inference_mode()(function), parts):
                pass

        yield for_all_at_once


def map_ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """`function` of each item, in order; at most `ahead` are computed before they are wanted.

    Memory does not grow with the number of items.  What has not begun when the caller stops, or an
    item fails, is cancelled.

    >>> with workers(2) as pool:
    ...     list(map_ahead(pool, abs, [-1, 2, -3], 2))
    [1, 2, 3]
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
