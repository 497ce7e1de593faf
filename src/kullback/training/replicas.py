"""Data parallel training: what the processes of torchrun exchange at every step.

Each process has a replica of the model and the optimisers.  A batch is cut into pieces, of which
each process takes an equal, contiguous share; the gradients are added over all pieces, and every
process then takes the same step.  A piece's loss is divided by the tokens of the whole batch, so
the sum is the gradient of the batch's mean.

torch's `DistributedDataParallel` is not used, for two reasons: it averages over processes as if
each had as many tokens, and an all-reduce adds in an order of its own.  Here a process receives one
part of the gradient from every other (all-to-all), adds these in the order of
:mod:`kullback.training.summation`, and sends the sum to all (all-gather).  That moves what a ring
all-reduce moves, gives all processes the same bits, and with a power of two of pieces the bits do
not depend on the number of processes.  It does not overlap with the backward pass.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup, lost_processes
from kullback.training.config import TrainingConfig
from kullback.training.state import TrainingState
from kullback.training.summation import tree_sum

__all__ = ["ALONE", "Replicas", "check_divides", "check_shares"]

#: This process, without others.
ALONE = ProcessGroup()
# Bytes of gradients that are exchanged at a time: large enough for the bandwidth of a network, and
# small beside a model for which three copies of it would count.
BUCKET_BYTES = 1 << 26

Value = TypeVar("Value")


@dataclass(frozen=True)
class Replicas:
    """The processes, each with a replica."""

    processes: ProcessGroup

    def own(self, pieces: int) -> slice:
        """This process's share of the pieces of a batch, which the processes divide."""
        share = pieces // self.processes.world_size
        return slice(self.processes.rank * share, (self.processes.rank + 1) * share)

    def share(self, items: int) -> slice:
        """This process's contiguous share of items, equal within one."""
        rank, world_size = self.processes.rank, self.processes.world_size
        return slice(items * rank // world_size, items * (rank + 1) // world_size)

    def gathered(self, own: list[Value]) -> list[Value]:
        """The values of all processes, in the order of their ranks."""
        if self.processes.world_size == 1:
            return own
        values: list[list[Value]] = [[] for _ in range(self.processes.world_size)]
        with lost_processes():
            dist.all_gather_object(values, own)
        return [value for of_rank in values for value in of_rank]

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set in any process; also waits for all of them."""
        if self.processes.world_size == 1:
            return flag
        value = torch.tensor(int(flag))
        with lost_processes():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def summed(self, gradient: list[Tensor]) -> list[Tensor]:
        """The sum of the gradients of all processes, with the same bits in each."""
        if self.processes.world_size == 1:
            return gradient
        result: list[Tensor] = []
        bucket: list[Tensor] = []
        for tensor in gradient:
            bucket.append(tensor)
            if sum(t.numel() * t.element_size() for t in bucket) >= BUCKET_BYTES:
                result += self._summed(bucket)
                bucket = []
        return result + self._summed(bucket) if bucket else result

    def _summed(self, bucket: list[Tensor]) -> list[Tensor]:
        """The same for tensors of one type that are exchanged at once."""
        world_size = self.processes.world_size
        sizes = [tensor.numel() for tensor in bucket]
        part = math.ceil(sum(sizes) / world_size)
        sent = bucket[0].new_zeros(world_size * part)
        torch.cat([tensor.reshape(-1) for tensor in bucket], out=sent[: sum(sizes)])
        received = torch.empty_like(sent)
        with lost_processes():
            dist.all_to_all_single(received, sent)
            total = tree_sum(received.view(world_size, part), lambda a, b: a.add_(b))
            dist.all_gather(list(sent.view(world_size, part)), total)
        pieces = torch.split(sent[: sum(sizes)], sizes)
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, bucket, strict=True)]

    def check_equal(self, state: TrainingState) -> None:
        """Raise `RunError` where the replicas differ, as on processors that round differently."""
        if self.processes.world_size == 1:
            return
        crc = 0
        for weight in state.weights:
            crc = zlib.crc32(weight.detach().cpu().contiguous().numpy().data, crc)
        values = self.gathered([crc])
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise RunError(
                f"the weights of process {other} differ from those of process 0 after step "
                f"{state.step}: their processors or versions of torch round differently; train on "
                f"machines of one kind; no checkpoint was written of this step, and "
                f"{state.kept_checkpoint}"
            )


def check_divides(config: TrainingConfig, sequences: int) -> None:
    """Raise `InvalidValueError` where a batch has no equal share for each process and part."""
    shares = config.processes * config.accumulate
    if sequences % shares == 0:
        return
    nearest = max(shares, shares * round(sequences / shares))
    cause = " and ".join(
        [f"{config.processes} processes"] * (config.processes > 1)
        + [f"accumulate (--accumulate) {config.accumulate}"] * (config.accumulate > 1)
    )
    raise InvalidValueError(
        f"a batch of {sequences} cannot be divided evenly by {cause}: the nearest batch that works "
        f"is {nearest} (--batch {nearest})"
    )


def check_shares(
    config: TrainingConfig, sequences: int, processes: ProcessGroup, progress: Progress
) -> None:
    """Check that so many processes can resume a run, and note where that changes the last bits.

    Raises `InvalidValueError` where they do not divide the pieces of a batch.
    """
    pieces, world_size = config.pieces(sequences), processes.world_size
    if pieces % world_size:
        able = [str(count) for count in range(1, pieces + 1) if pieces % count == 0]
        shown = able if len(able) <= 8 else [*able[:7], "…", able[-1]]
        raise InvalidValueError(
            f"the run began with batches in {pieces} pieces, which {world_size} processes cannot "
            f"share evenly: resume it with {', '.join(shown[:-1])} or {shown[-1]}"
            if len(able) > 1
            else f"the run began with batches in one piece, which {world_size} processes cannot "
            "share: resume it with one process"
        )
    if world_size != config.processes and config.fsdp:
        progress.note(
            f"the sharded run began with {config.processes} processes and is resumed with "
            f"{world_size}: gradients are added in another order, and the last bits of the weights "
            "may differ"
        )
    elif world_size != config.processes and pieces & (pieces - 1):
        progress.note(
            f"the run began with {config.processes} processes and is resumed with {world_size}: "
            f"its batches are in {pieces} pieces, no power of two, so sums are added in another "
            "order and the last bits of the weights may differ"
        )
