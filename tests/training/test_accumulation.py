"""Gradient accumulation and activation checkpointing: the same training in less memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interrupted_runs import BATCHES, CONFIG, assert_same_run
from kullback.errors import InvalidValueError
from kullback.training import muon
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.loss import gradients
from kullback.training.memory import training_bytes
from kullback.training.state import TrainingState
from tiny_runs import metrics_but_times, sizes, text, weather


@pytest.mark.parametrize(("kind", "shards", "accumulate"), [("text", 1, 2), ("text", 1, 6)])
def test_parts_of_a_batch_give_the_curve_of_the_whole(
    kind: str, shards: int, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As many pieces give the very bits of threads; other numbers the curve to 1e-6.

    In float32: Muon's bfloat16 would make 1e-5 of the last bits of a gradient.
    """
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: False)
    batches = BATCHES[kind](tmp_path)
    config = replace(CONFIG, shards=shards, accumulate=accumulate, checkpoint_activations=True)
    runs = tmp_path / "run", tmp_path / "whole"
    train(runs[0], batches, sizes(batches), config)
    train(runs[1], batches, sizes(batches), CONFIG)
    ours, theirs = map(metrics_but_times, runs)
    if shards * accumulate == CONFIG.shards:
        assert ours == theirs
        weights = [run / "model.safetensors" for run in runs]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    for line, other in zip(ours, theirs, strict=True):
        assert line["cross_entropy"] == pytest.approx(other["cross_entropy"], abs=1e-6)


def test_a_stopped_run_with_accumulation_resumes_bit_for_bit(tmp_path: Path):
    """With parts, checkpointed activations and dropout, too, it has the bytes of another."""
    batches = weather(tmp_path)
    config = replace(CONFIG, accumulate=4, checkpoint_activations=True, dropout=0.2, steps=9)
    train(tmp_path / "whole", batches, sizes(batches), config)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", batches, sizes(batches), config, stop_at=5)
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_one_part_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No more pieces are processed at once than there are threads, and all of them are."""
    seen: list[int] = []

    def counted(state: TrainingState, shard: object, total: int) -> object:
        seen.append(len(shard.lengths_N))  # type: ignore[attr-defined]
        return gradients(state, shard, total)  # type: ignore[arg-type]

    monkeypatch.setattr("kullback.training.steps.gradients", counted)
    batches = text(tmp_path)
    config = TrainingConfig(steps=1, shards=2, accumulate=3)
    train(tmp_path / "run", batches, sizes(batches), config)
    assert seen == [2] * 6


def test_checkpointed_activations_give_the_same_gradients(tmp_path: Path):
    """Losses and gradients are equal bit for bit, and each block is computed twice."""
    batches = text(tmp_path)
    state = TrainingState(GPT(GPTConfig(batches.vocabulary_size, 8, 16, 3, 2, 32)), CONFIG)
    (piece,) = batches.shards(0, 1)
    whole, sums = gradients(state, piece, 96)
    computed: list[object] = []
    for block in state.model.model.layers:
        block.register_forward_pre_hook(lambda block, _: computed.append(block))
    state.model.checkpoint_activations = True
    again, sums_again = gradients(state, piece, 96)
    assert sums_again() == sums()
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert len(computed) == 2 * 3


def test_the_estimate_of_memory_knows_them():
    """Parts, processes and checkpointed activations each lower the memory of activations."""
    gpt = GPTConfig(1000, 64, layers=12)
    whole = training_bytes(gpt, 10**6, TrainingConfig())
    for config in (
        TrainingConfig(accumulate=4),
        TrainingConfig(processes=4),
        TrainingConfig(checkpoint_activations=True),
    ):
        assert training_bytes(gpt, 10**6, config) < whole / 3


@pytest.mark.parametrize(
    ("config", "named", "nearest"),
    [
        (TrainingConfig(accumulate=5), "accumulate", "10"),
        (TrainingConfig(processes=8), "8 processes", "16"),
        (TrainingConfig(accumulate=100), "100", "100"),
    ],
)
def test_a_batch_that_is_not_divided_evenly(
    config: TrainingConfig, named: str, nearest: str, tmp_path: Path
):
    """What does not divide the batch is one sentence with the nearest batch that works."""
    from kullback.training.replicas import check_divides

    with pytest.raises(InvalidValueError, match=rf"12.*{named}.*--batch {nearest}\b"):
        check_divides(config, 12)
