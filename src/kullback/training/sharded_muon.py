"""Muon on weights that are sharded by rows over processes.

The momentum is sharded as its weight is, but the orthogonalisation needs whole matrices.  So the
matrices are dealt over the processes; each receives the momenta of its own (all-to-all),
orthogonalises them, and sends the rows of the updates back.  A few matrices of one shape are
exchanged at a time, so that whole matrices take little memory beside the shards.

Axes: B matrices of one process, R rows, C columns, S rows of a shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from kullback.training.muon import Muon

__all__ = ["ShardedMuon", "local_shard", "rows_of_shards"]

# Bytes of whole matrices that a process orthogonalises at a time, or one matrix.
WHOLE_BYTES = 1 << 24


def rows_of_shards(rows: int, shards: int) -> list[int]:
    """The rows that each shard has of a matrix, as FSDP divides them.

    >>> rows_of_shards(10, 4)
    [3, 3, 3, 1]
    """
    largest = math.ceil(rows / shards)
    return [max(0, min(largest, rows - largest * shard)) for shard in range(shards)]


class ShardedMuon(Muon):
    """`Muon` over `DTensor`s, whose update it computes to the last bit but one.

    Every process must call `step` together.
    """

    def _descend(self, weights: list[Tensor], updates: list[Tensor], lr: float) -> None:
        """As in one process, on the shards of the weights."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for weight, update in zip(weights, updates, strict=True):
            pair = local_shard(weight), local_shard(update)
            by_shape.setdefault(weight.shape, []).append(pair)
        first = 0  # owner of the next matrix, so that all get as many, the largest first
        for shape, pairs in sorted(by_shape.items(), key=lambda item: -item[0].numel()):
            for part in _rounds(pairs, shape):
                self._exchange(shape, part, first, lr)
                first += len(part)

    def _exchange(
        self, shape: torch.Size, pairs: list[tuple[Tensor, Tensor]], first: int, lr: float
    ) -> None:
        """Update shards of matrices, of which the i-th is whole at process first + i."""
        processes, rank = dist.get_world_size(), dist.get_rank()
        rows, columns = shape
        rows_of = rows_of_shards(rows, processes)
        owned = [pairs[(owner - first) % processes :: processes] for owner in range(processes)]
        counts = [len(of_owner) for of_owner in owned]
        sent = [count * rows_of[rank] * columns for count in counts]
        kept = [counts[rank] * of_shard * columns for of_shard in rows_of]
        own = torch.cat([update.reshape(-1) for of_owner in owned for _, update in of_owner])
        gathered = own.new_empty(sum(kept))
        dist.all_to_all_single(gathered, own, kept, sent)
        if counts[rank]:
            whole_BRC = _joined(gathered, kept, counts[rank], columns)
            change_BRC = torch.zeros_like(whole_BRC)
            super()._descend(list(change_BRC), list(whole_BRC), lr)
            parts = torch.split(change_BRC, rows_of, dim=1)
            gathered = torch.cat([part.reshape(-1) for part in parts])
        dist.all_to_all_single(own, gathered, sent, kept)
        weights = [weight for of_owner in owned for weight, _ in of_owner]
        ends = list(accumulate(weight.numel() for weight in weights))
        for weight, end in zip(weights, ends, strict=True):
            weight.add_(own[end - weight.numel() : end].view_as(weight))


def _joined(gathered: Tensor, sizes: list[int], count: int, columns: int) -> Tensor:
    """Whole matrices (B×R×C) of the shards (B×S×C) that each process sent."""
    parts = torch.split(gathered, sizes)
    return torch.cat([part.view(count, -1, columns) for part in parts if part.numel()], dim=1)


def _rounds(
    pairs: list[tuple[Tensor, Tensor]], shape: torch.Size
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The matrices that are exchanged at once."""
    each = max(1, WHOLE_BYTES // (4 * shape.numel())) * dist.get_world_size()
    for start in range(0, len(pairs), each):
        yield pairs[start : start + each]


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard, of which it is the memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
