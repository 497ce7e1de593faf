"""How long a step takes: a short probe with a model that is thrown away."""

from __future__ import annotations

import statistics
import time

from kullback.errors import RunError
from kullback.runtime.threads import workers
from kullback.runtime.workers import ProcessGroup
from kullback.training.batches import Batches
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT, GPTConfig
from kullback.training.loop import train_step, validation_tokens
from kullback.training.replicas import ALONE, Replicas
from kullback.training.state import TrainingState

__all__ = ["seconds_per_step", "steps_in"]

# Steps after the first, which is slower; the time that they take together at most, about.
STEPS, SECONDS = 2, 1.0


def seconds_per_step(
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    steps: int = STEPS,
    processes: ProcessGroup = ALONE,
) -> float:
    """The median time of a step in seconds, with its share of the validation; rank 0's.

    All `processes` take the steps together.
    """
    replicas, count = Replicas(processes), config.pieces(batches.sequences)
    state = TrainingState(GPT(gpt, seed=config.seed), config)
    state.model.checkpoint_activations = config.checkpoint_activations
    times: list[float] = []
    with workers(config.shards) as pool:
        state.muon.pool, state.muon.parts = pool, config.shards
        for step in range(1 + steps):
            begin = time.perf_counter()
            try:
                pieces = batches.shards(min(step, config.steps - 1), count, replicas.own(count))
                train_step(state, pieces, pool, replicas)
            except RunError:  # diverged, which the run itself will say
                break
            times.append(time.perf_counter() - begin)
            if processes.broadcast(sum(times[1:]) > SECONDS or times[0] > 10 * SECONDS):
                break
            state.step = 0  # a configuration of one step has a learning rate for that only
    validated = sum(
        len(shard.targets_M)
        for shard in batches.validation(validation_tokens(config.evaluate_every, batches))
    )
    # A third: validation has no backward pass.
    share = validated / (3 * config.evaluate_every * batches.tokens_per_batch)
    return processes.broadcast(statistics.median(times[1:] or times or [SECONDS]) * (1 + share))


def steps_in(minutes: float, step_seconds: float) -> int:
    """The steps that fit into the time; at least one.

    >>> steps_in(1.0, 0.25)
    240
    """
    return max(1, round(60 * minutes / step_seconds))
