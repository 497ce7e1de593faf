"""The memory that a machine has, and refusals of what cannot fit before it is allocated."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["check_fits", "machine_memory"]

# The limit of a container, in the two versions of Linux's control groups.
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int | None:
    """Bytes of memory that this process may use at most: the machine's, the container's, its own.

    None where the system does not say.
    """
    limits: list[int] = []
    with suppress(AttributeError, OSError, ValueError):  # not on Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _CGROUPS:
        with suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(Path(name).read_text(encoding="ascii")))
    with suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    limits = [limit for limit in limits if limit > 0]
    return min(limits) if limits else None


def check_fits(
    size: float,
    what: str,
    remedy: str = "the file is damaged, or it needs a larger machine",
) -> None:
    """Raise `InvalidValueError` where `size` bytes are more than the memory of this machine.

    >>> check_fits(10**18, "a vocabulary of 10^9 tokens")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: a vocabulary of 10^9 tokens would take 1,000,000,000.0 GB...
    """
    memory = machine_memory()
    if memory is not None and size > memory:
        raise InvalidValueError(
            f"{what} would take {size / 1e9:,.1f} GB of memory, and this process has "
            f"{memory / 1e9:,.1f} GB: {remedy}"
        )
