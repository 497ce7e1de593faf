"""Checks of training on a GPU: ``PYTHONPATH=tests python tests/training/device_checks.py [cuda]``.

Loss and gradients against float64 on the CPU, a resumed run, and then tokens per second and memory
in float32 and bfloat16, one operation at a time and compiled.  Fails where numbers differ, and
where a step makes the host wait.  A test runs it on the CPU with torch's operations, where models
are tiny and nothing is timed that matters.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from interrupted_runs import CONFIG
from kullback.models.devices import check_device, own_device
from kullback.runtime.progress import Progress
from kullback.runtime.threads import workers
from kullback.training.arithmetic import CPU, Arithmetic
from kullback.training.batches import Shard
from kullback.training.compilation import without_compilation_where_it_fails
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.loss import losses
from kullback.training.packed_attention import PackedLayout
from kullback.training.replicas import ALONE, Replicas
from kullback.training.state import TrainingState
from kullback.training.steps import check_pending_step, train_step
from tiny_runs import metrics_but_times, sizes, weather

# Relative differences of the loss and of a parameter's gradient from float64 on a CPU.
TOLERANCES = {"float32": (1e-5, 1e-3), "bfloat16": (1e-2, 5e-2)}
STEPS = 10


class Printed(Progress):
    """Prints notes."""

    def note(self, text: str) -> None:
        """Print it."""
        print(f"note: {text}")


def shard(vocabulary_size: int, lengths: list[int]) -> Shard:
    """Random sequences of these lengths."""
    lengths_N = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary_size, (2, sum(lengths)), generator=generator)
    return Shard(tokens[0], tokens[1], None, PackedLayout.of(lengths_N), lengths_N.numpy())


def loss_and_gradients(gpt: GPT, batch: Shard) -> list[Tensor]:
    """The mean loss of a shard, then its gradients, in float64 on the CPU."""
    loss, _ = losses(gpt, batch, 1 / len(batch.targets_M))
    values = [loss.detach(), *torch.autograd.grad(loss, list(gpt.parameters()))]
    return [value.cpu().double() for value in values]


def check_gradients(device: torch.device) -> None:
    """Rows of one length, padded ones and long ones, in both types."""
    sizes_of_model = GPTConfig(997, 300, width=96, layers=3, heads=3, mlp_width=256)
    for lengths in ([64] * 8, [9, 23, 17, 5], [300, 40]):
        batch = shard(997, lengths)
        exact = loss_and_gradients(GPT(sizes_of_model, seed=1).double(), batch)
        for dtype, tolerances in TOLERANCES.items():
            gpt = GPT(sizes_of_model, seed=1)
            gpt.compute_with(Arithmetic(device, dtype == "bfloat16", accelerated=True))
            ours = loss_and_gradients(gpt, batch)
            pairs = zip(ours, exact, strict=True)
            loss, *gradients = (float((a - b).norm() / b.norm()) for a, b in pairs)
            print(
                f"{dtype:9} rows of {lengths[0]}: loss {loss:.1e}, gradients {max(gradients):.1e}"
            )
            assert loss < tolerances[0]
            assert max(gradients) < tolerances[1]


def check_resume(device: torch.device, folder: Path) -> None:
    """A run that is interrupted has the curve of one that is not, and is resumed on a CPU too."""
    batches = weather(folder)

    def begin(name: str, stop_at: int | None = None) -> Path:
        run = folder / name
        try:
            train(run, batches, sizes(batches), config, stop_at=stop_at, device=device)
        except Interrupted:
            assert stop_at is not None
        return run

    for dtype in TOLERANCES:
        config = replace(CONFIG, steps=20, dtype=dtype, shards=1)
        whole = metrics_but_times(begin(f"whole-{dtype}"))
        for place in dict.fromkeys((device, CPU)):
            half = begin(f"half-{dtype}-{place.type}", stop_at=13)
            resume(half, progress=Printed(), device=place)
            lines = metrics_but_times(half)
            pairs = zip(lines, whole, strict=True)
            difference = max(abs(a["cross_entropy"] - b["cross_entropy"]) for a, b in pairs)
            print(f"{dtype:9} resumed on {place.type}: the curve differs by {difference:.1e}")
            assert difference < (1e-3 if dtype == "float32" else 3e-2)


def check_speed(device: torch.device, gpt: GPTConfig, windows: int) -> None:
    """Tokens per second, the memory at the peak, and the loss after a few steps of one batch."""
    batch = shard(gpt.vocabulary_size, [gpt.context] * windows).on(device)
    ends = {}
    for dtype in TOLERANCES:
        for compiled in (False, True):
            config = TrainingConfig(
                shards=1, dtype=dtype, compiled=compiled, device=device.type, warmup_steps=0
            )
            state = TrainingState.begin(gpt, config, device)
            if compiled:
                began = time.perf_counter()
                reason = without_compilation_where_it_fails(state, batch, Replicas(ALONE))
                said = reason or f"{time.perf_counter() - began:.1f} s"
                print(f"{dtype:9} compilation: {said}")
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds, end = timed(state, batch)
            if device.type == "cuda":
                assert synchronisations(state, batch) == 0, "a step makes the host wait"
            memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            kind = "compiled" if compiled else "eager"
            print(
                f"{dtype:9} {kind:8}: {len(batch.targets_M) / seconds:12,.0f} tokens/s, "
                f"{memory / 1e9:5.1f} GB, loss {end:.4f} after {state.step} steps"
            )
            ends[dtype, kind] = end
    for key, end in ends.items():
        assert abs(end - ends["float32", "eager"]) < 0.05 * ends["float32", "eager"], key


def timed(state: TrainingState, batch: Shard) -> tuple[float, float]:
    """Seconds of a step after the first three, and the loss of the last one."""
    began = time.perf_counter()
    with workers(1) as pool:
        for step in range(3 + STEPS):
            if step in (3, 2 + STEPS):
                check_pending_step(state, Replicas(ALONE))
                state.recent = type(state.recent)()
            if step == 3:
                began = time.perf_counter()
            train_step(state, [batch], pool, Replicas(ALONE))
        check_pending_step(state, Replicas(ALONE))
        if state.model.arithmetic.device.type == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS, state.recent.cross_entropy


def synchronisations(state: TrainingState, batch: Shard) -> int:
    """How many operations of a step make the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught, workers(1) as pool:
            warnings.simplefilter("always")
            train_step(state, [batch], pool, Replicas(ALONE))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        print(f"{warning.filename}:{warning.lineno}: {warning.message}")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def check(name: str, gpt: GPTConfig, windows: int) -> None:
    """All checks; AssertionError where one fails."""
    device = own_device(name)
    check_device(device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
        print(torch.cuda.get_device_name(device), f"torch {torch.__version__}")
        assert not torch.backends.cuda.matmul.allow_tf32
    began = time.perf_counter()
    check_gradients(device)
    with tempfile.TemporaryDirectory() as folder:
        check_resume(device, Path(folder))
    check_speed(device, gpt, windows)
    print(f"all pass, {time.perf_counter() - began:.0f} s")


LARGE = GPTConfig(16_384, 512, width=768, layers=6, heads=12, mlp_width=2048)

if __name__ == "__main__":
    check(sys.argv[1] if len(sys.argv) > 1 else "cuda", LARGE, windows=16)
