"""Progress of training in a terminal and in a pipe."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from kullback.report.terminal.training import TrainingDisplay
from kullback.training.metrics import StepMetrics


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


@pytest.mark.parametrize(
    ("terminal", "width"), [(False, 140), (False, 80), (True, 140), (True, 80)]
)
def test_progress_says_everything_that_matters(terminal, width):
    """Step, speed, time left, cross-entropy, floor, and KL with its standard error."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True)
    with TrainingDisplay(console, 10, floor=1.0) as display:
        display.show(metrics(10))
    assert isinstance(console.file, io.StringIO)
    text = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).split())
    for part in ("10/10", "12,345 tokens/s", "1:23 left", "1.2500", "floor 1.0000", "± 0.01250"):
        assert part in text


def test_a_pipe_gets_a_line_now_and_then():
    """Outside of a terminal only the first and the last of many quick steps are lines."""
    console = Console(file=io.StringIO(), width=140)
    with TrainingDisplay(console, 50, floor=None) as display:
        for step in range(1, 51):
            display.show(metrics(step))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/50", "50/50"]
    assert "floor" not in lines[0]
