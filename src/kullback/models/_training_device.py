"""The device that a training is given, and the type of its products there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.distributed import is_nccl_available

from kullback.errors import InvalidValueError
from kullback.models.devices import best_device, check_device, check_dtype, own_device
from kullback.runtime.ranks import process_count
from kullback.runtime.workers import own_cores
from kullback.training.config import DTYPES, RANGES, TrainingConfig

__all__ = ["Hardware", "device_of_resumed", "training_hardware"]

TYPES = ("auto", *DTYPES)


@dataclass(frozen=True)
class Hardware:
    """A device that tensors can be put on, and a type that it multiplies."""

    device: torch.device
    dtype: str
    """auto on a CPU, where a probe chooses it."""

    @property
    def first_dtype(self) -> str:
        """The type before the probe."""
        return "float32" if self.dtype == "auto" else self.dtype

    def shards(self, threads: int | None) -> int:
        """The threads that each process a shard: 2 on a CPU with as many cores for this process.

        Else 1.  Raises `InvalidValueError` for several on an accelerator, which processes
        a batch at once.
        """
        if threads is None:
            return min(TrainingConfig.shards, own_cores()) if self.device.type == "cpu" else 1
        RANGES["shards"].check("threads", threads)
        if self.device.type != "cpu" and threads != 1:
            raise InvalidValueError(
                f"threads (--threads) is {threads}: {self.device} processes a batch at once; "
                "remove it, or give --accumulate, whose parts are one after another"
            )
        return threads


@contextmanager
def training_hardware(
    device: torch.device | str, dtype: torch.dtype | str = "auto"
) -> Iterator[Hardware]:
    """The device of this process, torch's current one inside; "auto" as in `kullback.evaluate`.

    "auto" is bfloat16 on an accelerator that multiplies it, and float32 on others.  Raises
    `InvalidValueError` for a device that is not here, and a type that is unknown or not there.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in TYPES:
        raise InvalidValueError(
            f"dtype (--dtype) is {name!r:.60}: training multiplies in {' or '.join(DTYPES)}; give "
            "one of these, or auto"
        )
    own = _device_of_process(device)
    check_device(own)
    if own.type == "cuda" and own.index is None:
        own = torch.device("cuda", torch.cuda.current_device())
    if name == "bfloat16" and not _multiplies_bfloat16(own):
        raise InvalidValueError(
            f"dtype (--dtype) is bfloat16, in which {own} has no arithmetic: give float32, or "
            "resume a run that began in bfloat16 on another device (--device)"
        )
    elif name == "auto" and own.type != "cpu":
        name = "bfloat16" if _multiplies_bfloat16(own) else "float32"
    with torch.cuda.device(own) if own.type == "cuda" else nullcontext():
        yield Hardware(own, name)


def _device_of_process(device: torch.device | str) -> torch.device:
    """The device that is meant; of several processes one that they can exchange tensors on."""
    if process_count("WORLD_SIZE") == 1:
        return best_device() if device == "auto" else own_device(device)
    if device == "auto":
        best = best_device()
        return best if best.type == "cuda" and is_nccl_available() else torch.device("cpu")
    own = own_device(device)
    if own.type == "cuda" and torch.device(device).index is not None:
        raise InvalidValueError(
            f"device (--device) is {device}, and torchrun starts several processes, each of which "
            "needs a GPU of its own: give cuda, and choose the GPUs by CUDA_VISIBLE_DEVICES"
        )
    if own.type not in ("cpu", "cuda"):
        raise InvalidValueError(
            f"device (--device) is {device}, on which the processes of torchrun cannot exchange "
            "gradients: give cpu, or start one process"
        )
    return own


def device_of_resumed(recorded: str) -> str:
    """The kind of device that a run began on, where it is here; else "auto"."""
    try:
        check_device(own_device(recorded))
    except InvalidValueError:
        return "auto"
    return recorded


def _multiplies_bfloat16(device: torch.device) -> bool:
    try:
        check_dtype(torch.bfloat16, device)
    except InvalidValueError:
        return False
    return True
