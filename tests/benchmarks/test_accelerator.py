"""The benchmark of accelerators in its small form on a CPU: its checks, and what it times."""

from __future__ import annotations

import sys

import pytest

import accelerator


@pytest.mark.slow
def test_the_small_form_runs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every check holds, every job has a rate and a peak, and every scheme a KL above 0."""
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--device", "cpu", "--rounds", "1"])
    accelerator.main()
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("  ok ")]) == 6
    assert not [line for line in lines if "MISS" in line]
    rates = {line.split()[0] for line in lines if "tokens/s, " in line}
    assert rates == {"bare", "guide", "evaluate", "two", "compare", "short"}
    memory = [
        float(line.split("tokens/s, ")[1].split()[0]) for line in lines if "tokens/s, " in line
    ]
    if sys.platform == "linux":
        assert all(0 <= value < 1 for value in memory)
    kl = [float(line.split("mean KL ")[1].split()[0]) for line in lines if "nats/token," in line]
    assert len(kl) == 3
    assert all(0 < value < 1 for value in kl)
