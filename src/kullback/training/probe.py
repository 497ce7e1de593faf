"""How long a step takes, and the fastest arithmetic: probes with models that are thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from kullback.runtime.processor import multiplies_bfloat16
from kullback.runtime.workers import ProcessGroup
from kullback.training.arithmetic import CPU, Arithmetic
from kullback.training.batches import Batches
from kullback.training.compilation import without_compilation_where_it_fails
from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.initial_state import initial_state, training_workers
from kullback.training.loop import validation_tokens
from kullback.training.replicas import ALONE, Replicas
from kullback.training.state import DivergedError, TrainingState
from kullback.training.steps import check_pending_step, train_step
from kullback.training.torch_block import forget_compiled_blocks

__all__ = [
    "compilation_that_pays",
    "faster_type",
    "seconds_per_step",
    "steps_in",
]

# Steps after the first, which is slower; the time that they take together at most, about.
STEPS, SECONDS = 2, 1.0
# Steps with each type of products, at most: many, so that other work does not decide.
STEPS_OF_TYPE = 50
# How many times as fast bfloat16 must be to be chosen: two probes differ by less.
GAIN = 1.05
# Narrower models have products too small for it; their runs do not depend on a probe.
NARROWEST = 64
# A run is compiled for where it takes so many times as long as the compilation, or so long.  A
# shorter run is not tried: the compilation of a block, forward and backward, takes many seconds (on
# a GPU it was not measured), which would be lost.
TIMES_THE_COMPILATION, LONG_RUN, SHORTEST_RUN = 10.0, 300.0, 150.0


def seconds_per_step(
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    steps: int = STEPS,
    processes: ProcessGroup = ALONE,
    device: torch.device = CPU,
) -> float:
    """The median time of a step in seconds, with its share of the validation; rank 0's.

    All `processes` take the steps together.
    """
    (seconds,) = _median_seconds(batches, gpt, [config], steps, processes, device)
    validated = sum(
        len(shard.targets_M)
        for shard in batches.validation(validation_tokens(config.evaluate_every, batches))
    )
    # A third: validation has no backward pass.
    share = validated / (3 * config.evaluate_every * batches.tokens_per_batch)
    return processes.broadcast(seconds * (1 + share))


def faster_type(
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    processes: ProcessGroup = ALONE,
) -> tuple[TrainingConfig, str | None]:
    """The configuration with the faster type of products on this CPU, and why, for the plan.

    bfloat16 only where the processor multiplies it, the model has a width of at least `NARROWEST`,
    and a probe of about a second is faster by `GAIN`; rank 0's.
    """
    if gpt.width < NARROWEST or not processes.broadcast(multiplies_bfloat16()):
        return replace(config, dtype="float32"), None
    types = [replace(config, dtype=dtype) for dtype in ("float32", "bfloat16")]
    seconds = _median_seconds(batches, gpt, types, STEPS_OF_TYPE, processes, CPU)
    ratio = processes.broadcast(seconds[0] / seconds[1])
    if ratio >= GAIN:
        return types[1], f"bfloat16: {ratio:.2f} times the speed of float32 here"
    return types[0], f"float32: bfloat16 has {ratio:.2f} times its speed here"


def compilation_that_pays(
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    seconds: tuple[float, float],
    processes: ProcessGroup = ALONE,
    device: torch.device = CPU,
) -> tuple[TrainingConfig, float, str | None]:
    """The configuration with or without `torch.compile`, the seconds of a step, and why.

    `seconds` are those of a step and of the run without it.  Only on an accelerator, not
    sharded, and where the run is long enough to pay the compilation back; where it fails, why is
    said.
    """
    step_seconds, run_seconds = seconds
    accelerated = Arithmetic.of(config, device).accelerated and not config.fsdp
    if not accelerated or run_seconds < SHORTEST_RUN:
        return config, step_seconds, None
    trial, replicas = replace(config, compiled=True), Replicas(processes)
    forget_compiled_blocks()
    begin = time.perf_counter()
    state, count = TrainingState.begin(gpt, trial, device), config.pieces(batches.sequences)
    # Other shapes than the first ones are compiled again, and then once for all.
    for step in range(min(3, config.steps)):
        shard, *_ = batches.shards(step, count, replicas.own(count))
        reason = without_compilation_where_it_fails(state, shard, replicas)
        if reason is not None:
            return config, step_seconds, (
                f"torch.compile fails here ({reason}): operations run one by one, slower"
            )  # fmt: skip
    compilation = time.perf_counter() - begin
    del state
    compiled_seconds = seconds_per_step(batches, gpt, trial, 2 * STEPS, processes, device)
    pays = run_seconds > min(LONG_RUN, TIMES_THE_COMPILATION * compilation)
    if not processes.broadcast(pays and compiled_seconds < step_seconds):
        return config, step_seconds, None
    return trial, compiled_seconds, (
        f"torch.compile: {step_seconds / compiled_seconds:.2f} times the speed of operations one "
        f"by one here, compiled in {compilation:.0f} s"
    )  # fmt: skip


def _median_seconds(
    batches: Batches,
    gpt: GPTConfig,
    configs: Sequence[TrainingConfig],
    steps: int,
    processes: ProcessGroup,
    device: torch.device,
) -> list[float]:
    """The median time of a step of each configuration, interleaved, in seconds."""
    config, replicas = configs[0], Replicas(processes)
    count = config.pieces(batches.sequences)
    # One state, since the memory may have space for no more.
    state = initial_state(gpt, config, processes, device)
    times: list[list[float]] = [[] for _ in configs]
    with training_workers(state) as pool:
        if not state.model.arithmetic.accelerated:
            state.muon.pool, state.muon.parts = pool, config.shards
        for step in range(1 + steps):
            begin = time.perf_counter()
            pieces = batches.shards(min(step, config.steps - 1), count, replicas.own(count))
            preparation = time.perf_counter() - begin
            try:
                for tried, of_config in zip(configs, times, strict=True):
                    state.model.use(Arithmetic.of(tried, device))
                    begin = time.perf_counter()
                    train_step(state, pieces, pool, replicas)
                    check_pending_step(state, replicas)
                    _synchronise(device)
                    of_config.append(preparation + time.perf_counter() - begin)
                    # A configuration of one step has a learning rate for that only.
                    state.step = 0
            except DivergedError:  # which the run itself will say
                break
            taken = sum(sum(of_config[1:]) for of_config in times)
            if processes.broadcast(taken > SECONDS or times[0][0] > 10 * SECONDS):
                break
    return [statistics.median(of_config[1:] or of_config or [SECONDS]) for of_config in times]


def _synchronise(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def steps_in(minutes: float, step_seconds: float) -> int:
    """The steps that fit into the time; at least one.

    >>> steps_in(1.0, 0.25)
    240
    """
    return max(1, round(60 * minutes / step_seconds))
