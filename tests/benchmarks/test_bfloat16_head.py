"""The benchmark of heads in bfloat16 in its small form."""

from __future__ import annotations

import sys

import pytest

import bfloat16_head


@pytest.mark.slow
def test_the_small_form_prints_ratios_and_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ratios and four heads; float32 heads and our pass are as exact as is asked for."""
    monkeypatch.setattr(sys, "argv", ["bfloat16_head.py", "--shape", "small", "--rounds", "1"])
    before = bfloat16_head.torch.backends.mkldnn.matmul.fp32_precision
    bfloat16_head.main()
    assert bfloat16_head.torch.backends.mkldnn.matmul.fp32_precision == before
    lines = capsys.readouterr().out.splitlines()
    ratios = [line.split(":")[0] for line in lines if "evaluate /" in line]
    assert ratios == ["evaluate / bare", "evaluate / guide"]

    def error(line: str, kind: str) -> float:
        return float(line.split(f"{kind} ")[1].split()[0])

    errors = {
        " ".join(line.split()[:2]): (error(line, "mean"), error(line, "worst"))
        for line in lines
        if "mean " in line
    }
    heads = {f"head {name}" for name in bfloat16_head.HEADS}
    assert set(errors) == {*heads, "nll of"}
    for name in ("head float32", "nll of"):
        mean, worst = errors[name]
        assert mean <= bfloat16_head.MEAN_GOAL
        assert worst <= bfloat16_head.WORST_GOAL
    assert errors["head rounded"][1] > 1e-4
