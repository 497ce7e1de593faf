"""Sharded training (FSDP2) in two processes, and what it shares with training in one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sharded_processes
from interrupted_runs import BATCHES
from kullback.errors import InvalidValueError
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.training import muon, state
from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import train
from kullback.training.memory import training_bytes, with_sharding
from kullback.training.replicas import check_shares
from kullback.training.run_folder import load_tensors
from kullback.training.sharded_muon import rows_of_shards
from sharded_processes import SHARDED, model
from tiny_runs import contents, metrics_but_times


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthogonalise in float32 by torch, as the processes do: other last bits are amplified."""
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(state, "muon_functions", lambda: None)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on a source and on a text in two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    assert sharded_processes.run("train", folder) == []
    return folder


@pytest.fixture(scope="module")
def stopped_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on the source in two processes, and stop them."""
    folder = tmp_path_factory.mktemp("stopped")
    assert sharded_processes.run("stop", folder) == []
    return folder


def assert_close(run: Path, other: Path) -> None:
    """The curves of two runs agree to 1e-6 nats, and their final weights to a few roundings."""
    ours, theirs = metrics_but_times(run), metrics_but_times(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    names = ("cross_entropy", "validation_cross_entropy")
    for line, another in zip(ours, theirs, strict=True):
        for name in names:
            assert line[name] == pytest.approx(another[name], abs=1e-6)
    weights, others = (load_tensors(folder / "model.safetensors")[0] for folder in (run, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=5e-6, rtol=0.0)


def assert_same_bits(run: Path, other: Path) -> None:
    """Curve, model and both last checkpoints are equal to the last bit."""
    assert metrics_but_times(run) == metrics_but_times(other)
    ours, theirs = contents(run), contents(other)
    assert ours.keys() == theirs.keys()
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    shards = [name for name in ours if "/shard-" in name]
    assert len(shards) == 2 * 2 * 4  # checkpoints, processes, kinds of tensors
    for name in shards:  # the library writes metadata in no fixed order
        tensors, others = (load_tensors(folder / name)[0] for folder in (run, other))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors)


@pytest.mark.slow
def test_shards_of_the_gradient_are_those_of_one_process(tmp_path: Path):
    """Initial weights are equal, and gradients are sums over processes and parts, not means."""
    assert sharded_processes.run("gradients", tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("source", {"accumulate": 4}), ("text", {"accumulate": 6, "muon_rows": 6})],
)
def test_two_sharded_processes_give_the_run_of_one(
    kind: str, changes: dict[str, int], sharded: Path, tmp_path: Path
):
    """The curve, in nats, and the final weights agree with those of one process."""
    config = replace(SHARDED, fsdp=False, **changes)  # type: ignore[arg-type]
    batches = BATCHES[kind](tmp_path)
    train(tmp_path / "run", batches, model(batches), config)
    assert_close(sharded / kind, tmp_path / "run")


@pytest.mark.slow
def test_a_stopped_sharded_run_resumes_bit_for_bit(
    stopped_pair: Path, sharded: Path, tmp_path: Path
):
    """Resumed by as many processes, the run has the bytes of an uninterrupted one."""
    folder = Path(shutil.copytree(stopped_pair, tmp_path / "copied"))
    assert sharded_processes.run("resume", folder) == []
    assert not (folder / "notes.txt").exists()
    assert_same_bits(folder / "stopped", sharded / "source")


@pytest.mark.slow
def test_one_process_resumes_a_sharded_run(stopped_pair: Path, sharded: Path, tmp_path: Path):
    """One process reads the shards of two and ends within 1e-6, with a note about the bits."""
    folder = Path(shutil.copytree(stopped_pair, tmp_path / "copied"))
    sharded_processes.go_on(folder, ProcessGroup())
    (note,) = (folder / "notes.txt").read_text().splitlines()
    assert "2 processes" in note
    assert "last bits" in note
    assert_close(folder / "stopped", sharded / "source")


@pytest.mark.slow
def test_two_processes_fall_back_together(stopped_pair: Path, sharded: Path, tmp_path: Path):
    """Where a file of one process is damaged, both resume from the checkpoint before."""
    folder = Path(shutil.copytree(stopped_pair, tmp_path / "copied"))
    last = folder / "stopped" / "checkpoint-sharded" / "10"
    path = max(last.glob("shard-00002-*"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert sharded_processes.run("resume", folder) == []
    note = (folder / "notes.txt").read_text()
    assert "step 8" in note
    assert path.name in note
    assert_same_bits(folder / "stopped", sharded / "source")


@pytest.mark.slow
def test_a_killed_process_loses_nothing(sharded: Path, tmp_path: Path):
    """After SIGKILL of rank 0 the other says so, and the resumed run has the bits of another."""
    said = sharded_processes.run("die", tmp_path)
    assert len(said) == 2
    assert "another process" in said[1]
    assert sharded_processes.run("resume", tmp_path) == []
    assert_same_bits(tmp_path / "stopped", sharded / "source")


def test_shards_are_all_rows():
    """Shards have the rows that torch.chunk gives, and none where there are too few rows."""
    for rows, shards in ((17, 2), (3, 4), (5, 4), (12, 3)):
        expected = [len(part) for part in torch.empty(rows).chunk(shards)]
        assert rows_of_shards(rows, shards) == expected + [0] * (shards - len(expected))


def test_another_number_of_processes_is_noted():
    """A sharded run that another number of processes resumes says that last bits may differ."""
    notes: list[str] = []

    class Kept(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    config = TrainingConfig(processes=4, fsdp=True)
    check_shares(config, 24, ProcessGroup(0, 4, 4), Kept())
    assert notes == []
    check_shares(config, 24, ProcessGroup(0, 2, 2), Kept())
    assert "4 processes" in notes[0]
    assert "2" in notes[0]


GPT = GPTConfig(50_000, 1024, 4096, 32, 32, 11_008)


def test_the_estimate_of_memory_knows_shards():
    """Eight processes take a fraction of the memory of replicas."""
    replicas = TrainingConfig(processes=8, checkpoint_activations=True)
    shards = replace(replicas, fsdp=True)
    assert training_bytes(GPT, 8192, shards) < training_bytes(GPT, 8192, replicas) / 3


@pytest.mark.parametrize(
    ("choice", "gigabytes", "is_sharded"),
    [("auto", 4000, False), ("auto", 400, True), ("auto", 10, False), ("never", 400, False),
     ("always", 4000, True)],
)  # fmt: skip
def test_automatic_sharding(
    choice: str, gigabytes: int, is_sharded: bool, monkeypatch: pytest.MonkeyPatch
):
    """A run is sharded where its replicas do not fit in memory and its shards do."""
    monkeypatch.setattr("kullback.training.memory.machine_memory", lambda: gigabytes * 10**9)
    config = TrainingConfig(processes=8, checkpoint_activations=True)
    assert with_sharding(config, choice, GPT, 8192, 8).fsdp is is_sharded


def test_refused_sharding():
    """One process cannot share, and another word is no choice; each is one sentence."""
    for choice, processes, named in (
        ("always", 1, "torchrun"),
        ("full", 2, "auto, always, never"),
    ):
        with pytest.raises(InvalidValueError, match=named):
            with_sharding(TrainingConfig(processes=processes), choice, GPT, 64, processes)
