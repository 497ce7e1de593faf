"""Threads that each compute on one core, or on a few.

Small tensors gain little from splitting every operation over the cores, and lose much where
another program holds one of them: each operation then waits for the slowest thread.  So work is
cut into large pieces, one thread takes a piece, and torch's own threads rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

__all__ = ["cores", "workers"]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(count: int, cores_each: int = 1) -> Iterator[ThreadPoolExecutor]:
    """`count` threads in which torch uses so many cores; restores torch's setting afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(cores_each)
    try:
        with ThreadPoolExecutor(
            count, initializer=lambda: torch.set_num_threads(cores_each)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
