"""Short training runs of tests that stop, damage and resume them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kullback.errors import KullbackError
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.loop import resume, train
from kullback.training.run_folder import load_model
from tiny_runs import contents, fingerprint, metrics_but_times, sizes, text, weather

CONFIG = TrainingConfig(
    steps=26, shards=2, log_every=3, evaluate_every=10, checkpoint_every=4, warmup_steps=5
)


BATCHES = {"source": weather, "text": text}


def start(run: Path, kind: str, **options: object) -> GPT:
    """Train a new model in `run`; the data is in the parent folder."""
    batches = BATCHES[kind](run.parent)
    return train(run, batches, sizes(batches), CONFIG, **options)  # type: ignore[arg-type]


def start_or_resume(run: Path, kind: str, **options: object) -> GPT:
    """Resume the run where it has begun, start it otherwise."""
    if (run / "training.json").exists():
        return resume(run, **options)  # type: ignore[arg-type]
    return start(run, kind, **options)


def assert_same_run(run: Path, uninterrupted: Path) -> None:
    """Everything on disk is equal to the last bit, except measured times."""
    assert metrics_but_times(run) == metrics_but_times(uninterrupted)  # the first step that differs
    assert fingerprint(load_model(run)) == fingerprint(load_model(uninterrupted))
    ours, theirs = contents(run), contents(uninterrupted)
    assert sorted(ours) == sorted(theirs)
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    assert ours["checkpoint.safetensors"] == theirs["checkpoint.safetensors"]


def complaint(action: Callable[[Path], object], folder: Path) -> str:
    """Return the error message of `action`, one line, having checked that it changes no file."""
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
