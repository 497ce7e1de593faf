"""Pools of threads that each compute on a fixed number of cores.

Operations on small tensors are hardly faster when each is split over the cores, and much slower
while another program uses one of these: each operation then waits for the slowest thread.  So work
is divided into large pieces, one thread computes a piece, and torch's own threads are not used.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

__all__ = ["begin_mkl", "cores", "map_ahead", "part_workers", "workers"]

# Functions of torch that are MKL's where torch has it.
MKL_FUNCTIONS = (
    "acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "expm1", "log", "log10",
    "log1p", "log2", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def begin_mkl() -> None:
    """Call MKL's functions of vectors, and its product, for the first time in this thread.

    Each chooses its code at its first call in a process.  Where two threads make that call at the
    same time, one of them may get other last bits: of 5,850 processes whose two threads began with
    the cosine of 192 numbers, one did, and of 2,300 that began with a step of training, three.
    """
    for dtype in (torch.float32, torch.float64):
        values = torch.linspace(0.1, 0.9, 256, dtype=dtype, device="cpu")
        for name in MKL_FUNCTIONS:
            getattr(torch, name)(values)
        torch.pow(values, values)
        matrix = values.view(16, 16)
        torch.mm(matrix, matrix)


@contextmanager
def workers(count: int, cores_each: int = 1) -> Iterator[ThreadPoolExecutor]:
    """`count` threads in which torch uses `cores_each` cores; restores torch's setting after.

    Where the caller is interrupted, what the threads are at is not waited for.
    """
    begin_mkl()
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
) -> Generator[Result, None, None]:
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
