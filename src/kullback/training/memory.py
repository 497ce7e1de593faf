"""The memory that training takes, as an estimate, and the refusal of what cannot fit."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from kullback.errors import InvalidValueError
from kullback.runtime.limits import check_fits, machine_memory
from kullback.runtime.mkl_products import mkl_products
from kullback.training.arithmetic import CPU
from kullback.training.config import SHARDING, TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.packed_attention import QUERIES

__all__ = ["check_memory", "training_bytes", "with_sharding"]

# What a process on a CPU has at its peak is `KEPT` times what is in use, since glibc keeps freed
# blocks, and what the first products of a size and threads take, `FIRST`.  Of twelve small runs,
# with and without accumulation, checkpointed activations and blocks in C, the peak is 0.82 to 1.24
# of the estimate.
KEPT, FIRST = 1.25, 55e6
# Of a sharded run, whose freed blocks are given back: 0.88 to 1.09 of the peak of rank 0.
FIRST_SHARDED = 20e6
# The matrices of one shape that Newton-Schulz has at once: themselves, joined, and its products.
MUON_STACKS = 6
# In C, the squares of the smaller side of a block that a thread has, beside the block twice.
MUON_SQUARES = 6


def training_bytes(
    gpt: GPTConfig,
    tokens_per_batch: int,
    config: TrainingConfig,
    sharding_processes: int | None = None,
) -> int:
    """The bytes that each process takes to train on batches of so many tokens, as an estimate.

    The state is each weight, and one moment of it (Muon) or two (AdamW).  A step takes the larger
    of what its two parts take:

    * the backward pass: the gradients of all pieces that are computed at once, with accumulation
      partial sums of them, and what each block keeps of a token.  With activation checkpointing
      that is only the block's input, and all of one block; with dropout also the factors of what
      the block adds;
    * Muon: the update of every matrix, and the temporaries of the matrices of one shape; in C, the
      temporaries of one block in each thread.

    A process of a sharded run has its share of the state and what it gathers.
    `sharding_processes` are those that share it, by default as many as the run began with.
    """
    shards = _shards(config, sharding_processes)
    matrices = gpt.layers * _block_numbers(gpt)
    state = 2 * matrices + 3 * (gpt.parameters - matrices)
    tokens = math.ceil(tokens_per_batch / (config.processes * config.accumulate))
    activations = tokens * _numbers_of_token(gpt, config)
    threads = config.shards if config.device == "cpu" else 1
    if config.native:
        activations += threads * _scaled_matrices(gpt, config.checkpoint_activations)
    if shards > 1:
        gathered = _gathered(gpt, config.checkpoint_activations)
        of_shards = math.ceil((state + gpt.parameters + matrices) / shards)
        first = FIRST_SHARDED if config.device == "cpu" else 0.0
        return math.ceil(4 * (of_shards + gathered + activations) + first)
    pieces = config.accumulate * threads
    gradients = min(pieces, threads + math.ceil(math.log2(pieces)))
    muon = gpt.parameters + _numbers_of_muon(gpt, config, matrices)
    numbers = state + max(gradients * gpt.parameters + activations, muon)
    kept, first = (KEPT, FIRST) if config.device == "cpu" else (1.0, 0.0)
    return math.ceil(4 * numbers * kept + first)


def _numbers_of_muon(gpt: GPTConfig, config: TrainingConfig, matrices: int) -> int:
    """The numbers that Muon has beside gradients and momenta."""
    if not config.native or mkl_products() is None:
        of_shape = gpt.layers * max(4 * gpt.width**2, 3 * gpt.width * gpt.mlp_width)
        return matrices + MUON_STACKS * of_shape
    rows = config.muon_rows or max(gpt.width, gpt.mlp_width)
    shapes = [(gpt.width, gpt.width), (gpt.mlp_width, gpt.width), (gpt.width, gpt.mlp_width)]
    blocks = [(min(rows, R), C) for R, C in shapes]
    return config.shards * max(2 * R * C + MUON_SQUARES * min(R, C) ** 2 for R, C in blocks)


def _block_numbers(gpt: GPTConfig) -> int:
    """The numbers in the matrices of a block."""
    return 4 * gpt.width**2 + 3 * gpt.width * gpt.mlp_width


def _numbers_of_token(gpt: GPTConfig, config: TrainingConfig) -> int:
    """The numbers that the backward pass keeps of a token, and those of the block it is at."""
    if config.native:
        of_block = 6 * gpt.width + 2 * gpt.mlp_width + gpt.heads
        if config.dtype == "bfloat16":
            of_block = math.ceil(of_block / 2)
        at_block = 6 * gpt.width + 5 * gpt.mlp_width
    else:
        of_block = 6 * gpt.width + 5 * gpt.mlp_width
        if config.device == "cpu":  # its attention keeps the weights: of the keys before a query
            of_block += math.ceil(gpt.heads * (gpt.context + QUERIES) / 2)
        at_block = 4 * gpt.width + 2 * gpt.mlp_width
    of_stream = gpt.layers * gpt.width * (bool(config.dropout) + config.checkpoint_activations)
    if config.checkpoint_activations:
        return of_stream + of_block + at_block
    return of_stream + gpt.layers * of_block + at_block


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
    kept = _scaled_matrices(gpt, checkpoint_activations)
    return 5 * gpt.vocabulary_size * gpt.width + 5 * _block_numbers(gpt) + kept


def _scaled_matrices(gpt: GPTConfig, checkpoint_activations: bool) -> int:
    """The numbers of the matrices after a normalisation, which blocks keep times its weights."""
    of_block = 3 * gpt.width**2 + 2 * gpt.width * gpt.mlp_width
    return of_block * (1 if checkpoint_activations else gpt.layers)


def _machine_bytes(
    gpt: GPTConfig,
    tokens_per_batch: int,
    config: TrainingConfig,
    local: int,
    sharding_processes: int | None,
) -> int:
    """The bytes of all `local` processes of a machine, at their peak.

    That of a sharded run may be at its end, when one process loads the whole model.
    """
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
