"""Keep the memory of activations between layers, where the C library would give it back.

Every layer allocates and frees tensors of megabytes.  glibc maps each of them anew, so that the
kernel zeroes its pages at the first touch: for SmolLM2-135M in float32, two windows of 1,024 at a
time, 140,000 page faults a window and 8 % of the time.

Threads share one arena: with one each, what a thread has freed is of no use to the others, and the
peak above a model of 262,144 words was 350 to 1,060 MB in some runs where 110 to 170 are in use.
What is freed *while loading* is large and of no use later: so memory is kept from then on.
"""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 1 GB for reuse; whether the C library can.

    It is a setting of the whole process and stays until it ends.  The memory in use at the peak is
    the same; what is free between peaks is not returned to the system.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
    done = [bool(mallopt(name, value)) for name, value in wanted.items()]
    return all(done)
