"""Losses of a shard: the gradient of the mean, and the loss of each token.

The gradients of the shards of a batch add up to the gradient of the batch's mean negative
log-likelihood.  Losses are in nats.  Axes: M tokens of a shard, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, autograd

from kullback.runtime.transfers import start_to_host
from kullback.training.batches import Shard
from kullback.training.dropout import Dropout
from kullback.training.gpt import GPT
from kullback.training.linear_cross_entropy import linear_cross_entropy
from kullback.training.metrics import Sums
from kullback.training.state import TrainingState

__all__ = ["gradients", "losses", "shard_sums", "start_shard_sums", "start_sums", "token_losses"]


def gradients(
    state: TrainingState, shard: Shard, tokens_of_batch: int
) -> tuple[tuple[Tensor, ...], Callable[[], Sums]]:
    """One shard's share of the gradient of the batch's mean nll, and what waits for its sums."""
    loss, nll_M = losses(state.model, shard, 1.0 / tokens_of_batch, state.dropout(shard))
    sums = start_sums(state.model, nll_M, shard)
    return autograd.grad(loss, state.weights), sums


@torch.no_grad()
def start_shard_sums(model: GPT, shard: Shard) -> Callable[[], Sums]:
    """Begin to compute the sums of a shard, without a gradient; what is returned waits for them."""
    return start_sums(model, losses(model, shard, 1.0)[1], shard)


def shard_sums(model: GPT, shard: Shard) -> Sums:
    """The sums of a shard, without a gradient."""
    return start_shard_sums(model, shard)()


@torch.no_grad()
def token_losses(model: GPT, shard: Shard) -> Float64[np.ndarray, "M"]:
    """The negative log-likelihood of each target of a shard."""
    return losses(model, shard, 1.0)[1].cpu().double().numpy()


def start_sums(model: GPT, nll_M: Float[Tensor, "M"], shard: Shard) -> Callable[[], Sums]:
    """The sums of a shard: at once on a CPU, and on an accelerator when they are asked for."""
    if not model.arithmetic.accelerated:
        sums = Sums.of(nll_M, shard)
        return lambda: sums
    wait = start_to_host(nll_M)
    return lambda: Sums.of(wait(), shard)


def losses(
    model: GPT, shard: Shard, weight: float, dropout: Dropout | None = None
) -> tuple[Float[Tensor, ""], Float[Tensor, "M"]]:
    """The sum of the tokens' nll times `weight`, and each token's nll, on the model's device."""
    arithmetic = model.arithmetic
    shard = shard.on(model.head_weight.device)
    hidden_MD = model.hidden_packed(shard.inputs_M, shard.layout, dropout)
    weight_M = hidden_MD.new_full((len(hidden_MD),), weight)
    functions = arithmetic.functions if hidden_MD.dtype == torch.float32 else None
    return linear_cross_entropy(
        hidden_MD, model.head_weight, shard.targets_M, weight_M, arithmetic.bfloat16, functions
    )
