"""The checks for a person with a GPU, on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_checks import check_gradients, check_resume, check_speed

from kullback.training import arithmetic
from kullback.training.arithmetic import CPU
from kullback.training.gpt_config import GPTConfig


@pytest.mark.slow
def test_the_checks_pass_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With torch's operations, as on a GPU; without a compiler, which takes long."""
    monkeypatch.setattr(arithmetic, "ACCELERATED_ON_CPU", True)

    def broken() -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("kullback.training.gpt.compiled_block", broken)
    check_gradients(CPU)
    check_resume(CPU, tmp_path)
    check_speed(CPU, GPTConfig(50, 16, width=16, layers=2, heads=2, mlp_width=32), windows=2)
    printed = capsys.readouterr().out
    for part in ("resumed on cpu", "compilation: no compiler", "tokens/s"):
        assert part in printed
