"""What a command that is interrupted says of what is on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cli_errors import the_error
from kullback.cli import main
from kullback.errors import LostProcessError


def test_an_interrupted_process_ends_once_it_has_said_what_is_kept(monkeypatch, capsys):
    """The sentence is out when the function that ends the process is called, with the code."""

    def interrupt(options: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    said = []
    monkeypatch.setattr("kullback.cli.derive._derive", interrupt)
    monkeypatch.setattr("kullback.runtime.interruption._numbers", [])  # of signals in other tests
    code = main(["derive"], interrupted=lambda code: said.append((code, capsys.readouterr().err)))
    assert said == [(130, "kullback: interrupted: nothing of this run is on disk\n")]
    assert code == 130


INTERRUPTED_LATE = [
    (
        "evaluate M --text T",
        "failing",
        "interrupted: 3 of 9 tokens are kept; resume with: kullback",
    ),
    ("compare M M@int8 --text T", "keeping", "rows of it that are kept, if any, are resumed with:"),
    ("evaluate M --text T --records r.parquet", "done", "kept, if any, are resumed with: kullback"),
    ("record M --text T -o r.rec --distributions exact", "begun", "if any, are resumed with:"),
    ("record M --text T -o r.rec --distributions exact", "new", "nothing of this run is on disk"),
    ("train --text T -o R", "trained", "R is resumed from its last checkpoint with: kullback"),
    ("train --text T -o R", "new", "nothing of this run is on disk"),
]


@pytest.mark.parametrize(("command", "when", "expected"), INTERRUPTED_LATE)
def test_an_interruption_denies_nothing_that_is_kept(
    command: str,
    when: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """torchrun ends a process that is failing, and Ctrl-C may come before or after the pass."""

    def run(options: argparse.Namespace) -> None:
        if when == "trained":
            (tmp_path / "R").mkdir()
            (tmp_path / "R/training.json").touch()
        if when == "done":
            (tmp_path / "r.parquet").touch()
        if when == "begun":
            (tmp_path / ".r.rec.rows").mkdir()
        if when not in ("failing", "keeping"):
            raise KeyboardInterrupt
        try:
            lost = LostProcessError("another process has ended")
            if when == "failing":
                lost.add_note("3 of 9 tokens are kept")
            raise lost
        finally:
            raise KeyboardInterrupt

    name = command.split()[0]
    monkeypatch.setattr(f"kullback.cli.{name}._{name}", run)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) in (130, 143)  # of the last signal
    assert expected in the_error(capsys.readouterr().err)
    kept = tmp_path / "state/kullback/interrupted/0123"
    kept.parent.mkdir(parents=True)
    kept.touch()
    if when == "new" and name != "train":  # rows of an earlier run, which was killed
        main(command.split())
        assert "rows of it that are kept, if any," in the_error(capsys.readouterr().err)
