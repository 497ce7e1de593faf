"""Training in the terminal: progress, and the table at its end."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console

from kullback.report import plain_text
from kullback.report.terminal.training import TrainingDisplay
from kullback.results.measurement import Measurement
from kullback.results.training import NgramBaseline, StepMetrics, TrainingRun, TrainingSeconds

FIRST = StepMetrics(
    step=1,
    tokens=1000,
    cross_entropy=1.25,
    entropy=1.0,
    kl=0.25,
    kl_standard_error=0.0125,
    tokens_per_second=12_345.0,
    seconds_left=83.0,
    learning_rate=0.01,
)
LAST = replace(FIRST, step=10)


def shown(console: Console) -> list[str]:
    """Return the lines that a console has printed, without control sequences."""
    assert isinstance(console.file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def display(metrics: list[StepMetrics], steps: int, floor: float | None, **settings: object):
    """Return what is shown of a run of `steps` with these lines of metrics."""
    console = Console(file=io.StringIO(), no_color=True, **settings)  # type: ignore[arg-type]
    with TrainingDisplay(console) as training:
        training.stage("reading the text")
        training.begin(steps, floor)
        for line in metrics:
            training.step(line)
        training.note("a remark")
    return shown(console)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_says_everything_that_matters(terminal: bool) -> None:
    """Steps, speed, time left, cross-entropy, floor, and KL with its standard error."""
    lines = display([FIRST, LAST], 10, 1.0, width=80, force_terminal=terminal)
    text = " ".join(lines)
    for part in ("12,345 tokens/s", "1:23 left", "1.2500", "floor 1.0000", "± 0.01250", "a remark"):
        assert part in text
    assert re.search(r"10(/| of )10\b", text)


@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_is_wrapped_or_cut_at_80_columns(terminal: bool) -> None:
    """Large numbers keep every line within 80 columns, and none is cut."""
    large = replace(
        LAST, step=20_000, cross_entropy=12.3456, tokens_per_second=1_234_567, seconds_left=36_000
    )
    lines = display([large], 20_000, 11.2345, width=80, force_terminal=terminal)
    assert all(len(line) <= 80 and "…" not in line for line in lines), lines
    assert any("10:00:00 left" in line for line in lines)
    assert any("KL 0.25000 ± 0.01250" in line for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_begins_without_the_losses_of_the_one_before(terminal: bool) -> None:
    """The display of a ladder is that of one run after another."""
    console = Console(file=io.StringIO(), no_color=True, width=80, force_terminal=terminal)
    first = replace(FIRST, kl=None, entropy=None, validation_cross_entropy=5.4321)
    with TrainingDisplay(console) as training:
        for metrics in (first, replace(first, validation_cross_entropy=None)):
            training.begin(1, None)
            training.step(metrics)
    last = [line for line in shown(console) if "1.25" in line][-1]
    assert "5.4321" not in last


def test_a_pipe_gets_a_line_every_few_seconds() -> None:
    """Outside of a terminal only the first and the last of many quick steps are lines."""
    metrics = [replace(FIRST, step=step, kl=None) for step in range(1, 51)]
    lines = display(metrics, 50, None, width=140)
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["1/50,", "50/50,"]
    assert "floor" not in " ".join(lines)


def measurement(value: float, unit: str = "nats/token", error: float = 0.01) -> Measurement:
    """Return a mean of 9,000 tokens."""
    return Measurement(value, unit, error, 9000, 30, "30 documents", 29.0)


RESULT = TrainingRun(
    folder="runs/a [bold]folder",
    steps=2000,
    tokens=6_144_000,
    training_cross_entropy=3.1234,
    training_steps=(1991, 2000),
    cross_entropy=measurement(3.4),
    bits_per_byte=measurement(2.1, "bits/byte"),
    floor=None,
    kl=None,
    baselines=tuple(
        NgramBaseline(
            order=order,
            cross_entropy=measurement(nats),
            bits_per_byte=measurement(nats / 1.6, "bits/byte"),
        )
        for order, nats in ((3, 3.7), (5, 3.6), (7, 3.61))
    ),
    baseline_tokens=2_000_000,
    training_split_tokens=45_000_000,
    difference=measurement(-0.2),
    seconds=TrainingSeconds(training=41.0, validation=1.0, baseline=3.2),
)


def test_the_summary_of_a_text_run() -> None:
    """Training, validation and the best n-gram in nats and bits, what it saw, and what is next."""
    text = plain_text(RESULT, width=80)
    for part in (
        "steps 1,991 to 2,000", "3.1234", "3.400 ± 0.020", "2.100 ± 0.020", "5-gram", "3.600",
        "2,000,000 of 45,000,000", "3.2 s", "better than the 5-gram", "−0.200 ± 0.020",
        "kullback evaluate 'runs/a [bold]folder' --text FILE",
    ):  # fmt: skip
        assert part in text
    assert "floor" not in text
    assert text.startswith("cross-entropy ")
    assert all(len(line) <= 80 and "…" not in line for line in text.splitlines())


def test_a_run_of_one_step() -> None:
    """Its words are in the singular."""
    first = replace(FIRST, step=1)
    result = msgspec.structs.replace(RESULT, steps=1, training_steps=(1, 1))
    assert any("training for 1 step;" in line for line in display([first], 1, None, width=80))
    assert "training, step 1 " in plain_text(result, width=80)


def test_the_summary_of_a_source_run() -> None:
    """The exact floor, and the KL above it; no bits per byte."""
    result = msgspec.structs.replace(
        RESULT, floor=0.694102, kl=measurement(0.01), bits_per_byte=None,
        baselines=tuple(
            msgspec.structs.replace(baseline, bits_per_byte=None) for baseline in RESULT.baselines
        ),
    )  # fmt: skip
    text = plain_text(result, width=80)
    for part in ("floor", "0.694102", "KL", "0.010 ± 0.020"):
        assert part in text
    assert "bits/byte" not in text


def test_the_summary_names_what_the_numbers_are_of() -> None:
    """Sentences that are cut, and which n-gram model sees the tokens before a window."""
    running = NgramBaseline(
        order=6, cross_entropy=measurement(3.3), bits_per_byte=measurement(2.05, "bits/byte")
    )
    text = plain_text(msgspec.structs.replace(RESULT, running_text=running), width=80)
    assert "6-gram Kneser-Ney, running text" in text
    assert "5-gram Kneser-Ney, in the same windows" in text
    assert "better than the 5-gram in the same windows" in text
    assert all(len(line) <= 80 and "…" not in line for line in text.splitlines())
    cut = msgspec.structs.replace(RESULT, floor=0.7, kl=measurement(0.01), cut_at=256)
    assert "first 256 tokens" in plain_text(cut, width=80)


@pytest.mark.parametrize(
    ("difference", "words"), [(-0.2, "better"), (0.2, "worse"), (0.001, "indistinguishable")]
)
def test_which_of_both_is_better_is_said_where_the_interval_allows_it(
    difference: float, words: str
) -> None:
    """The sign of the difference decides, unless its interval contains zero."""
    result = msgspec.structs.replace(RESULT, difference=measurement(difference))
    assert words in plain_text(result)


def test_without_an_interval_neither_is_better() -> None:
    """Too few independent pieces are no sign that both are as good."""
    unknown = msgspec.structs.replace(measurement(-0.5), standard_error=math.inf, bounds=None)
    text = plain_text(msgspec.structs.replace(RESULT, difference=unknown))
    assert "too few independent pieces" in text.replace("\n", " ")
    assert "indistinguishable" not in text


def test_what_to_do_next_can_be_done() -> None:
    """A run on a text is evaluated on a text, one on a source on its source."""
    assert ("--text FILE" in plain_text(RESULT)) == (RESULT.bits_per_byte is not None)
    other = msgspec.structs.replace(
        RESULT, bits_per_byte=None if RESULT.bits_per_byte else measurement(1.0)
    )
    assert ("--text FILE" in plain_text(other)) == (other.bits_per_byte is not None)


def test_every_sentence_of_the_summary_is_wrapped_at_80_columns() -> None:
    """Also where nothing wraps it, as in a file, and with many orders and long numbers."""
    unknown = msgspec.structs.replace(measurement(-0.5), standard_error=math.inf, bounds=None)
    for difference in (unknown, measurement(-0.123456, error=1e-5), measurement(0.001)):
        result = msgspec.structs.replace(
            RESULT, difference=difference, running_text=RESULT.baselines[0],
            unigram=RESULT.baselines[0], uniform=RESULT.baselines[0],
            baselines=RESULT.baselines * 2,
        )  # fmt: skip
        lines = plain_text(result, width=200).splitlines()
        assert all(len(line) <= 80 for line in lines), lines
