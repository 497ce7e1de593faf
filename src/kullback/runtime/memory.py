"""Blocks of memory that the C library keeps for reuse, and errors of a memory that is too small.

Every layer of a model that reads allocates and frees tensors of megabytes.  glibc maps each of them
anew, so that the kernel clears its pages at the first access: for SmolLM2-135M in float32, two
windows of 1,024 at a time, 140,000 page faults a window and 8 % of the time.

Inside `kept_freed_memory` glibc keeps freed blocks.  The setting is one of the whole process;
afterwards its two thresholds have the largest values that glibc itself chooses.  (Any process that
has freed a block of 32 MB, as loading a model does, has these.)  Only glibc's own adjustment of the
thresholds, which setting them ends, cannot be switched on again.

The number of arenas (`M_ARENA_MAX`) is left alone: it cannot be put back, and changes neither the
time nor the number of page faults.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from threading import Barrier, BrokenBarrierError, Thread

import torch

from kullback.runtime.scopes import is_held, shared_scope
from kullback.runtime.threads import cores

__all__ = [
    "causes",
    "empty_cache",
    "is_out_of_memory",
    "kept_freed_memory",
    "lacks_memory",
    "returned_freed_memory",
    "trim_arenas",
]

# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP = {M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 2**31 - 1}
# DEFAULT_MMAP_THRESHOLD_MAX of malloc.c on 64 bits, and twice it: where glibc's adjustment ends.
GIVE_BACK = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
# A block that makes glibc look at the end of its arena when it is freed (at least 64 KB), and that
# is in an arena (below 128 KB).
IN_ARENA = 100_000

# What torch says where the memory of a CPU, or of Apple's GPU, has no space for a tensor; it has a
# class of errors for the memory of the other accelerators only.
# "ALLOC_FAILED" is what cuBLAS and cuDNN say, "not enough memory" Windows.
OUT_OF_MEMORY = (
    "can't allocate memory", "out of memory", "bad_alloc", "not enough memory", "_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed because the memory is too small.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in OUT_OF_MEMORY)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is that of a memory that is too small.

    >>> error = ValueError("the model cannot be loaded")
    >>> error.__cause__ = MemoryError()
    >>> lacks_memory(error), lacks_memory(ValueError())
    (True, False)
    """
    return any(map(is_out_of_memory, causes(error)))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    following: BaseException | None = error
    while following is not None:
        yield following
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context


def empty_cache(device: torch.device) -> None:
    """Give blocks that are kept for reuse back to an accelerator, or of a CPU to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cpu" and (library := _glibc()) is not None:
        library.malloc_trim(0)  # in the arenas of all threads


def trim_arenas() -> None:
    """Give what is free in the memory of any thread back to the system; not in `kept_freed_memory`.

    `malloc_trim` leaves the end of every arena but the main one: that is given back where a block
    is freed beside it.  Each new thread takes the arena of one that has ended, if there is any, so
    some threads are started that allocate a block and free it.
    """
    library = _glibc()
    if library is None or is_held("malloc"):
        return
    count = 2 * cores() + 2
    all_have_begun, all_have_one = Barrier(count), Barrier(count)

    def free_a_block() -> None:
        with suppress(BrokenBarrierError):
            all_have_begun.wait()
        block = library.malloc(IN_ARENA)
        with suppress(BrokenBarrierError):
            all_have_one.wait()
        library.free(block)

    library.mallopt(M_TRIM_THRESHOLD, IN_ARENA)
    threads = [Thread(target=free_a_block, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # The system gives no more threads, and memory that is not returned is no error; or Ctrl-C.
    except BaseException as error:
        all_have_begun.abort()
        all_have_one.abort()
        if not isinstance(error, RuntimeError):
            raise
    finally:
        _set_thresholds(library, GIVE_BACK)
    library.malloc_trim(0)


@contextmanager
def kept_freed_memory() -> Iterator[bool]:
    """Keep freed blocks of up to 1 GB for reuse inside; yields whether the C library is glibc.

    The memory in use at the peak is the same; memory that is free between peaks is returned to the
    system when the last thread leaves.  (What is free at the end of the arenas of threads that have
    ended is kept for the next threads, or until `trim_arenas`.)
    """
    library = _glibc()
    if library is None:
        yield False
        return
    with shared_scope("malloc", lambda: _keep(library)):
        yield True


@contextmanager
def returned_freed_memory() -> Iterator[None]:
    """Give blocks of a megabyte or more back to the system as soon as they are freed, inside.

    glibc would keep them between smaller blocks that are in use, as it does by default up to 32 MB:
    a sharded model, whose weights are gathered and freed block by block, then took 2.5 times the
    memory of its tensors.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _give_back(library)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    return library


def _keep(library: ctypes.CDLL) -> Callable[[], None]:
    """Keep freed blocks; what is returned ends that."""
    _set_thresholds(library, KEEP)
    return partial(_give_back, library)


def _give_back(library: ctypes.CDLL) -> None:
    """Give freed blocks back to the system, those of now and of later."""
    _set_thresholds(library, GIVE_BACK)
    library.malloc_trim(0)


def _set_thresholds(library: ctypes.CDLL, values: Mapping[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)
