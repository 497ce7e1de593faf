"""Checkpoints: complete, and refused where damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from interrupted_runs import complaint, start
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
