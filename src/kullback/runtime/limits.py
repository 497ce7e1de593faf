"""The memory that a machine has, and refusals of what cannot fit before it is allocated."""

from __future__ import annotations

import os
from contextlib import suppress

from kullback.errors import InvalidValueError
from kullback.runtime.control_groups import group_memory

__all__ = ["check_fits", "machine_memory"]


def machine_memory() -> int | None:
    """Bytes of memory that this process may use at most.

    The least of the machine's, the limits of its control groups (a container, a job) and its own.

    None where the system does not say.
    """
    limits: list[int] = []
    with suppress(AttributeError, OSError, ValueError):  # not on Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits += [group.limit for group in group_memory()]
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
