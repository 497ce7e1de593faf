"""``RUN/report.html`` while `kullback train` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kullback.cli import live_page, main
from kullback.cli.live_page import LivePage
from kullback.results.training import StepMetrics
from kullback.training.progress import TrainingProgress
from tiny_runs import WEATHER

SIZES = "--width 8 --layers 1 --mlp-width 16 --threads 1 --batch 8"


def line(step: int) -> StepMetrics:
    """A line of metrics of a text."""
    return StepMetrics(step, 40, 1.5, None, None, None, 1000.0, 2.0, 0.02)


def refreshed(path: Path) -> bool:
    """Whether the page reads itself again."""
    return 'http-equiv="refresh"' in path.read_text(encoding="utf-8")


def test_train_leaves_a_static_page_with_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page of a finished run has its table; a page that is no report of ours is kept."""
    grammar = tmp_path / "weather.toml"
    grammar.write_text(WEATHER, encoding="utf-8")
    run = tmp_path / "run"
    command = f"train --source {grammar} --steps 4 {SIZES} -o {run}"
    assert main(command.split()) == 0
    page = run / "report.html"
    assert not refreshed(page)
    assert "Kneser-Ney" in page.read_text(encoding="utf-8")
    page.write_text("mine", encoding="utf-8")
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert page.read_text(encoding="utf-8") == "mine"
    assert "report.html" in capsys.readouterr().err


def test_the_page_is_rewritten_when_it_is_a_minute_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Written after the first line, then when a minute has passed, then where training stops."""
    now = [0.0]
    monkeypatch.setattr(live_page.time, "monotonic", lambda: now[0])
    page = tmp_path / "report.html"
    progress = LivePage(TrainingProgress(), tmp_path)
    progress.begin(100, None)
    progress.step(line(1))
    assert refreshed(page)
    first = page.read_bytes()
    now[0] = 30.0
    progress.step(line(10))
    assert page.read_bytes() == first
    now[0] = 61.0
    progress.step(line(20))
    assert "step 20 of 100" in page.read_text(encoding="utf-8")
    progress.step(line(30))
    with pytest.raises(KeyboardInterrupt), progress:
        raise KeyboardInterrupt
    assert not refreshed(page)
    assert "stopped" in page.read_text(encoding="utf-8")
    assert "step 30 of 100" in page.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_noted_once(tmp_path: Path) -> None:
    """Training goes on without it."""

    class Notes(TrainingProgress):
        notes: list[str] = []  # noqa: RUF012 - of this test alone

        def note(self, text: str) -> None:
            self.notes.append(text)

    (tmp_path / "file").write_text("")
    with LivePage(Notes(), tmp_path / "file") as progress:
        progress.begin(100, None)
        for step in (1, 2):
            progress.step(line(step))
        progress._written = -1e9
        progress.step(line(3))
    assert len(Notes.notes) == 1
    assert "report.html" in Notes.notes[0]
