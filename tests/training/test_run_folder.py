"""Files of a run folder: whatever is wrong with one is one sentence, and no file is changed."""

from __future__ import annotations

import json
import os
import resource
from functools import partial
from pathlib import Path

import pytest
import torch

from interrupted_runs import CONFIG, complaint, edit_json
from kullback.cli import main
from kullback.errors import RunError
from kullback.runtime import files
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import resume, train
from kullback.training.run_folder import (
    load_model,
    load_tensors,
    load_tokenizer,
    read_json,
    save_model,
    save_tensors,
)
from tiny_runs import contents, fingerprint, sizes, weather


def begin(run: Path) -> GPT:
    """Train a new model in `run`."""
    batches = weather(run.parent)
    return train(run, batches, sizes(batches), CONFIG)


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
    """A run without its final model says how to resume."""
    said = complaint(load_model, half)
    assert said.startswith(f"{half} contains a run that is not finished")
    assert f"kullback train --resume {half}" in said


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 1500, -1])
def test_truncated_weights(kept: int, run: Path):
    """Truncated weights are damaged, with the file's name and the remedy."""
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    said = complaint(load_model, run)
    assert said.startswith(f"{path} is damaged or truncated (")
    assert said.endswith("; restore it, or train the run again")


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
        ({"model_type": "gpt2"}, "a model of type 'gpt2'"),
        ({"hidden_size": None}, "does not describe a mini-GPT: it has no 'hidden_size'"),
        ({"hidden_size": 32, "head_dim": 16}, "belongs to another model: model.embed_tokens"),
        ({"num_hidden_layers": 2}, "model.layers.1.input_layernorm.weight is no such weight"),
        ({"vocab_size": 99}, "the configuration asks for (99, 16)"),
        ({"num_hidden_layers": 0}, "layers is 0: it must be a whole number"),
        ({"num_hidden_layers": 1.5}, "layers is 1.5: it must be a whole number"),
        ({"hidden_size": "16"}, "does not describe a mini-GPT"),
        ({"num_attention_heads": 0}, "does not describe a mini-GPT"),
        (
            {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 5},
            "width is 16 and heads is 3: rotary positions need a width that is a multiple of",
        ),
        ({"vocab_size": 10**13}, "vocabulary_size is 10000000000000: it must be a whole number"),
        ({"vocab_size": 10**7}, "and the weights are"),
        ({"hidden_size": 2**16, "head_dim": 2**15}, "and the weights are"),
        ({"num_hidden_layers": 10**4}, "(10,000 layers"),
        ({"num_hidden_layers": 10**12}, "layers is 1000000000000: it must be a whole number"),
        ({"vocab_size": float("nan")}, "damaged"),
    ],
    ids=str,
)
def test_configurations_of_another_model(changes: dict[str, object], message: str, run: Path):
    """A configuration that does not match the weights is named with both values."""
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


def test_a_disk_that_fills_up_loses_nothing(half: Path, capsys: pytest.CaptureFixture[str]):
    """Where no checkpoint fits, `kullback train --resume` exits with 2 and the last one stays."""
    before = contents(half)
    limit = len(before["checkpoint.safetensors"]) // 2
    assert limit > len(before["metrics.jsonl"]) + 2000
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        assert main(["train", "--resume", str(half)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    said = " ".join(capsys.readouterr().err.split())  # the terminal's lines are of its own width
    assert f"kullback: {half / 'checkpoint.safetensors'} cannot be written: File too large;" in said
    assert "unchanged" in said
    after = contents(half)
    metrics = "metrics.jsonl"  # has more lines, which are dropped when the run is resumed
    assert after.pop(metrics).startswith(before.pop(metrics))
    assert after == before
    assert fingerprint(resume(half)) == fingerprint(begin(half.parent / "alone"))


@pytest.mark.parametrize("number", range(1, 10))
def test_any_write_may_fail(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever write fails on a full disk, no file is partial and the run can be resumed."""
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
        with pytest.raises(RunError, match="cannot be written: No space left on device"):
            begin(run)
    assert not any(run.glob(".*.part"))
    for name, content in contents(run).items():
        if name.endswith(".json"):
            json.loads(content)
        elif name.endswith(".safetensors"):
            load_tensors(run / name)
    again = resume(run) if (run / "training.json").exists() else begin(run)
    assert fingerprint(again) == fingerprint(begin(tmp_path / "alone"))


def test_json_comes_back(tmp_path: Path):
    """An object is read as it was written, accents and all."""
    (tmp_path / "a.json").write_text('{"verbo": "comió"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"verbo": "comió"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite(value: float, run: Path, capsys: pytest.CaptureFixture[str]):
    """One such weight is named, by `sample` as by `evaluate`."""
    path = run / "model.safetensors"
    tensors, metadata = load_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["model.embed_tokens.weight"][3, 2] = value
    save_tensors(path, tensors, metadata)
    assert "embed_tokens.weight contains NaN or infinity" in complaint(load_model, run)
    for command in ("sample", "evaluate"):
        assert main([command, str(run)]) == 2
        assert "contains NaN or infinity" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["config.json", "training.json", "tokenizer.json", "model.safetensors"]
)
def test_pipes_are_refused(name: str, run: Path):
    """No file of a run is waited for."""
    (run / name).unlink()
    os.mkfifo(run / name)
    action = resume if name == "training.json" else load_model
    if name == "tokenizer.json":
        action = partial(load_tokenizer, run / name)
    with pytest.raises(RunError, match="named pipe"):
        action(*() if name == "tokenizer.json" else (run,))


@pytest.mark.parametrize("name", ["config.json", "training.json"])
def test_nested_json(name: str, run: Path):
    """A hundred thousand brackets are no crash."""
    (run / name).write_text('{"a": ' + "[" * 100_000)
    assert "nested" in complaint(load_model if name == "config.json" else resume, run)


def test_the_folder_of_an_export_is_no_run(tmp_path: Path) -> None:
    """The sentence says what it is, and what can be evaluated."""
    (tmp_path / "floor.json").write_text("{}")
    with pytest.raises(RunError, match=r"exported source.*--source"):
        read_json(tmp_path / "config.json")
