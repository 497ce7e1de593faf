"""Tests of kullback.scoring.device_sums: Triton's kernels, in its interpreter on a CPU.

Triton reads TRITON_INTERPRET when it is imported, so the tests run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kullback.scoring import device_sums
from kullback.scoring.device_sums import device_kernels

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
    assert "13 checks" in result.stdout


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
