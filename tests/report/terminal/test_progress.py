"""Progress of long work in a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from kullback.report.terminal import progress as module
from kullback.report.terminal.progress import TerminalProgress

LONG = "loading /home/somebody/models/a-company/a-very-long-name-of-a-model-135M@int4-g32"


def piped(width: int = 80) -> Console:
    """A console that is no terminal."""
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def output(console: Console) -> str:
    """What was written."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_a_line_for_each_stage():
    """Stages are counted where their number was planned, and only up to it."""
    console = piped()
    with TerminalProgress(console) as progress:
        progress.plan(2)
        for what in ("loading a", "comparing b", "one more"):
            progress.stage(what)
            progress.tokens(1, 2)
    assert output(console).splitlines() == [
        "stage 1 of 2: loading a",
        "stage 2 of 2: comparing b",
        "one more",
    ]


def test_the_seconds_of_stages_and_parts(monkeypatch: pytest.MonkeyPatch):
    """Each ends with its seconds: what came before the first, parts between stages, the last."""
    clock = iter([float(second) for second in range(100, 1000)])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    began = 90.0
    console = piped()
    with TerminalProgress(console, began) as progress:
        progress.stage("loading a")
        progress.part("tokens")
        progress.stage("evaluating a")
    progress.part("nothing more is timed")
    lines = output(console).splitlines()
    timed = [line.split(" s  ") for line in lines if " s  " in line]
    assert [what for _, what in timed] == ["starting", "loading a", "tokens", "evaluating a"]
    seconds = [float(number) for number, _ in timed]
    assert seconds[0] > 10.0
    assert all(number > 0.0 for number in seconds)
    assert began + sum(seconds) < next(clock)
    with TerminalProgress(console) as progress:
        progress.part("tokens")
    assert output(console).splitlines() == lines


def test_notes_are_lines_of_their_own():
    """A note is printed in a pipe and in a terminal, and nowhere where there is no console."""
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True)
    for console in (piped(), terminal):
        with TerminalProgress(console) as progress:
            progress.note("b.md is not read")
        assert "note: b.md is not read\n" in output(console)
    TerminalProgress(None).note("b.md is not read")


def test_a_pipe_gets_tokens_speed_and_time_left():
    """At 100 tokens/s the remaining 300 of 500 take three seconds."""
    progress = TerminalProgress(piped())
    progress.tokens(100, 500)
    assert progress._first is not None
    began, _ = progress._first
    assert progress.line(200, 500, began + 1.0).split() == [
        *("200", "of", "500", "tokens", "100", "tokens/s", "0:03", "left"),
    ]


def test_the_first_report_has_no_speed():
    """Nothing is known of the speed until a second report."""
    progress = TerminalProgress(piped())
    progress.tokens(100, 500)
    assert progress._first is not None
    assert progress.line(100, 500, progress._first[0]).split() == ["100", "of", "500", "tokens"]


@pytest.mark.parametrize("seconds", [1e-7, 0.01, 1e3])  # the speed may be very high at first
@pytest.mark.parametrize("width", [80, 60])
def test_nothing_wraps(width, seconds, monkeypatch: pytest.MonkeyPatch):
    """A long path loses its middle and keeps its end, in a pipe as in a terminal."""
    console = piped(width)
    with TerminalProgress(console) as progress:
        progress.stage(LONG)
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with TerminalProgress(terminal) as progress:
        progress.plan(8)
        progress.stage(LONG)
        progress.tokens(1, 1_000_000)
        assert progress._first is not None
        began = progress._first[0]
        monkeypatch.setattr(module.time, "monotonic", lambda: began + seconds)
        progress.tokens(999_999, 1_000_000)
        assert progress._bars is not None
        progress._bars.refresh()
    lines = [*output(console).splitlines(), *output(terminal).replace("\r", "\n").splitlines()]
    shown = [line for line in lines if "loading" in line]
    assert len(shown) >= 2
    assert all(line.count("…") == 1 for line in shown)
    assert "int4-g32" in shown[0]
    assert max(cell_len(Console().render_str(line).plain) for line in shown) < width + 20
    assert cell_len(shown[0]) <= width


def test_weights_and_layers_fill_the_bar_without_a_speed():
    """Steps that are no tokens are shown in a terminal, and not at all in a pipe."""
    console = piped()
    with TerminalProgress(console) as progress:
        progress.stage("loading")
        progress.advance(3, 4)
    assert output(console) == "loading\n"
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with TerminalProgress(terminal) as progress:
        progress.stage("loading")
        progress.advance(3, 4)
        assert progress._bars is not None
        (task,) = progress._bars.tasks
        assert (task.completed, task.total, task.fields["numbers"]) == (3, 4, "")


def test_no_console_shows_nothing(capsys):
    """Neither a stage nor tokens are printed without a console."""
    with TerminalProgress(None) as progress:
        progress.plan(3)
        progress.stage("loading")
        progress.advance(1, 2)
        progress.tokens(1, 2)
    assert capsys.readouterr() == ("", "")
