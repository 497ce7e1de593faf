"""Standard output on a full disk, a pipe whose reader has left, and streams that are closed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli_errors import the_error
from kullback.cli import main

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


class Full(io.StringIO):
    """A stream on a disk that is full; `reader_left` makes it a closed pipe."""

    def __init__(self, reader_left: bool = False) -> None:
        super().__init__()
        self.error = BrokenPipeError(32, "Broken pipe") if reader_left else OSError(28, "no room")

    def write(self, text: str) -> int:
        """Fail."""
        raise self.error

    def flush(self) -> None:
        """Fail."""
        raise self.error


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line, in which ``kullback`` is the program."""
    program = f"{sys.executable} -m kullback"
    return subprocess.run(
        ["bash", "-c", command.replace("kullback", program)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@needs_full
@pytest.mark.parametrize("arguments", ["derive", "derive --json", "source list", "--help"])
def test_a_full_disk_is_one_sentence(arguments: str) -> None:
    """Exit code 2, no traceback, and nothing from Python at its end."""
    done = shell(f"kullback {arguments} > {FULL}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "standard output cannot be written: No space left on device" in the_error(done.stderr)


@pytest.mark.parametrize("arguments", ["derive", "source sample conjugation -n 2000"])
def test_a_reader_that_leaves_is_no_error(arguments: str) -> None:
    """Through ``head -1`` there is one line, nothing on standard error, and exit code 0 or 141."""
    done = shell(f"kullback {arguments} | head -n 1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[-1] in ("0", "141")
    assert done.stderr == ""


def test_closed_streams(tmp_path: Path) -> None:
    """Without standard output the command fails; without standard error it does its work."""
    done = shell("kullback derive >&-")
    assert done.returncode == 2
    assert "standard output cannot be written: it is closed" in the_error(done.stderr)
    out = tmp_path / "out"
    assert shell(f"kullback derive --json 2>&- > {out}").returncode == 0
    assert json.loads(out.read_text())
    assert shell("kullback derive --p 3 2>&- ").returncode == 2


def test_a_full_standard_error_stops_nothing(on_text: list[str], monkeypatch, capsys) -> None:
    """Progress that cannot be written is dropped: the result is complete."""
    monkeypatch.setattr(sys, "stderr", Full())
    assert main(["evaluate", *on_text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scored_tokens"] == 431


@pytest.fixture
def on_text(tiny_llama_folder: Path, text_file: Path) -> list[str]:
    """A tiny Llama and the text it reads, as arguments."""
    return [str(tiny_llama_folder), "--text", str(text_file)]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_result_that_cannot_be_printed_is_not_lost(
    as_json: bool, on_text: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    """Report and records are written, the result goes to standard error, and the exit code is 2."""
    report, records = tmp_path / "r.html", tmp_path / "r.parquet"
    monkeypatch.setattr(sys, "stdout", Full())
    command = ["evaluate", *on_text, "--report", str(report), "--records", str(records)]
    assert main([*command, *(["--json"] if as_json else [])]) == 2
    error = capsys.readouterr().err
    assert "standard output cannot be written: no room" in the_error(error)
    assert ('"cross_entropy"' if as_json else "Cross-entropy") in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "r.parquet"]


def test_a_report_is_written_although_the_reader_has_left(
    on_text: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    """``evaluate --report FILE | head -1`` is silent, and FILE is there."""
    report = tmp_path / "r.html"
    monkeypatch.setattr(sys, "stdout", Full(reader_left=True))
    assert main(["evaluate", *on_text, "--report", str(report)]) == 0
    error = capsys.readouterr().err
    assert "Cross-entropy" not in error
    assert "kullback: " not in error
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_streams_are_restored(capsys) -> None:
    """After a command, and after one that exits, the streams are those from before."""
    streams = sys.stdout, sys.stderr
    main(["source", "list"])
    with pytest.raises(SystemExit):
        main(["derive", "--none"])
    assert (sys.stdout, sys.stderr) == streams


def test_a_full_disk_elsewhere_is_one_sentence(monkeypatch, capsys) -> None:
    """An error of the system that no part of the program explains has its words and exit code 2."""

    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28), "/some/file")

    monkeypatch.setattr("kullback.theory.derivation.derive", full)
    assert main(["derive"]) == 2
    sentence = the_error(capsys.readouterr().err)
    assert "No space left on device" in sentence
    assert "/some/file" in sentence


def test_a_result_is_said_although_nothing_can_be_written(
    on_text: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    """Where the report fails, too, the result is on standard error, before the error."""
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(os, "fsync", lambda descriptor: Full().flush())
    assert main(["evaluate", *on_text, "--report", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert "r.html cannot be written" in the_error(error)
    assert "Cross-entropy" in error
    assert list(tmp_path.iterdir()) == []
