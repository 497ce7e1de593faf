"""Pools of threads that each compute on a fixed number of cores.

Operations on small tensors are hardly faster when each is split over the cores, and much slower
while another program uses one of these: each operation then waits for the slowest thread.  So work
is divided into large pieces, one thread computes a piece, and torch's own threads are not used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

__all__ = ["cores", "workers"]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(count: int, cores_each: int = 1) -> Iterator[ThreadPoolExecutor]:
    """`count` threads in which torch uses `cores_each` cores; restores torch's setting after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(cores_each)
    try:
        with ThreadPoolExecutor(
            count, initializer=lambda: torch.set_num_threads(cores_each)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
