"""How much more memory this process may take: the machine's, its control group's, its limits'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.runtime.control_groups import group_memory, number_in

if TYPE_CHECKING:
    import torch

__all__ = ["available_memory", "free_on"]


def available_memory() -> int:
    """Bytes that can be allocated now without swapping, as far as the system says so.

    The least of what is free on the machine, in the process's control groups, and under its own
    limits of data and of address space (``ulimit -d``, ``ulimit -v``).

    >>> available_memory() > 0
    True
    """
    of_groups = [group.free for group in group_memory()]
    return max(0, min([_of_machine(), *of_groups, *_of_limits()]))


def free_on(device: torch.device) -> int | None:
    """Bytes that tensors on `device` can take now; None where that is unknown.

    What torch keeps of a GPU for reuse counts as free.
    """
    if device.type in ("cpu", "mps"):  # Apple's GPU shares the machine's
        return available_memory()
    if device.type != "cuda":
        return None
    from torch import cuda

    kept = cuda.memory_reserved(device) - cuda.memory_allocated(device)
    return int(cuda.mem_get_info(device)[0] + kept)


def _of_machine() -> int:
    free = number_in(Path("/proc/meminfo"), "MemAvailable:")
    if free is not None:
        return free
    # Half of all memory, where the system does not say what is free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _of_limits() -> list[int]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    left = []
    for limit, field in ((resource.RLIMIT_DATA, "VmData:"), (resource.RLIMIT_AS, "VmSize:")):
        soft, _ = resource.getrlimit(limit)
        used = number_in(Path("/proc/self/status"), field)
        if soft != resource.RLIM_INFINITY and used is not None:
            left.append(soft - used)
    return left
