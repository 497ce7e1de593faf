"""``kullback evaluate``: the texts that it reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kullback.cli import main
from kullback.results.evaluation import NonZeroRank
from two_processes import run_two


def test_a_folder_of_json_lines_is_read_and_other_files_are_noted(
    tiny_llama_folder: Path, tmp_path: Path, capsys
):
    """Every line is a document; a file that is not read is named on standard error."""
    lines = [json.dumps({"text": "A quick brown fox. " * n}) for n in (2, 3)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "notes.md").write_text("not a text")
    assert main(["evaluate", str(tiny_llama_folder), "--text", str(tmp_path), "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["text"] == "sub/a.jsonl (2 documents)"
    assert "note: " in streams.err
    assert "notes.md" in streams.err


@pytest.mark.parametrize("command", ["evaluate", "compare", "record"])
def test_verbose_prints_the_seconds_of_stages(
    command: str,
    tiny_llama_folder: Path,
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On standard error, from the start of the program to the pass; without it none."""
    folder = str(tiny_llama_folder)
    more = {"compare": [folder], "record": ["-o", str(tmp_path / "out.parquet")]}.get(command, [])
    arguments = [command, folder, *more, "--text", str(text_file), "--json"]
    for options, timed in ((["--verbose"], True), ([], False)):
        assert main([*arguments, *options]) == 0
        lines = re.findall(r"^ *\d+\.\d\d s  (\w+)", capsys.readouterr().err, re.MULTILINE)
        assert ({"starting", "loading", "cutting"} <= set(lines)) == timed
        assert bool(lines) == timed


def test_verbose_prints_the_seconds_on_a_source(
    weather_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a text."""
    assert main(["evaluate", str(weather_run), "--verbose", "--json"]) == 0
    lines = re.findall(r"^ *\d+\.\d\d s  (\w+)", capsys.readouterr().err, re.MULTILINE)
    assert {"starting", "loading"} <= set(lines)


def test_a_non_zero_rank_of_torchrun_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 wrote the records, and says so."""
    rank = NonZeroRank(rank=1, world_size=2)
    monkeypatch.setattr("kullback.cli.evaluate._evaluated", lambda options: rank)
    assert main(["evaluate", "M", "--text", "T", "--records", "r.parquet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow  # processes of their own
def test_two_processes_share_a_source(weather_run: Path) -> None:
    """One document on standard output, which is that of one process; nothing on standard error."""
    command = ["evaluate", str(weather_run), "--sentences", "3000", "--json"]
    alone = subprocess.run(
        [sys.executable, "-m", "kullback", *command], capture_output=True, check=True, timeout=200
    )
    outputs = run_two(*command)
    assert json.loads(outputs[0].stdout) == json.loads(alone.stdout)
    assert outputs[1].stdout == ""
    assert [output.returncode for output in outputs] == [0, 0]


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("options", [["@int8"], ["", "--device-map", "auto"]])
def test_libraries_say_nothing(options: list[str], tiny_llama_folder: Path, text_file: Path):
    """torchao's import warns of its CUDA libraries, and torch of torchao: not in a command."""
    pytest.importorskip("torchao", reason="the extra quantise is not installed")
    model = f"{tiny_llama_folder}{options[0]}"
    command = ["evaluate", model, "--text", str(text_file), *options[1:], "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "kullback", *command],
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert all(line.startswith(("loading ", "evaluating ", "0%")) for line in lines), lines
