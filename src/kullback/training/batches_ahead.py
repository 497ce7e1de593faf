"""Batches that a thread prepares while the one before is computed with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from kullback.training.batches import Shard

__all__ = ["batches_ahead"]


@contextmanager
def batches_ahead(
    make: Callable[[int], list[Shard]], first: int, end: int, device: torch.device
) -> Iterator[Callable[[], list[Shard]]]:
    """What returns the batches of the steps from `first` until before `end`, one at a call.

    One batch is made, and copied to the device, before it is asked for; what `make` raises is
    raised when its batch is asked for.  Inside the scope alone is a batch made; where the caller is
    interrupted, the one that is being made is not waited for.
    """

    def prepared(step: int) -> list[Shard]:
        return [shard.on(device) for shard in make(step)]

    def begin() -> None:
        if device.type == "cuda":  # or pinned memory would be made by the first GPU
            torch.cuda.set_device(device)

    def submit() -> None:
        step = next(steps, None)
        if step is not None:
            waiting.append(pool.submit(prepared, step))

    def following() -> list[Shard]:
        batch = waiting.popleft().result()
        submit()
        return batch

    steps = iter(range(first, end))
    waiting: deque[Future[list[Shard]]] = deque()
    pool = ThreadPoolExecutor(1, "kullback-batches", begin)
    wait = True
    try:
        submit()
        yield following
    except (KeyboardInterrupt, GeneratorExit):
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)
