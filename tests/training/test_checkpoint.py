"""Checkpoints: complete, and refused where damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interrupted_runs import assert_same_run, complaint, start
from kullback.runtime.progress import Progress
from kullback.training.gpt import GPT
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume
from kullback.training.run_folder import load_tensors, save_tensors
from tiny_runs import sizes, weather


def test_a_checkpoint_is_the_complete_state(tmp_path: Path):
    """A checkpoint holds weights, momenta, both moments and counts of AdamW, step and sums."""
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        start(run, "source", stop_at=5)
    tensors, metadata = load_tensors(run / "checkpoint.safetensors")
    names = {name for name, _ in GPT(sizes(weather(tmp_path))).named_parameters()}
    kinds: dict[str, set[str]] = {}
    for key in tensors:
        kind, name = key.split("/", 1)
        kinds.setdefault(kind, set()).add(name)
    assert kinds["weight"] == names
    assert kinds["momentum_buffer"] | kinds["exp_avg"] == names
    assert not kinds["momentum_buffer"] & kinds["exp_avg"]
    assert kinds["exp_avg"] == kinds["exp_avg_sq"] == kinds["step"]
    assert all(tensors[f"step/{name}"] == 5 for name in kinds["step"])
    state = json.loads(metadata["state"])
    assert state["step"] == 5
    assert state["recent"]["tokens"] > 0  # steps 4 and 5: the last line was at 3


@pytest.mark.parametrize("kept", [0, 7, 100, 1500, -1])
def test_truncated_checkpoints(kept: int, half: Path):
    """A truncated checkpoint is damaged, and is not overwritten."""
    path = half / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert complaint(resume, half).startswith(f"{path} is damaged or truncated (")


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
    """A checkpoint that lacks the state, or has other tensors, is refused."""
    path = half / "checkpoint.safetensors"
    stored, stored_metadata = load_tensors(path)
    save_tensors(path, stored | tensors, stored_metadata if metadata is None else metadata)
    assert complaint(resume, half).startswith(f"{path} is not a checkpoint of kullback (")


def changed(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> None:
    """Change tensors and counters of a checkpoint."""
    tensors, metadata = load_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    counters = json.loads(metadata["state"])
    change(tensors, counters)
    save_file(tensors, path, {"state": json.dumps(counters)})


@pytest.mark.parametrize("kind", ["momentum_buffer", "exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("damage", ["removed", "all removed", "NaN", "shape", "integers"])
def test_states_of_optimisers_are_complete(kind: str, damage: str, half: Path):
    """A state that is missing, of another shape or type, or not finite is named."""

    def change(tensors: dict[str, torch.Tensor], counters: dict[str, Any]) -> None:
        keys = [key for key in tensors if key.startswith(f"{kind}/")]
        for key in keys if damage == "all removed" else keys[:1]:
            value = tensors.pop(key)
            if damage == "NaN":
                tensors[key] = torch.full_like(value, torch.nan)
            elif damage == "shape":
                tensors[key] = torch.zeros(3, 1, 2)
            elif damage == "integers":
                tensors[key] = value.int()

    changed(half / "checkpoint.safetensors", change)
    said = complaint(resume, half)
    assert "is not a checkpoint of kullback (" in said
    assert f"{kind}/" in said


def test_weights_are_finite(half: Path):
    """An infinite weight is named."""
    changed(
        half / "checkpoint.safetensors",
        lambda tensors, _: tensors["weight/model.norm.weight"].fill_(torch.inf),
    )
    assert "model.norm.weight contains NaN or infinity" in complaint(resume, half)


@pytest.mark.parametrize(
    "counters",
    [
        {"step": -1}, {"step": 0}, {"step": 10**9}, {"step": 2**70}, {"step": 1.5}, {"step": 2},
        {"tokens": -1}, {"tokens": "1"}, {"recent": {"tokens": "x"}}, {"recent": []},
    ],
    ids=str,
)  # fmt: skip
def test_counters_are_possible(counters: dict[str, Any], half: Path):
    """Steps beyond the run, negative numbers and other types are refused."""
    changed(half / "checkpoint.safetensors", lambda _, stored: stored.update(counters))
    assert "is not a checkpoint of kullback (" in complaint(resume, half)


class Notes(Progress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


@pytest.mark.parametrize("damage", ["cut", "bit", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, stopped: Path, uninterrupted: dict[str, Path], tmp_path: Path
):
    """Cut, with one bit changed, or gone: the run resumes from the one before, bit for bit."""
    copied = Path(shutil.copytree(stopped, tmp_path / "run"))
    path = copied / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[-5] ^= 1
        path.write_bytes(content[:-100] if damage == "cut" else content)
    notes = Notes()
    resume(copied, progress=notes)
    (note,) = notes.notes
    assert "step 4" in note
    assert str(path) in note
    assert "restore" not in note
    assert_same_run(copied, uninterrupted["source"])


def test_a_damaged_checkpoint_is_never_the_one_before(stopped: Path, tmp_path: Path):
    """After a fallback the next save keeps the checkpoint that the run was resumed from."""
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    (run / "checkpoint.safetensors").write_bytes(b"damaged")
    for stop, kept in ((7, 4), (8, 7)):
        with pytest.raises(Interrupted):
            resume(run, progress=Notes(), stop_at=stop)
        _, metadata = load_tensors(run / "checkpoint.before.safetensors")
        assert json.loads(metadata["state"])["step"] == kept


def test_a_save_that_was_killed_half_way_leaves_no_other_file(tmp_path: Path):
    """Both names are of one file where a run was killed before the new one had its name."""
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        start(run, "source", stop_at=5)
    (run / "checkpoint.before.safetensors").unlink(missing_ok=True)
    os.link(run / "checkpoint.safetensors", run / "checkpoint.before.safetensors")
    with pytest.raises(Interrupted):
        resume(run, stop_at=6)
    assert {path.name for path in run.glob("*checkpoint*")} | {
        path.name for path in run.glob(".*checkpoint*")
    } == {"checkpoint.safetensors", "checkpoint.before.safetensors"}
