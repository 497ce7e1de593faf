"""The description of a run: ``training.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from interrupted_runs import CONFIG, complaint, edit_json
from kullback.errors import RunError
from kullback.runtime.progress import Progress
from kullback.training.arithmetic import arithmetic_of_run
from kullback.training.batches import Batches
from kullback.training.config import TrainingConfig
from kullback.training.description import batches_of_run, read_description, write_description
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train, train_prepared
from kullback.training.prepare_text import TextOptions, prepare_text
from kullback.training.progress import TrainingProgress
from kullback.training.run_folder import load_tokenizer
from tiny_runs import same_shards, sizes, text, weather

Make = Callable[..., Batches]
BOTH = pytest.mark.parametrize("make", [weather, text])


def begin(run: Path) -> GPT:
    """Train a new model in `run`."""
    batches = weather(run.parent)
    return train(run, batches, sizes(batches), CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": None},
        {"config": None},
        {"data": {"source": {}}},
        {"config": {"speed": 3}},
        {"model": 7},
        {"config": {"steps": 2**70}},
        {"config": {"steps": 3, "seed": 10**30}},
        {"config": {"steps": 3, "shards": 10**9}},
        {"config": {"steps": 3.5}},
        {"config": {"steps": 3, "muon_lr": "x"}},
        {"config": {"steps": 3, "muon_lr": None}},
        {"model": {"vocabulary_size": 9, "context": 8, "layers": 10**8}},
        {"model": {"vocabulary_size": 9, "context": 8, "width": [16]}},
        {"data": {"text": []}},
        {"data": {"text": ["a"], "context": 0, "windows": 1, "seed": 0, "fingerprint": "0" * 64}},
        {"data": {"source": {"grammar": 1}, "sentences": 1, "seed": 0, "fingerprint": "0" * 64}},
        {"data": {"source": {"grammar": "g"}, "sentences": 1, "seed": 0, "fingerprint": "x"}},
        {"data": {"source": {"grammar": "g"}, "sentences": 0, "seed": 0, "fingerprint": "0" * 64}},
        {"floor": "low"},
    ],
    ids=str,
)
def test_descriptions_that_describe_no_run(changes: dict[str, object], half: Path):
    """A training.json that is JSON but no description is named."""
    edit_json(half / "training.json", **changes)
    said = complaint(resume, half)
    assert said.startswith(f"{half / 'training.json'} does not describe a run: ")


def test_descriptions_with_impossible_values(half: Path):
    """Values in a training.json are checked like those of the command line."""
    edit_json(half / "training.json", config={"steps": -4})
    said = complaint(resume, half)
    assert said.startswith(f"{half / 'training.json'} does not describe a run: steps is -4: ")


@pytest.mark.parametrize("damage", ["{", "remove"])
def test_damaged_tokenizers(damage: str, half: Path):
    """A tokenizer.json that is missing or truncated is named, with the remedy."""
    path = half / "tokenizer.json"
    if damage == "remove":
        path.unlink()
    else:
        path.write_text(damage)
    for action in (resume, lambda run: load_tokenizer(run / "tokenizer.json")):
        said = complaint(action, half)
        assert said.startswith(f"{path} is {'missing' if damage == 'remove' else 'damaged'}")
        assert said.endswith("restore it, or train the run again")


def test_data_that_has_changed(half: Path, stopped: Path, tmp_path: Path):
    """A run whose grammar has changed or is missing is not resumed."""
    grammar = stopped.parent / "weather.toml"
    text = grammar.read_text()
    try:
        grammar.write_text(text.replace("rains", "pours"))
        assert "the data has changed since this run began" in complaint(resume, half)
        grammar.unlink()
        assert str(grammar) in complaint(resume, half)
    finally:
        grammar.write_text(text)


def test_a_run_is_not_trained_over(run: Path, half: Path):
    """Training into a folder with a run, finished or not, is refused with the command to resume."""
    for folder in (run, half):
        said = complaint(begin, folder)
        assert said.startswith(f"{folder} already contains a run")
        assert f"kullback train --resume {folder}" in said


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "checkpoint.safetensors",
        "tokens/train.bin",
    ],
)
def test_a_model_is_not_trained_over(name: str, tmp_path: Path):
    """Training into a folder with somebody's files is refused with their names, before reading."""
    folder = tmp_path / "theirs"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("precious")

    def prepare() -> tuple[Batches, GPTConfig, TrainingConfig]:
        raise AssertionError

    said = complaint(lambda run: train_prepared(run, prepare), folder)
    assert said.startswith(f"{folder} already contains {name}, ")
    assert "-o" in said
    assert (folder / name).read_text() == "precious"


def test_a_run_that_began_with_other_arithmetic_is_noted(half: Path):
    """The description keeps torch and processor, and a resumed run is told which differ."""
    path, notes = half / "training.json", list[str]()
    description = json.loads(path.read_text())
    assert description["torch"] == torch.__version__
    assert description["processor"] == arithmetic_of_run(TrainingConfig(**description["config"]))
    edit_json(path, torch="0.9", processor="SVE256")
    progress = Progress()
    progress.note = notes.append  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        resume(half, progress=progress, stop_at=7)
    (note,) = notes
    assert all(word in note for word in ("torch 0.9", "SVE256", "last bits")), note


def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path):
    """Where preparing fails after the tokens were written, the folder is as it was before."""
    path, folder = tmp_path / "rows.txt", tmp_path / "run"
    path.write_text("the rain falls on the plain and the sun shines on the hill " * 40)

    def prepare() -> tuple[Batches, GPTConfig, TrainingConfig]:
        options = TextOptions([path], tokenizer="characters", context=4, windows=6)
        prepare_text(folder, options, TrainingProgress())
        assert (folder / "tokens" / "train.bin").exists()
        assert (folder / ".preparing").exists()
        raise RunError("the probe fails")

    for makes in (False, True):
        if makes:
            folder.mkdir()
        with pytest.raises(RunError, match="probe"):
            train_prepared(folder, prepare)
        assert folder.exists() == makes
        assert not makes or not list(folder.iterdir())


def test_what_a_killed_process_prepared_is_replaced(tmp_path: Path):
    """Tokens and tokenizer of a run that was killed before it began are no run: it is trained."""
    folder, batches = tmp_path / "run", weather(tmp_path)
    (folder / "tokens").mkdir(parents=True)
    for name in (".preparing", "tokenizer.json", "tokens/train.bin"):
        (folder / name).write_text("{}")
    with pytest.raises(RunError, match="stopped before its first step"):
        resume(folder)
    train(folder, batches, sizes(batches), CONFIG)
    assert not (folder / ".preparing").exists()


def described(batches: Batches, run: Path) -> Batches:
    """Return the batches that the description of a run of `batches` gives."""
    run.mkdir(exist_ok=True)
    write_description(run, batches, sizes(batches), CONFIG)
    description = read_description(run)
    assert (description.floor, description.config) == (batches.floor, CONFIG)
    return batches_of_run(description, load_tokenizer(run / "tokenizer.json"))


@BOTH
def test_a_description_is_enough(make: Make, tmp_path: Path):
    """Batches rebuilt from the description of a run are the same batches."""
    batches = make(tmp_path, seed=5)
    again = described(batches, tmp_path / "run")
    assert again.spec == batches.spec
    assert same_shards(again.shards(11, 2), batches.shards(11, 2))


@BOTH
def test_changed_data_is_noticed(make: Make, tmp_path: Path):
    """Batches are not rebuilt from data that has changed since."""
    batches = make(tmp_path)
    for path in (tmp_path / "weather.toml", tmp_path / "weather.txt"):
        if path.exists():
            path.write_text(path.read_text("utf-8").replace("rains", "pours"), "utf-8")
    with pytest.raises(RunError, match=r"data has changed.*restore the data"):
        described(batches, tmp_path / "run")
