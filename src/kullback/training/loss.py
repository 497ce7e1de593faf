"""Losses of a shard: the gradient of the mean, and the loss of each token.

The gradients of the shards of a batch add up to the gradient of the batch's mean negative
log-likelihood.  Losses are in nats.  Axes: M tokens of a shard, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, autograd

from kullback.training.batches import Shard
from kullback.training.gpt import GPT
from kullback.training.linear_cross_entropy import linear_cross_entropy
from kullback.training.metrics import Sums
from kullback.training.state import TrainingState

__all__ = ["gradients", "shard_sums", "token_losses"]


def gradients(
    state: TrainingState, shard: Shard, tokens_of_batch: int
) -> tuple[tuple[Tensor, ...], Sums]:
    """One shard's share of the gradient of the batch's mean nll, and the shard's sums."""
    loss, nll_M = _losses(state.model, shard, 1.0 / tokens_of_batch)
    return autograd.grad(loss, state.weights), Sums.of(nll_M, shard)


@torch.no_grad()
def shard_sums(model: GPT, shard: Shard) -> Sums:
    """The sums of a shard, without a gradient."""
    return Sums.of(_losses(model, shard, 1.0)[1], shard)


@torch.no_grad()
def token_losses(model: GPT, shard: Shard) -> Float64[np.ndarray, "M"]:
    """The negative log-likelihood of each target of a shard."""
    return _losses(model, shard, 1.0)[1].double().numpy()


def _losses(model: GPT, shard: Shard, weight: float) -> tuple[Tensor, Tensor]:
    """The sum of the tokens' nll times `weight`, and each token's nll."""
    hidden_MD = model.hidden_packed(shard.inputs_M, shard.layout)
    weight_M = hidden_MD.new_full((len(hidden_MD),), weight)
    return linear_cross_entropy(hidden_MD, model.head_weight, shard.targets_M, weight_M)
