"""`kullback train`: its options, its output, and what it refuses."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from kullback.cli import main
from kullback.cli.train import NAMES, OPTIONS, SWITCHES, TEXTS
from kullback.models.train import train_model
from kullback.training.metrics import read_metrics
from tiny_runs import WEATHER, contents

SIZES = "--width 8 --layers 1 --mlp-width 16 --threads 1 --batch 8"


@pytest.fixture
def grammar(tmp_path: Path) -> Path:
    """A grammar file."""
    path = tmp_path / "weather.toml"
    path.write_text(WEATHER, encoding="utf-8")
    return path


def refusal(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line on standard error of a command that exits with 2."""
    assert main(arguments.split()) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    (line,) = streams.err.splitlines()
    return line


def test_the_options_are_the_keywords_of_train_model() -> None:
    """Every option is a keyword of `train_model`, and the help shows its default."""
    parameters = inspect.signature(train_model).parameters
    others = {"output", "text", "source", "progress", "log", "tokens_of", *NAMES, *TEXTS, *SWITCHES}
    assert {keyword for _, keyword, *_ in OPTIONS} == set(parameters) - others
    for _, keyword, _, shown, _ in OPTIONS:
        default = parameters[keyword].default
        assert default is None or shown == str(default)


def test_training_ends_with_losses_beside_an_n_gram(
    grammar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and validation, the n-gram, the floor and the KL are printed, progress is not."""
    run = tmp_path / "run"
    command = f"train --source {grammar} --steps 12 {SIZES} -o {run}"
    assert main(command.split()) == 0
    streams = capsys.readouterr()
    for part in ("training, steps 11 to 12", "validation", "-gram", "floor", "KL", str(run)):
        assert part in streams.out
    assert "step 12/12" in streams.err
    assert (run / "model.safetensors").exists()


def test_json_is_the_result(
    grammar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json standard output is the result, and metrics.jsonl keeps its fields."""
    run = tmp_path / "run"
    command = f"train --source {grammar} --steps 12 {SIZES} --json -o {run}"
    assert main(command.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == "kullback.training/1"
    assert (result["folder"], result["steps"]) == (str(run), 12)
    assert [baseline["order"] for baseline in result["baselines"]] == [3, 5, 7]
    assert set(read_metrics(run / "metrics.jsonl")[-1]) == {
        "step", "tokens", "cross_entropy", "entropy", "kl", "kl_standard_error",
        "tokens_per_second", "seconds_left", "learning_rate", "validation_cross_entropy",
        "validation_kl",
    }  # fmt: skip


def test_a_finished_run_is_measured_again(
    weather_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming a finished run says that it is finished, and prints what it reached."""
    assert main(["train", "--resume", str(weather_run)]) == 0
    streams = capsys.readouterr()
    assert "has finished its 150 steps" in streams.err
    assert "validation" in streams.out


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("--steps 200", ["--steps"]),
        ("--steps 150", ["--steps"]),  # its own number of steps, too
        ("-o {tmp}/other", ["-o"]),
        ("--seed 0 --width 16", ["--seed", "--width"]),
        ("--vocabulary 300", ["--vocabulary"]),
    ],
)
def test_options_are_refused_beside_resume(
    options: str,
    names: list[str],
    weather_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An option given with --resume is named, and neither run nor folder is touched."""
    before = contents(weather_run)
    command = f"train --resume {weather_run} {options.format(tmp=tmp_path)}"
    line = refusal(command, capsys)
    assert all(name in line for name in (*names, "--resume")), line
    assert contents(weather_run) == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--source conjugation --batch 9999999 -o {tmp}/a", ["9,999,999 tokens", "GB", "batch"]),
        ("--source conjugation --width 63 -o {tmp}/a", ["width", "63"]),
        ("--source conjugation --width 65536 --layers 9999 -o {tmp}/a", ["GB", "width"]),
        ("--source conjugation", ["-o RUN"]),
        ("--source conjugation --context 9 -o {tmp}/a", ["--context", "--source"]),
        ("--source conjugation --vocabulary 300 -o {tmp}/a", ["--vocabulary", "--source"]),
        ("--text {tmp}/none.txt --holdout 3 -o {tmp}/a", ["--holdout", "--text"]),
        ("--text {tmp}/none.txt -o {tmp}/a", ["none.txt"]),
        ("--resume {tmp}/none", ["none", "not a run folder"]),
    ],
)
def test_bad_options_are_one_sentence(
    arguments: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value out of range or an option that cannot apply is named; nothing is written."""
    assert main(["train", *arguments.format(tmp=tmp_path).split()]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    line = streams.err.splitlines()[-1]
    assert line.startswith("kullback: ")
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_not_trained_over(
    weather_run: Path, grammar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training into a folder with a run is refused, and no file of the run changes."""
    before = contents(weather_run)
    line = refusal(f"train --source {grammar} --steps 2 -o {weather_run}", capsys)
    assert f"--resume {weather_run}" in line
    assert contents(weather_run) == before


@pytest.mark.parametrize(
    ("of_file", "given"), [("minutes = 30", "--steps 4"), ("steps = 30000", "--minutes 0.0001")]
)
def test_a_configuration_file_gives_options(
    of_file: str,
    given: str,
    grammar: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fields of a TOML file are options; those of the command line come first."""
    config = tmp_path / "c.toml"
    config.write_text(f"{of_file}\nwidth = 8\nlayers = 2\nmlp_width = 16\nbatch = 8\nthreads = 1\n")
    run = tmp_path / "run"
    command = f"train --source {grammar} --config {config} {given} --layers 1 -o {run} --json"
    assert main(command.split()) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert steps == 4 if "steps" in given else steps < 30000
    assert json.loads((run / "training.json").read_text())["model"]["width"] == 8
    line = refusal(f"train --resume {run} --config {config}", capsys)
    assert "--config" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("widht = 8", ["c.toml", "widht", "did you mean width"]),
        ("width = 'x'", ["width", "'x'", "number"]),
        ("width = [8]", ["width", "number"]),
        ("tokenizer = 3", ["tokenizer", "text"]),
        ("width = 63", ["width", "63"]),
        ("width =", ["c.toml", "TOML"]),
        ("[model]\nwidth = 8", ["model"]),
        ("text = 'book.txt'", ["text", "command line", "--text"]),
        ("output = 'run'", ["output", "command line", "-o RUN"]),
    ],
)
def test_bad_configuration_files(
    content: str,
    words: list[str],
    grammar: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unknown field, a wrong type or a damaged file is one sentence; nothing is written."""
    config = tmp_path / "c.toml"
    config.write_text(content)
    line = refusal(f"train --source {grammar} --config {config} -o {tmp_path / 'run'}", capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()
