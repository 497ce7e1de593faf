"""How much more memory this process may take: the machine's, its control group's, its limits'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["available_memory", "free_on"]

_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can be allocated now without swapping, as far as the system says so.

    The least of what is free on the machine, in the control group (version 2), and under the
    process's own limits of data and of address space (``ulimit -d``, ``ulimit -v``).

    >>> available_memory() > 0
    True
    """
    known = [_of_machine(), _of_group(), *_of_limits()]
    return max(0, min(size for size in known if size is not None))


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
    free = _field(Path("/proc/meminfo"), "MemAvailable:")
    if free is not None:
        return free
    # Half of all memory, where the system does not say what is free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _of_group() -> int | None:
    try:
        inside = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        folder = _GROUP / inside
        folder = folder if (folder / "memory.max").is_file() else _GROUP
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        cached = _field(folder / "memory.stat", "file")
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used + (cached or 0)


def _of_limits() -> list[int]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    left = []
    for limit, field in ((resource.RLIMIT_DATA, "VmData:"), (resource.RLIMIT_AS, "VmSize:")):
        soft, _ = resource.getrlimit(limit)
        used = _field(Path("/proc/self/status"), field)
        if soft != resource.RLIM_INFINITY and used is not None:
            left.append(soft - used)
    return left


def _field(path: Path, name: str) -> int | None:
    """A number in a file of lines of a name, a number, and perhaps its unit kB."""
    try:
        for line in path.read_text().splitlines():
            key, *values = line.split()
            if key == name:
                return int(values[0]) * (1024 if values[1:] == ["kB"] else 1)
    except (OSError, ValueError, IndexError):
        return None
    return None
