"""Progress of the lab in a terminal and in a pipe."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from kullback.report.terminal.lab_progress import LabDisplay
from kullback.results.training import StepMetrics


def metrics(step: int) -> StepMetrics:
    """Values that a line can be searched for."""
    return StepMetrics(
        step=step,
        tokens=1000 * step,
        cross_entropy=1.25,
        entropy=1.0,
        kl=0.25,
        kl_standard_error=0.0125,
        tokens_per_second=12_345.0,
        seconds_left=83.0,
        learning_rate=0.01,
    )


def shown(width: int, terminal: bool) -> str:
    """A short lab, without a terminal's control codes."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True)
    with LabDisplay(console, steps=50, floor=1.0) as display:
        display.plan(3)
        display.stage("building the language")
        display.stage("training for 50 steps")
        for step in range(1, 51):
            display.step(metrics(step))
        display._bars.refresh()
        display.stage("quantising to int8, int4-g32, int2-g32")
        display.tokens(1, 3)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_stage_and_loss_are_shown_and_no_line_wraps(terminal):
    """The stage with its number, with step, cross-entropy, floor, KL, and speed or time left."""
    text = shown(80, terminal)
    for part in (
        "stage 2 of 3", "training for 50 steps", "stage 3 of 3", "int2-g32", "step 50",
        "CE 1.2500", "floor 1.0000", "KL 0.25000 ± 0.01250 nats/token",
        "12,345 tokens/s" if terminal else "1:23 left",
    ):  # fmt: skip
        assert part in text, part
    assert max(cell_len(line) for line in re.split("[\r\n]", text)) <= 80


def test_a_pipe_gets_a_line_now_and_then():
    """Outside of a terminal only the first and the last of many quick steps are lines."""
    lines = [line.strip() for line in shown(80, terminal=False).splitlines()]
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == [
        "step 1",
        "step 50",
    ]
