"""The state that a run begins with, and its threads; FSDP is imported only for a sharded run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from kullback.runtime.memory import kept_freed_memory, returned_freed_memory
from kullback.runtime.threads import workers
from kullback.runtime.workers import ProcessGroup
from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.state import TrainingState

__all__ = ["initial_state", "training_workers"]


def initial_state(
    gpt: GPTConfig, config: TrainingConfig, processes: ProcessGroup, device: torch.device
) -> TrainingState:
    """The state of a new run on a device, sharded where that is asked for and there are several."""
    if config.fsdp and processes.world_size > 1:
        from kullback.training.sharding import ShardedState

        return ShardedState.begin(gpt, config, device)
    return TrainingState.begin(gpt, config, device)


@contextmanager
def training_workers(state: TrainingState) -> Iterator[ThreadPoolExecutor]:
    """The threads of a run: each has a piece of a batch, or all have one piece of a sharded run.

    Blocks of memory that a step frees are kept for the next: clearing the pages of new ones took a
    quarter of the time of a small model.
    """
    threads = state.config.shards
    if state.config.fsdp:
        with returned_freed_memory(), workers(1, threads) as pool:
            yield pool
    else:
        with kept_freed_memory(), workers(threads) as pool:
            yield pool
