"""Run folders: whatever is wrong with one is said in a sentence, and nothing in it is harmed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kullback.errors import KullbackError, RunError
from kullback.runtime import files
from kullback.training.gpt import GPT, GPTConfig
from kullback.training.loop import Interrupted, TrainingConfig, resume, train
from kullback.training.metrics import read_metrics
from kullback.training.run_folder import (
    load_model,
    load_tensors,
    load_tokenizer,
    locked,
    read_json,
    save_model,
    save_tensors,
)
from tiny_runs import contents, fingerprint, sizes, trained, weather

CONFIG = TrainingConfig(steps=12, shards=1, log_every=3, checkpoint_every=4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run to its end."""
    run = tmp_path_factory.mktemp("finished") / "run"
    trained(run, steps=10)
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run and stop it at step 6."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    batches = weather(run.parent)
    with pytest.raises(Interrupted):
        train(run, batches, sizes(batches), CONFIG, stop_at=6)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Copy the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    """Copy the stopped run."""
    return Path(shutil.copytree(stopped, tmp_path / "half"))


def complaint(action: Callable[[Path], object], folder: Path) -> str:
    """Return what `action` says is wrong, having checked that it changes nothing."""
    before = contents(folder)
    with pytest.raises(KullbackError) as error:
        action(folder)
    assert contents(folder) == before
    said = str(error.value)
    assert "\n" not in said.strip()
    return said


def edit_json(path: Path, **changes: object) -> None:
    """Change some keys of a JSON file; None removes one."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def begin(run: Path) -> GPT:
    """Train anew in `run`."""
    batches = weather(run.parent)
    return train(run, batches, sizes(batches), CONFIG)


# --- loading ---------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path):
    """The weights of a saved and loaded model are the same bits, and so is its configuration."""
    model = GPT(GPTConfig(7, context=5, width=8, layers=2, heads=2, mlp_width=12), seed=4)
    save_model(tmp_path, model, "{}", "{}")
    again = load_model(tmp_path)
    assert fingerprint(again) == fingerprint(model)
    assert again.config == model.config


def test_fingerprints_tell_weights_apart():
    """One changed bit of one weight changes the fingerprint."""
    model = GPT(GPTConfig(7, context=5, width=8, layers=1, heads=2), seed=0)
    before = fingerprint(model)
    with torch.no_grad():
        model.head_weight[3, 2] = torch.nextafter(model.head_weight[3, 2], torch.tensor(1.0))
    assert fingerprint(model) != before


def test_a_missing_folder(tmp_path: Path):
    """A folder that is not there is named, and none is made."""
    missing = tmp_path / "nowhere"
    for action, file in ((load_model, "config.json"), (resume, "training.json")):
        said = complaint(action, missing)
        assert said.startswith(f"{missing} is not a run folder: it has no {file}; give a folder")
    assert not missing.exists()


def test_a_foreign_folder(tmp_path: Path):
    """A folder of other files is no run folder, and stays as it was."""
    (tmp_path / "letter.txt").write_text("dear")
    assert "is not a run folder: it has no config.json" in complaint(load_model, tmp_path)
    assert "is not a run folder: it has no training.json" in complaint(resume, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter.txt"]


def test_a_run_that_is_not_finished(half: Path):
    """A run without its final model says how to go on."""
    assert complaint(load_model, half) == (
        f"{half} holds a run that is not finished: go on with it (kullback train --resume {half})"
    )


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 1500, -1])
def test_truncated_weights(kept: int, run: Path):
    """Weights cut short anywhere are damaged, with the file's name and the remedy."""
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    said = complaint(load_model, run)
    assert said.startswith(f"{path} is damaged or truncated (")
    assert said.endswith("; restore it, or train the run again")


@pytest.mark.parametrize("kept", [0, 7, 100, 1500, -1])
def test_truncated_checkpoints(kept: int, half: Path):
    """A checkpoint cut short anywhere is damaged, and is not overwritten by a new beginning."""
    path = half / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert complaint(resume, half).startswith(f"{path} is damaged or truncated (")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"7"], ids=repr)
@pytest.mark.parametrize("name", ["config.json", "training.json"])
def test_files_that_are_no_json_object(text: bytes, name: str, run: Path):
    """A configuration that is no JSON object is damaged, with its name and the remedy."""
    (run / name).write_bytes(text)
    said = complaint(load_model if name == "config.json" else resume, run)
    assert said.startswith(f"{run / name} is damaged")
    assert said.endswith("restore it, or train the run again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "holds a model of type 'gpt2', not one of ours"),
        ({"hidden_size": None}, "does not describe a model of ours: it has no 'hidden_size'"),
        ({"hidden_size": 32, "head_dim": 16}, "belongs to another model: model.embed_tokens"),
        ({"num_hidden_layers": 2}, "model.layers.1.input_layernorm.weight is no such weight"),
        ({"vocab_size": 99}, "the configuration asks for (99, 16)"),
        ({"num_hidden_layers": 0}, "layers is 0: it must be positive"),
        ({"num_hidden_layers": 1.5}, "layers is 1.5: it must be a whole number"),
        ({"hidden_size": "16"}, "does not describe a model of ours"),
        ({"num_attention_heads": 0}, "does not describe a model of ours"),
        (
            {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 5},
            "width is 16 and heads is 3: rotary positions need a width that is a multiple of",
        ),
        ({"vocab_size": 10**13}, "this machine has"),
        ({"num_hidden_layers": 10**12}, "this machine has"),
    ],
    ids=str,
)
def test_configurations_of_another_model(changes: dict[str, object], message: str, run: Path):
    """A configuration that does not fit the weights is named with both sides' values."""
    edit_json(run / "config.json", **changes)
    said = complaint(load_model, run)
    assert str(run) in said
    assert message in said


def test_weights_of_another_model(run: Path, half: Path, tmp_path: Path):
    """Weights that some other tool wrote, and checkpoints of another run, are refused."""
    save_tensors(run / "model.safetensors", {"x": torch.zeros(3)}, {})
    assert "belongs to another model: model.embed_tokens.weight is no such" in complaint(
        load_model, run
    )
    save_tensors(half / "checkpoint.safetensors", {"x": torch.zeros(3)}, {})
    assert "checkpoint.safetensors belongs to another model" in complaint(resume, half)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({}, {}),
        ({}, {"state": "{}"}),
        ({"odd": torch.zeros(1)}, None),
        ({"a/b": torch.zeros(1)}, None),
    ],
    ids=str,
)
def test_checkpoints_that_are_none(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, half: Path
):
    """A checkpoint without the state, or with more than it, is none of ours."""
    path = half / "checkpoint.safetensors"
    found, meta = load_tensors(path)
    save_tensors(path, found | tensors, meta if metadata is None else metadata)
    assert complaint(resume, half).startswith(f"{path} is not a checkpoint of this program (")


@pytest.mark.parametrize(
    "changes",
    [
        {"data": None},
        {"config": None},
        {"data": {"source": {}}},
        {"config": {"speed": 3}},
        {"model": 7},
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
    assert complaint(resume, half) == (
        f"{half / 'training.json'} does not describe a run: steps is -4: it must be positive; "
        "restore it, or train a new run"
    )


@pytest.mark.parametrize("damage", ["{", "remove"])
def test_damaged_tokenizers(damage: str, half: Path):
    """A tokenizer.json that is missing or cut short is named, with the remedy."""
    path = half / "tokenizer.json"
    if damage == "remove":
        path.unlink()
    else:
        path.write_text(damage)
    for action in (resume, lambda run: load_tokenizer(run / "tokenizer.json")):
        said = complaint(action, half)
        assert said.startswith(f"{path} is {'missing' if damage == 'remove' else 'damaged'}")
        assert said.endswith("restore it, or train the run again")


@pytest.mark.parametrize("line", ['{"step": ', "[]", '{"steps": 3}', '{"step": "3"}'])
def test_damaged_metrics(line: str, half: Path):
    """A line of metrics that is none is named with its number."""
    path = half / "metrics.jsonl"
    path.write_text(path.read_text() + line + "\n")
    number = len(path.read_text().splitlines())
    for action in (resume, lambda run: read_metrics(run / "metrics.jsonl")):
        assert complaint(action, half).startswith(f"{path} is damaged at line {number} (")
    assert read_metrics(half / "no such file") == []


def test_data_that_has_changed(half: Path, stopped: Path, tmp_path: Path):
    """A run whose grammar is gone or another is not resumed on other data."""
    grammar = stopped.parent / "weather.toml"
    text = grammar.read_text()
    try:
        grammar.write_text(text.replace("rains", "pours"))
        assert "the data has changed since this run began" in complaint(resume, half)
        grammar.unlink()
        assert str(grammar) in complaint(resume, half)
    finally:
        grammar.write_text(text)


# --- not overwriting -------------------------------------------------------------------------


def test_a_run_is_not_trained_over(run: Path, half: Path):
    """Training into a folder that holds a run, finished or not, is refused with the way on."""
    for folder in (run, half):
        said = complaint(begin, folder)
        assert said == (
            f"{folder} already holds a run; go on with it (kullback train --resume {folder}), or "
            "choose another folder"
        )


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "checkpoint.safetensors"]
)
def test_a_model_is_not_trained_over(name: str, tmp_path: Path):
    """Training into a folder with somebody's model files is refused with their names."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / name).write_text("precious")
    assert complaint(begin, folder) == (
        f"{folder} already holds {name}, which training would overwrite; choose another folder "
        "with -o"
    )


def test_a_folder_that_is_a_file(tmp_path: Path):
    """A run folder that is a file is named, and the file stays."""
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(RunError, match=r"file cannot be used as a run folder: File exists; .*-o"):
        begin(path)
    assert path.read_text() == "mine"


HOLD = """
import sys, pathlib
from kullback.training.run_folder import locked
with locked(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_is_in_the_folder(half: Path):
    """While one process has the folder, others are refused with its number, and may enter later."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, half], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\n"
        for action in (resume, begin):
            assert complaint(action, half) == (
                f"{half} is in use by process {first.pid}; wait for it, stop it, or choose "
                "another folder with -o"
            )
    finally:
        first.kill()
        first.communicate()
    with locked(half):
        assert (half / ".lock").read_text() == str(os.getpid())


# --- the disk --------------------------------------------------------------------------------

LIMITED = """
import pathlib, resource, sys
from kullback.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
sys.exit(main(sys.argv[2:]))
"""


def test_a_disk_that_fills_up_loses_nothing(half: Path):
    """Where no checkpoint fits, `kullback train --resume` exits with 2 and the last one stays."""
    before = contents(half)
    limit = len(before["checkpoint.safetensors"]) // 2
    assert limit > len(before["metrics.jsonl"]) + 2000
    arguments = [sys.executable, "-c", LIMITED, str(limit), "train", "--resume", half]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())  # the terminal's lines are of its own width
    assert f"kullback: {half / 'checkpoint.safetensors'} cannot be written: File too large;" in said
    assert "what was there before is unharmed. Free some space" in said
    after = contents(half)
    metrics = "metrics.jsonl"  # has lines more, which are dropped when the run goes on
    assert after.pop(metrics).startswith(before.pop(metrics))
    assert after == before
    assert fingerprint(resume(half)) == fingerprint(begin(half.parent / "alone"))


@pytest.mark.parametrize("number", range(1, 10))
def test_any_write_may_fail(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever file the full disk meets, nothing is half there and the run can be gone on with."""
    counted, real = 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal counted
        counted += 1
        if counted == number:
            raise OSError(28, os.strerror(28))
        real(descriptor)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(RunError, match="cannot be written: No space left on device; what was"):
            begin(run)
    assert not any(run.glob(".*.part"))
    for name, content in contents(run).items():
        if name.endswith(".json"):
            json.loads(content)
        elif name.endswith(".safetensors"):
            load_tensors(run / name)
    again = resume(run) if (run / "training.json").exists() else begin(run)
    assert fingerprint(again) == fingerprint(begin(tmp_path / "alone"))


def test_a_full_disk_at_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk so full that not even the lock can be written is one sentence."""

    def write(descriptor: int, content: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(RunError, match="run cannot be used as a run folder: No space left on dev"):
        begin(tmp_path / "run")


def test_json_comes_back(tmp_path: Path):
    """An object is read as it was written, accents and all."""
    (tmp_path / "a.json").write_text('{"verbo": "comió"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"verbo": "comió"}
