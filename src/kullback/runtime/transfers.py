"""Copies between the host and a GPU that wait for no other work of the GPU.

From memory that may be paged out a copy waits until the GPU has done all that it was given before,
and the GPU then waits for the host.  So copies go through pinned memory, which torch keeps for
reuse.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["start_to_host", "to_device"]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; the host continues while they are copied to a GPU."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def start_to_host(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy to the host; what is returned waits for the values.

    >>> start_to_host(torch.ones(2))()
    tensor([1., 1.])
    """
    if values.device.type != "cuda":
        on_host = values.cpu()
        return lambda: on_host
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    pinned.copy_(values, non_blocking=True)
    copied = torch.cuda.current_stream(values.device).record_event()

    def wait() -> Tensor:
        copied.synchronize()
        return pinned

    return wait
