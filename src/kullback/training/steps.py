"""A step of training, and a validation: what every process does with its pieces of a batch.

On a CPU a step is checked before the weights change.  An accelerator is not waited for: its loss
and the norm of its gradient are on the way to the host while the next step is given to it, and are
checked after that (`check_pending_step`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from kullback.runtime.threads import map_ahead
from kullback.training.batches import Shard
from kullback.training.loss import gradients, start_shard_sums
from kullback.training.metrics import Sums
from kullback.training.replicas import Replicas
from kullback.training.state import PendingStep, TrainingState
from kullback.training.summation import TreeSum, add_tensors

__all__ = ["check_pending_step", "train_step", "validate"]

# Validation shards that an accelerator is given before the sums of the first are waited for.
SHARDS_AHEAD = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def train_step(
    state: TrainingState, pieces: list[Shard], pool: ThreadPoolExecutor, replicas: Replicas
) -> None:
    """One batch, of which `pieces` are this process's: their gradients, then one update.

    The threads of the pool each process one piece at a time, so that no more activations are in
    memory; an accelerator is given one after another.  Its loss and the norm of its gradient are
    checked after the next step has been given to it, or by `check_pending_step`.
    """
    total = sum(replicas.gathered([len(piece.targets_M) for piece in pieces]))
    sums, summed = _gradient(state, pieces, total, pool, replicas)
    pending = PendingStep(state.step + 1, sums)
    if not state.model.arithmetic.accelerated:
        state.pending = pending
        check_pending_step(state, replicas)
        state.update(summed())
    else:
        check_norm = state.update(summed())
        check_pending_step(state, replicas)
        state.pending = replace(pending, check_norm=check_norm)
    state.step += 1
    state.tokens += total


def _gradient(
    state: TrainingState,
    pieces: list[Shard],
    tokens_of_batch: int,
    pool: ThreadPoolExecutor,
    replicas: Replicas,
) -> tuple[list[Callable[[], Sums]], Callable[[], list[Tensor]]]:
    """What waits for the sums of each piece, and what adds the gradient over all processes."""
    if (sharded := state.sharded) is not None:
        sums = sharded.backward(pieces, tokens_of_batch)
        return sums, lambda: sharded.gradient
    sums, gradient = [], TreeSum(add_tensors)
    for of_piece, of_sums in _in_turn(
        state, pool, lambda piece: gradients(state, piece, tokens_of_batch), pieces
    ):
        gradient.push(list(of_piece))
        sums.append(of_sums)
    return sums, lambda: replicas.summed(gradient.result())


def check_pending_step(state: TrainingState, replicas: Replicas) -> None:
    """Wait for the step that is not checked yet, if any: check it, and add its sums.

    Raises `DivergedError`.
    """
    pending, state.pending = state.pending, None
    if pending is None:
        return
    batch = sum(replicas.gathered([wait() for wait in pending.sums]), Sums())
    state.check_loss(batch.cross_entropy, pending.step)
    pending.check_norm()
    state.recent += batch


def _in_turn(
    state: TrainingState,
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
) -> Iterator[Result]:
    """The function of each item: by the threads of the pool, on an accelerator by this one."""
    if state.model.arithmetic.accelerated:
        return map(function, items)
    # Pieces of a sharded run, which one process may resume, are not divided among threads.
    return map_ahead(pool, function, items, 1 if state.config.fsdp else state.config.shards)


def validate(
    state: TrainingState, shards: Sequence[Shard], pool: ThreadPoolExecutor, replicas: Replicas
) -> Sums:
    """The sums of all shards, which the processes share."""
    share = replicas.share(len(shards))
    begun: Iterator[Callable[[], Sums]]
    if (sharded := state.sharded) is not None:
        begun = sharded.start_sums(shards, share, replicas.processes.world_size)
    else:
        own = shards[share]
        begun = _in_turn(state, pool, lambda shard: start_shard_sums(state.model, shard), own)
    waiting: deque[Callable[[], Sums]] = deque()
    own_sums = []
    for wait in begun:
        waiting.append(wait)
        if len(waiting) > SHARDS_AHEAD:
            own_sums.append(waiting.popleft()())
    own_sums.extend(wait() for wait in waiting)
    sums = sum(replicas.gathered(own_sums), Sums())
    state.check_loss(sums.cross_entropy)
    return sums
