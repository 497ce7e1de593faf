"""Sharded training: FSDP2 (`torch.distributed.fsdp.fully_shard`) over the processes of torchrun.

Each process keeps a part of the rows of every weight, of its gradient and of what the optimisers
keep of it.  The weights of a block are gathered while it computes, forward and backward, and freed
after; those of the embedding, which is also the head, for the whole of a piece.  After the backward
pass of each piece its gradients are added over the processes and every process keeps its part
(reduce-scatter), so that no process has the gradients of a whole model but for one block and the
head.  A piece's loss is divided by the tokens of the whole batch, so the sum over processes and
pieces is the gradient of the batch's mean.

A process computes one piece at a time, for FSDP's hooks run in one thread; its threads share each
operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from kullback.runtime.memory import is_out_of_memory
from kullback.runtime.workers import lost_processes
from kullback.training.arithmetic import CPU, Arithmetic
from kullback.training.batches import Shard
from kullback.training.config import TrainingConfig
from kullback.training.dropout import Dropout
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.loss import losses, start_sums
from kullback.training.metrics import Sums
from kullback.training.muon import Muon
from kullback.training.sharded_muon import ShardedMuon, local_shard, rows_of_shards
from kullback.training.state import TrainingState

__all__ = ["ShardedState"]


class _PieceLoss(nn.Module):
    """The losses of a piece: all of the model is used within one forward pass, as FSDP expects."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(
        self, piece: Shard, weight: float, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sum of the tokens' nll times `weight`, and each token's nll."""
        return losses(self.gpt, piece, weight, dropout)


@dataclass
class ShardedState(TrainingState):
    """This process's shards of the state of a run; all processes call its methods together."""

    muon_kind: ClassVar[type[Muon]] = ShardedMuon

    def __post_init__(self) -> None:
        device = self.model.arithmetic.device
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        self._root = _PieceLoss(self.model)
        for block in self.model.model.layers:
            fully_shard(block, mesh=mesh)
        self._fsdp = fully_shard(self._root, mesh=mesh)
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                # The sum, as each loss is divided by the tokens of the whole batch.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._root.to_empty(device=device)
        super().__post_init__()

    @classmethod
    def begin(cls, gpt: GPTConfig, config: TrainingConfig, device: torch.device = CPU) -> Self:
        """The state before the first step, with the weights of a whole model of the same seed.

        Each is drawn whole in turn, and this process's rows of it are kept.
        """
        model = GPT(gpt, on_meta=True)
        model.use(Arithmetic.of(config, device))
        model.checkpoint_activations = config.checkpoint_activations
        state, generator = cls(model, config), torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            for name, weight in zip(state.names, state.weights, strict=True):
                whole = torch.empty(weight.shape)
                model.draw(name, whole, generator)
                rows = rows_of_shards(len(whole), dist.get_world_size())
                local_shard(weight).copy_(torch.split(whole, rows)[dist.get_rank()])
        return state

    @property
    def sharded(self) -> ShardedState:
        """Itself."""
        return self

    @property
    def gradient(self) -> list[Tensor]:
        """This process's shards of the gradient that `backward` computed."""
        return [weight.grad for weight in self.weights if weight.grad is not None]

    def backward(self, pieces: list[Shard], tokens_of_batch: int) -> list[Callable[[], Sums]]:
        """Compute the gradient of the batch's mean nll; what waits for the sums of each piece."""
        for weight in self.weights:
            weight.grad = None
        sums: list[Callable[[], Sums]] = []
        for i, piece in enumerate(pieces):
            self._fsdp.set_is_last_backward(i == len(pieces) - 1)
            with _together():
                loss, nll_M = self._root(piece, 1.0 / tokens_of_batch, self.dropout(piece))
                loss.backward()
            sums.append(start_sums(self.model, nll_M, piece))
        return sums

    @torch.no_grad()
    def start_sums(
        self, shards: Sequence[Shard], share: slice, processes: int
    ) -> Iterator[Callable[[], Sums]]:
        """What waits for the sums of this process's share of the shards, without a gradient.

        The forward passes are of all processes together, so one with a smaller share computes
        another shard.
        """
        own = shards[share]
        passes = math.ceil(len(shards) / processes)
        for number, shard in enumerate(chain(own, shards[: passes - len(own)])):
            with _together():
                _, nll_M = self._root(shard, 1.0)
            if number < len(own):
                yield start_sums(self.model, nll_M, shard)
        self._fsdp.reshard()  # or the next step would use the weights of this one

    def whole_weights(self, names: list[str]) -> Iterator[Tensor]:
        """The weights of these names, one whole weight in memory at a time."""
        by_name = dict(zip(self.names, self.weights, strict=True))
        for name in names:
            weight = by_name[name].detach()
            with lost_processes():
                whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
            yield whole

    def update(self, gradients: list[Tensor]) -> Callable[[], None]:
        """As of a `TrainingState`, whose norm and matrices the processes compute together."""
        with _together():
            return super().update(gradients)

    def _clip(self) -> Tensor:
        norm = super()._clip()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def _together() -> Iterator[None]:
    """Say in a sentence that another process has ended, but where the memory is too small."""
    try:
        with lost_processes():
            yield
    except Exception as error:
        cause = error.__cause__
        if cause is not None and is_out_of_memory(cause):
            raise cause from None
        raise
