"""The memory that training takes, as an estimate, and the refusal of what cannot fit."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from kullback.errors import InvalidValueError
from kullback.runtime.limits import check_fits, machine_memory
from kullback.training.arithmetic import CPU
from kullback.training.config import SHARDING, TrainingConfig
from kullback.training.gpt import GPTConfig

__all__ = ["check_memory", "training_bytes", "with_sharding"]


def training_bytes(
    gpt: GPTConfig,
    tokens_per_batch: int,
    config: TrainingConfig,
    sharding_processes: int | None = None,
) -> int:
    """The bytes that each process takes to train on batches of so many tokens, about.

    Of a weight: itself and two moments, in float32, and its gradient, with accumulation also the
    partial sums of gradients; of a token of the part of a batch that is processed at once: what
    each block keeps for the backward pass, with activation checkpointing only its input, and of one
    block all.  A sharded run has its share of the former, of the
    `sharding_processes` (those that it began with by default), and what it gathers.
    """
    shards = _shards(config, sharding_processes)
    gradients = 1 if config.accumulate == 1 else 2 + math.ceil(math.log2(config.accumulate))
    of_block = 8 * gpt.width + 3 * gpt.mlp_width
    of_token = gpt.layers * of_block
    if config.checkpoint_activations:
        of_token = gpt.layers * gpt.width + of_block
    tokens = math.ceil(tokens_per_batch / (config.processes * config.accumulate))
    if shards == 1:
        return 4 * ((3 + gradients) * gpt.parameters + tokens * of_token)
    gathered = _gathered(gpt, config.checkpoint_activations)
    return 4 * (math.ceil(4 * gpt.parameters / shards) + gathered + tokens * of_token)


def _shards(config: TrainingConfig, sharding_processes: int | None) -> int:
    """The processes that share the weights; 1 where each has all."""
    if not config.fsdp:
        return 1
    return config.processes if sharding_processes is None else sharding_processes


def _gathered(gpt: GPTConfig, checkpoint_activations: bool) -> int:
    """The numbers that a process of a sharded run has beside its shards and its activations.

    The head, its gradient by the loss, by the embedding, and both; weights of two blocks, gradients
    of one, and as much again that is sent or received; and what the blocks keep of their weights
    for the backward pass.
    """
    read = 3 * gpt.width**2 + 2 * gpt.width * gpt.mlp_width
    block = read + gpt.width**2 + gpt.width * gpt.mlp_width
    kept = read * (1 if checkpoint_activations else gpt.layers)
    return 5 * gpt.vocabulary_size * gpt.width + 5 * block + kept


def _machine_bytes(
    gpt: GPTConfig,
    tokens_per_batch: int,
    config: TrainingConfig,
    local: int,
    sharding_processes: int | None,
) -> int:
    """The bytes of the processes on one machine: training, or at its end one whole model, too."""
    training = local * training_bytes(gpt, tokens_per_batch, config, sharding_processes)
    if not config.fsdp:
        return training
    state = 16 * math.ceil(gpt.parameters / _shards(config, sharding_processes))
    return max(training, local * state + 4 * gpt.parameters)


def with_sharding(
    config: TrainingConfig,
    choice: str,
    gpt: GPTConfig,
    tokens_per_batch: int,
    local: int,
    device: torch.device = CPU,
) -> TrainingConfig:
    """The configuration with ``fsdp`` as the `choice` says.

    "auto" shards a run of which the replicas in `local` processes exceed this machine's memory, or
    one exceeds its GPU's, and shards do not.  Raises `InvalidValueError` for another choice, and
    for "always" in one process or on another kind of device.
    """
    if choice not in SHARDING:
        raise InvalidValueError(f"fsdp is {choice!r:.60}: it must be {', '.join(SHARDING)}")
    possible = config.processes > 1 and device.type in ("cpu", "cuda")
    if choice == "always" and not possible:
        raise InvalidValueError(
            "fsdp is always, and one process cannot shard a model: start several "
            "(torchrun --nproc-per-node 2 -m kullback train ...), or remove it"
            if config.processes == 1
            else f"fsdp is always, and {device} cannot share a model: train on a CPU or on CUDA"
        )
    sharded = replace(config, fsdp=possible and choice != "never")
    if choice != "auto" or not possible:
        return sharded
    memory, processes = machine_memory(), local
    if device.type == "cuda":
        memory, processes = torch.cuda.get_device_properties(device).total_memory, 1
    if memory is None or _machine_bytes(gpt, tokens_per_batch, config, processes, None) <= memory:
        return config
    fits = _machine_bytes(gpt, tokens_per_batch, sharded, processes, None) <= memory
    return sharded if fits else config


def check_memory(
    gpt: GPTConfig,
    tokens_per_batch: int,
    config: TrainingConfig,
    local_processes: int = 1,
    device: torch.device = CPU,
    sharding_processes: int | None = None,
) -> None:
    """Raise `InvalidValueError` where a model, or its training, exceeds the memory for it.

    `local_processes` are the processes that train on this machine, on a CPU in the same memory.  A
    GPU's limit is half of the estimate, which its functions may need less than.
    `sharding_processes` are those that train a sharded model now.
    """
    gpt.check_memory()
    remedy = (
        "choose a smaller batch, context, width or number of layers, or add --accumulate K, "
        "--checkpoint-activations, or processes on other machines with --fsdp always"
    )
    size = training_bytes(gpt, tokens_per_batch, config, sharding_processes)
    what = (
        f"training a model of {gpt.parameters:,} parameters on batches of {tokens_per_batch:,} "
        "tokens"
    )
    if device.type == "cpu":
        of_processes = f" in each of {local_processes} processes" if local_processes > 1 else ""
        of_machine = _machine_bytes(
            gpt, tokens_per_batch, config, local_processes, sharding_processes
        )
        check_fits(of_machine, what + of_processes, remedy)
    elif device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        if size > 2 * memory:
            raise InvalidValueError(
                f"{what} would take about {size / 1e9:,.1f} GB, and {device} has "
                f"{memory / 1e9:,.1f} GB: {remedy}"
            )
