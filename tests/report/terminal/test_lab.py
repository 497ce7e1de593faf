"""What the terminal shows of training, a source and a lab."""

from __future__ import annotations

import io
import math
import re

import pytest
from lab_samples import lab_results
from rich.console import Console

from kullback.report.terminal.lab import TrainingDisplay, lab_summary, slot_table, source_table
from kullback.training.loop import StepMetrics
from tiny_runs import weather


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


def shown(*parts: object, terminal: bool = False) -> str:
    """What a console of 120 columns prints."""
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


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


def test_a_source_shows_its_exact_entropies(tmp_path):
    """The floor to nine decimals, the number of sentences and every slot."""
    language = weather(tmp_path).source.training
    text = shown(source_table("weather", language))
    assert f"{language.entropy_per_token:.9f} nats/token" in text
    assert f"{language.number_of_sentences:,}" in text
    assert all(slot in text for slot in language.entropy_by_slot())


def test_a_lab_shows_the_identity_and_every_table():
    """CE = H + KL on top, then models, minimal pairs, quantisations and where the files are."""
    results = lab_results()
    text = shown(lab_summary(results, {"report": "lab/report.html"}))
    assert "0.610000 = 0.600000 + 0.010000 nats/token, exact over 1,234 prefixes" in text
    for part in ("mini-GPT", "3-gram", "held out", "87.50%", "int4", "+0.050000", "500,000"):
        assert part in text
    assert "report: lab/report.html" in text
    assert f"{math.inf:.6f}" in text
    assert "0.050000" in shown(slot_table(results["evaluations"][0]))
