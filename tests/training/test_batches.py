"""Batches of sentences and of windows: a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.training.batches import Batches
from tiny_runs import same_shards, sequences, text, weather

Make = Callable[..., Batches]
BOTH = pytest.mark.parametrize("make", [weather, text])


@BOTH
def test_a_batch_is_a_function_of_seed_and_step(make: Make, tmp_path: Path):
    """The batch of a step is the same whatever was asked before, and another for other seeds."""
    walked, fresh = make(tmp_path, seed=3), make(tmp_path, seed=3)
    seen = [walked.shards(step, 2) for step in range(4)]
    assert same_shards(fresh.shards(3, 2), seen[3])
    assert same_shards(walked.shards(1, 2), seen[1])
    assert same_shards(fresh.validation(), walked.validation())
    assert not same_shards(seen[2], seen[3])
    assert not same_shards(make(tmp_path, seed=4).shards(3, 2), seen[3])


@BOTH
def test_the_global_generators_are_not_touched(make: Make, tmp_path: Path):
    """Making a batch reads and moves no global random state."""
    batches = make(tmp_path)
    np.random.seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    batches.shards(0, 2)
    batches.validation()
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@BOTH
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_are_the_batch_cut_up(make: Make, count: int, tmp_path: Path):
    """Any number of shards hold the same sequences together."""
    batches = make(tmp_path)
    whole, cut = batches.shards(7, 1), batches.shards(7, count)
    assert sorted(sequences(cut)) == sorted(sequences(whole))
    assert len(cut) == count


@BOTH
def test_targets_are_the_inputs_one_later(make: Make, tmp_path: Path):
    """Within a sequence each target is the next input."""
    for inputs, targets in sequences(make(tmp_path).shards(0, 2)):
        assert inputs[1:] == targets[:-1]
