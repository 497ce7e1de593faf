"""Tests of kullback.scoring.device_sums: Triton's kernels, in its interpreter on a CPU.

Triton reads TRITON_INTERPRET when it is imported, so the tests run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kullback.predictions.base import (
    ALL,
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
)
from kullback.scoring import device_sums
from kullback.scoring.device_sums import (
    device_kernels,
    start_pair_totals,
    start_token_totals,
)
from kullback.scoring.logit_blocks import WHOLE_ROWS_BYTES

pytest.importorskip("triton", reason="Triton has no wheels for this platform")

CHECKS = Path(__file__).with_name("device_sums_checks.py")


@pytest.mark.slow
def test_the_kernels_give_the_statistics_of_float64() -> None:
    """nll, entropy, rank, top tokens and the four divergences, from tiny KLs to huge ones."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "KULLBACK_COMPILE": "0"}
    result = subprocess.run(
        [sys.executable, str(CHECKS)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "14 checks" in result.stdout


def test_without_a_compiler_the_sums_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton raises RuntimeError where it starts the first kernel; one variable turns it off."""
    started: list[str] = []

    def start(kernels: ModuleType, device: torch.device) -> None:
        started.append(device.type)
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("KULLBACK_COMPILE", raising=False)
    monkeypatch.setattr(device_sums, "_start", start)
    assert device_kernels.__wrapped__("cuda") is None
    assert device_kernels.__wrapped__("cpu") is None
    monkeypatch.setenv("KULLBACK_COMPILE", "0")
    assert device_kernels.__wrapped__("cuda") is None
    assert started == ["cuda"]


class Started:
    """Kernels that sum nothing, and keep what they are started with, by their names."""

    def __init__(self) -> None:
        self.starts: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        class Kernel:
            def __getitem__(self, grid: tuple[int, int]) -> Any:
                return lambda *arguments, **sizes: starts.__setitem__(name, (arguments, sizes))

        starts = self.starts
        return Kernel()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "processor", "lanes"),
    [
        ("cuda", 75, 32),
        ("cuda", 80, 32),
        ("cuda", 90, 32),
        ("cuda", 100, 32),
        ("hip", "gfx942", 64),
    ],
)
def test_the_kernels_compile_for_gpus(
    platform: str, processor: int | str, lanes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Triton compiles what is started, with the types of its arguments, without a GPU."""
    from triton import compile as compiled
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kullback.scoring import triton_kernels

    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    started: Any = Started()
    V = 128_256
    head = Head(torch.zeros(V, 2))
    predictions = FactoredPredictions(torch.zeros(3, 2), head)
    start_pair_totals(started, (predictions, predictions), torch.zeros(3, dtype=torch.int64), V)
    types = {torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}
    assert sorted(started.starts) == ["pair_sums_kernel", "row_sums_kernel", "top_tokens_kernel"]
    for name, (arguments, sizes) in started.starts.items():
        kernel = getattr(triton_kernels, name)
        warps = sizes.pop("num_warps")
        values = dict(zip(kernel.arg_names, arguments, strict=False))
        signature = {
            key: types[value.dtype] if isinstance(value, Tensor) else "i32"
            for key, value in values.items()
        }
        assert [*values, *sizes] == kernel.arg_names
        source = ASTSource(kernel, {**signature, **dict.fromkeys(sizes, "constexpr")}, sizes)
        target = GPUTarget(platform, processor, lanes)
        binary = compiled(source, target, options={"num_warps": warps})
        assert len(binary.asm["cubin" if platform == "cuda" else "hsaco"]) > 1000


class Kernels:
    """Kernels that sum nothing, and ask for the current GPU when they are started."""

    def __init__(self, current: list[str]) -> None:
        self.starts: list[str] = []
        self.row_sums_kernel = self.pair_sums_kernel = self.top_tokens_kernel = self
        self._current = current

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        return lambda *arguments, **sizes: self.starts.append(self._current[-1])


def test_kernels_are_started_on_the_gpu_of_the_predictions(monkeypatch) -> None:
    """Triton starts them on torch's current GPU, which is another in a second process."""
    current = ["cuda:0"]

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        current.append(str(wanted))
        yield
        current.pop()

    own = device_sums._current
    monkeypatch.setattr(torch.cuda, "device", device)
    assert isinstance(own(torch.device("cpu")), nullcontext)
    # What is on the CPU here stands for what is on the second GPU.
    monkeypatch.setattr(device_sums, "_current", lambda _: own(torch.device("cuda:1")))
    kernels: Any = Kernels(current)
    predictions, targets_M = DensePredictions(torch.zeros(3, 7)), torch.zeros(3, dtype=torch.int64)
    start_token_totals(kernels, predictions, targets_M, 0)
    assert kernels.starts == ["cuda:1"]
    start_pair_totals(kernels, (predictions, predictions), targets_M, 7)
    assert kernels.starts == ["cuda:1"] * 6
    assert current == ["cuda:0"]


def test_padding_that_is_not_there_is_not_asked_for() -> None:
    """Logits of no columns would let llama.cpp read a window again."""
    asked: list[int] = []

    class Counted(ComputedPredictions):
        def logits(self, rows: slice, columns: slice = ALL) -> Tensor:
            logits_BW = super().logits(rows, columns)
            asked.append(logits_BW.shape[1])
            return logits_BW

    first, second = (
        Counted(torch.arange(3), V, lambda rows_B, V=V: torch.zeros(len(rows_B), V)) for V in (7, 9)
    )
    targets_M, kernels = torch.zeros(3, dtype=torch.int64), Kernels(["cuda:0"])
    device_sums._pair_columns(kernels, (first, second), targets_M, 7)
    assert asked == [7, 7, 2]


@pytest.mark.parametrize("first", [True, False])
def test_rows_of_the_wider_vocabulary_are_asked_for_in_its_own_chunks(first: bool) -> None:
    """A model that computes whole rows is asked for few, whether it is the reference or not."""
    M, V, rows = 900, 200_000, []

    def whole(rows_B: Tensor) -> Tensor:
        rows.append(len(rows_B))
        return torch.zeros(1, V).expand(len(rows_B), V)

    factored = FactoredPredictions(torch.zeros(M, 2), Head(torch.zeros(7, 2)))
    models = [ComputedPredictions(torch.arange(M), V, whole), factored]
    pair = (models[0], models[1]) if first else (models[1], models[0])
    kernels: Any = Kernels(["cuda:0"])
    device_sums._pair_columns(kernels, pair, torch.zeros(M, dtype=torch.int64), 7)
    assert sum(rows) == 2 * M  # of the columns that are compared, and of the others
    assert max(rows) <= WHOLE_ROWS_BYTES // (4 * V)
