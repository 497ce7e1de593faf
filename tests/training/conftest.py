"""Fixtures of the tests of training: finished, stopped and uninterrupted runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from interrupted_runs import BATCHES, CONFIG, start
from kullback.training.interruption import Interrupted
from kullback.training.loop import train
from tiny_runs import sizes, trained, weather


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train a run of each kind from beginning to end."""
    runs = {kind: tmp_path_factory.mktemp(kind) / "run" for kind in BATCHES}
    for kind, run in runs.items():
        start(run, kind)
    return runs


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
    """Copy the stopped run, with its last checkpoint only."""
    copied = Path(shutil.copytree(stopped, tmp_path / "half"))
    (copied / "checkpoint.before.safetensors").unlink()
    return copied
