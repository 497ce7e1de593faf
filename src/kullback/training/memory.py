"""The memory that training takes, as an estimate, and the refusal of what cannot fit."""

from __future__ import annotations

import math

import torch

from kullback.errors import InvalidValueError
from kullback.runtime.limits import check_fits
from kullback.training.arithmetic import CPU
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPTConfig

__all__ = ["check_memory", "training_bytes"]


def training_bytes(gpt: GPTConfig, tokens_per_batch: int, config: TrainingConfig) -> int:
    """The bytes that each process takes to train on batches of so many tokens, about.

    Of a weight: itself and two moments, in float32, and its gradient, with accumulation also the
    partial sums of gradients; of a token of the part of a batch that is processed at once: what
    each block keeps for the backward pass, with activation checkpointing only its input, and of one
    block all.
    """
    gradients = 1 if config.accumulate == 1 else 2 + math.ceil(math.log2(config.accumulate))
    of_block = 8 * gpt.width + 3 * gpt.mlp_width
    of_token = gpt.layers * of_block
    if config.checkpoint_activations:
        of_token = gpt.layers * gpt.width + of_block
    tokens = math.ceil(tokens_per_batch / (config.processes * config.accumulate))
    return 4 * ((3 + gradients) * gpt.parameters + tokens * of_token)


def check_memory(
    gpt: GPTConfig,
    tokens_per_batch: int,
    config: TrainingConfig,
    local_processes: int = 1,
    device: torch.device = CPU,
) -> None:
    """Raise `InvalidValueError` where a model, or its training, exceeds the memory for it.

    `local_processes` are the processes that train on this machine, on a CPU in the same memory.  A
    GPU's limit is half of the estimate, which its functions may need less than.
    """
    gpt.check_memory()
    remedy = (
        "choose a smaller batch, context, width or number of layers, or add --accumulate K or "
        "--checkpoint-activations"
    )
    size = training_bytes(gpt, tokens_per_batch, config)
    what = (
        f"training a model of {gpt.parameters:,} parameters on batches of {tokens_per_batch:,} "
        "tokens"
    )
    if device.type == "cpu":
        of_processes = f" in each of {local_processes} processes" if local_processes > 1 else ""
        check_fits(local_processes * size, what + of_processes, remedy)
    elif device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        if size > 2 * memory:
            raise InvalidValueError(
                f"{what} would take about {size / 1e9:,.1f} GB, and {device} has "
                f"{memory / 1e9:,.1f} GB: {remedy}"
            )
