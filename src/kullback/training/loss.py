"""Loss and gradient of a shard.

The gradients of the shards of a batch add up to the gradient of the batch's mean negative
log-likelihood.  Axes: M tokens of a shard, D width.
"""

from __future__ import annotations

from torch import Tensor, autograd

from kullback.training.batches import Shard
from kullback.training.linear_cross_entropy import linear_cross_entropy
from kullback.training.metrics import Sums
from kullback.training.state import TrainingState

__all__ = ["gradients"]


def gradients(
    state: TrainingState, shard: Shard, tokens_of_batch: int
) -> tuple[tuple[Tensor, ...], Sums]:
    """One shard's share of the gradient of the batch's mean nll, and the shard's sums."""
    hidden_MD = state.model.hidden_packed(shard.inputs_M, shard.layout)
    share_M = hidden_MD.new_full((len(hidden_MD),), 1.0 / tokens_of_batch)
    loss, nll_M = linear_cross_entropy(hidden_MD, state.model.head_weight, shard.targets_M, share_M)
    return autograd.grad(loss, state.weights), Sums.of(nll_M, shard)
