"""Freed memory: kept inside the scope, given back after it, and not changed by loading a model."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from kullback.models.load import load_text_model
from kullback.runtime import memory
from kullback.runtime.workers import ProcessGroup

# A process of its own, because malloc's settings are those of a process.
HEADER = """
from pathlib import Path
import torch
from kullback.runtime.memory import kept_freed_memory

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6

def use_and_free():
    torch.zeros(200_000_000, dtype=torch.uint8)
    return resident() - before

use = torch.zeros(1)
before = resident()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def _no_scope_of_a_stopped_pass() -> None:
    """A pass that another test stopped is in a cycle with its traceback, and holds the scope."""
    gc.collect()


def run(code: str) -> list[float]:
    """Run code in another process; return the numbers that it prints."""
    command = [sys.executable, "-c", HEADER + code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in result.stdout.split()]


def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    """Of 200 MB that are freed, all are kept inside the scope (with glibc), and none outside."""
    outside, glibc, inside, after, again = run(
        "print(use_and_free())\n"
        "with kept_freed_memory() as kept, kept_freed_memory():\n"
        "    print(int(kept), use_and_free())\n"
        "print(resident() - before, use_and_free())\n"
    )
    assert outside < 50
    assert (inside > 150) == bool(glibc)
    assert after < 50
    assert again < 50


@pytest.mark.slow
def test_freed_memory_between_small_blocks_is_given_back() -> None:
    """200 MB that are freed between small blocks stay by default, and do not inside the scope."""
    inside, default = run(
        "from kullback.runtime.memory import returned_freed_memory\n"
        "def between():\n"
        "    blocks = [(torch.ones(5_000_000), torch.ones(99)) for _ in range(10)]\n"
        "    return [small for _, small in blocks]\n"
        "with returned_freed_memory():\n"
        "    kept = between()\n"
        "    print(resident() - before)\n"
        "kept += between()\n"
        "print(resident() - before)\n"
    )
    assert inside < 20
    assert default > inside + 20


def test_what_ended_threads_have_freed_is_given_back() -> None:
    """Of 80 MB that two threads have freed, hardly any stays, where `malloc_trim` leaves most."""
    returned = run(
        "import ctypes, threading\n"
        "from kullback.runtime.memory import empty_cache, trim_arenas\n"
        "import kullback.runtime.memory as memory\n"
        "def allocate():\n"
        "    wait.wait()\n"
        "    blocks = [torch.ones(10_000) for _ in range(1_000)]\n"
        "    wait.wait()\n"
        "wait = threading.Barrier(2)\n"
        "with kept_freed_memory() as kept:\n"
        "    threads = [threading.Thread(target=allocate) for _ in range(2)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "empty_cache(torch.device('cpu'))\n"
        "trim_arenas()\n"
        "print(resident() - before)\n"
    )
    assert max(returned) < 10


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_threads_that_cannot_start_keep_nothing_waiting(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory is returned then, and Ctrl-C ends the program: no thread waits for the others."""
    started: list[threading.Thread] = []

    class Limited(threading.Thread):
        """The third one does not start."""

        def start(self) -> None:
            if len(started) == 2:
                raise error
            super().start()
            started.append(self)

    monkeypatch.setattr(memory, "Thread", Limited)
    with nullcontext() if isinstance(error, RuntimeError) else pytest.raises(KeyboardInterrupt):
        memory.trim_arenas()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
    assert len(started) == 2


def test_memory_is_not_given_back_inside_the_scope() -> None:
    """What is kept for the next step of a training that another thread does stays kept."""
    kept, inside = run(
        "from kullback.runtime.memory import trim_arenas\n"
        "with kept_freed_memory() as kept:\n"
        "    use_and_free()\n"
        "    trim_arenas()\n"
        "    print(int(kept), resident() - before)\n"
    )
    assert (inside > 150) == bool(kept)


def test_freed_memory_is_used_again() -> None:
    """Inside the scope a block that is freed and allocated again soon costs no page faults."""
    (faults,) = run(
        "import resource\n"
        "with kept_freed_memory() as kept:\n"
        "    for _ in range(10): use_and_free()\n"
        "    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10): use_and_free()\n"
        "    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first\n"
        "print(faults if kept else 0)\n"
    )
    assert faults < 200


def test_loading_a_model_leaves_malloc_alone(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is loaded and predicts without a call of `mallopt`; a pass over windows has one."""

    def keep(library: object) -> None:
        raise RuntimeError("mallopt is called")

    monkeypatch.setattr(memory, "_keep", keep)
    monkeypatch.setattr(memory, "_glibc", object)
    model = load_text_model(str(tiny_llama_folder))
    assert len(model.predict(torch.arange(5)[None])) == 5
    with pytest.raises(RuntimeError, match="mallopt"):
        list(ProcessGroup().map(str, range(3)))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
        "MPS backend out of memory (MPS allocated: 1 GB)",
    ],
)
def test_libraries_without_a_class_of_errors_for_it(message: str) -> None:
    """cuBLAS, Windows and Apple's GPU say in a RuntimeError that the memory is too small."""
    assert memory.is_out_of_memory(RuntimeError(message))
    assert not memory.is_out_of_memory(ValueError(message))
