"""Batches: a function of the seed and the step, with the truth beside every token."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.errors import InvalidValueError, RunError
from kullback.sources.catalogue import open_source
from kullback.training.batches import (
    Batches,
    SentenceBatches,
    Shard,
    TextBatches,
    batches_from_spec,
)
from tiny_runs import text, weather

Make = Callable[..., Batches]
BOTH = pytest.mark.parametrize("make", [weather, text])


def same(first: list[Shard], second: list[Shard]) -> bool:
    """Whether two batches hold the same inputs and targets."""
    return len(first) == len(second) and all(
        torch.equal(a.inputs_M, b.inputs_M) and torch.equal(a.targets_M, b.targets_M)
        for a, b in zip(first, second, strict=True)
    )


def sequences(shards: list[Shard]) -> list[tuple[list[int], list[int]]]:
    """Return the inputs and targets of each sequence."""
    found = []
    for shard in shards:
        lengths = shard.lengths_N.tolist()
        inputs, targets = shard.inputs_M.split(lengths), shard.targets_M.split(lengths)
        found += [(a.tolist(), b.tolist()) for a, b in zip(inputs, targets, strict=True)]
    return found


@BOTH
def test_a_batch_is_a_function_of_seed_and_step(make: Make, tmp_path: Path):
    """The batch of a step is the same whatever was asked before, and another for other seeds."""
    walked, fresh = make(tmp_path, seed=3), make(tmp_path, seed=3)
    seen = [walked.shards(step, 2) for step in range(4)]
    assert same(fresh.shards(3, 2), seen[3])
    assert same(walked.shards(1, 2), seen[1])
    assert same(fresh.validation(), walked.validation())
    assert not same(seen[2], seen[3])
    assert not same(make(tmp_path, seed=4).shards(3, 2), seen[3])


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


def test_sentences_begin_and_end(tmp_path: Path):
    """A sentence's inputs begin with the beginning token, its targets end with the end token."""
    for inputs, targets in sequences(weather(tmp_path).shards(0, 2)):
        assert inputs[0] == 0
        assert targets[-1] == 1
        assert not {0, 1} & set(targets[:-1])


def test_surprisals_are_those_of_the_source(tmp_path: Path):
    """Each token carries -log p given its prefix, and a sentence the sum that the source says."""
    batches = weather(tmp_path)
    language = batches.source.training
    for shard in batches.shards(0, 2):
        assert shard.surprisals_M is not None
        surprisals = shard.surprisals_M.split(shard.lengths_N.tolist())
        for (_, targets), found in zip(sequences([shard]), surprisals, strict=True):
            for t, token in enumerate(targets):
                p = language.next_token_distribution(targets[:t])[token]
                assert found[t].item() == pytest.approx(-math.log(p), abs=1e-12)
            assert found.sum().item() == pytest.approx(-language.sentence_log_prob(targets))


def test_sentence_validation_is_a_sample_of_its_own(tmp_path: Path):
    """Validation sentences are no training step's batch."""
    batches = weather(tmp_path, sentences=1024)
    held = sequences(batches.validation())
    assert len(held) == 1024
    assert all(sequences(batches.shards(step, 1)) != held for step in range(20))


def test_the_last_tenth_of_a_text_never_trains(tmp_path: Path):
    """Training windows lie in the first nine tenths, validation windows tile the last one."""
    batches = text(tmp_path)
    place = TextBatches(
        np.arange(len(batches.tokens)), batches.tokenizer, (), batches.context, 400, 0
    )
    split = len(batches.tokens) * 9 // 10
    drawn = [shard for step in range(40) for shard in place.shards(step, 1)]
    seen = {i for s in drawn for i in (*s.inputs_M.tolist(), *s.targets_M.tolist())}
    assert max(seen) == split - 1
    assert len(seen) > 0.99 * split
    held = [i for shard in place.validation() for i in shard.targets_M.tolist()]
    assert held == list(range(split + 1, split + 1 + len(held)))
    assert len(batches.tokens) - len(held) - split <= batches.context + 1


def test_text_shards_know_no_surprisal(tmp_path: Path):
    """A text's tokens carry no true surprisal and its floor is unknown."""
    batches = text(tmp_path)
    assert batches.floor is None
    assert all(shard.surprisals_M is None for shard in batches.shards(0, 2))


def test_the_floor_is_the_entropy_of_the_source(tmp_path: Path):
    """The floor is minus the mean over all sentences of log p, per token."""
    batches = weather(tmp_path)
    assert batches.floor == batches.source.training.entropy_per_token
    mean = np.mean(
        [s.surprisals_M.sum().item() for step in range(200) for s in batches.shards(step, 1)]
    )
    tokens = np.mean([len(s.targets_M) for step in range(200) for s in batches.shards(step, 1)])
    assert mean / tokens == pytest.approx(batches.floor, abs=0.01)


@BOTH
def test_a_description_is_enough(make: Make, tmp_path: Path):
    """Batches rebuilt from their description are the same batches."""
    batches = make(tmp_path, seed=5)
    again = batches_from_spec(dict(batches.spec), batches.tokenizer)
    assert again.spec == batches.spec
    assert same(again.shards(11, 2), batches.shards(11, 2))


@BOTH
def test_changed_data_is_noticed(make: Make, tmp_path: Path):
    """Batches are not rebuilt from data that has changed since."""
    batches = make(tmp_path)
    for path in (tmp_path / "weather.toml", tmp_path / "weather.txt"):
        if path.exists():
            path.write_text(path.read_text("utf-8").replace("rains", "pours"), "utf-8")
    with pytest.raises(RunError, match=r"data has changed since this run began.*restore the data"):
        batches_from_spec(dict(batches.spec), batches.tokenizer)


def test_endless_languages_are_cut_at_the_context(tmp_path: Path):
    """A sentence beyond the context is cut there, and the tokens that stay keep their surprisal."""
    path = tmp_path / "endless.toml"
    path.write_text(
        'name = "endless"\nstart = "s"\n[rules]\n'
        's = [{ p = 0.99, then = "on <s>" }, { p = 0.01, then = "" }]\n'
    )
    batches = SentenceBatches(open_source(str(path)), sentences=64)
    shards = batches.shards(0, 2)
    assert max(shard.lengths_N.max() for shard in shards) == batches.context == 256
    for shard in shards:
        on = shard.targets_M == 2
        assert shard.surprisals_M[on].numpy() == pytest.approx(-math.log(0.99))
        assert shard.surprisals_M[~on].numpy() == pytest.approx(-math.log(0.01))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (weather, {"sentences": 0}, "sentences is 0: a batch needs at least one sentence"),
        (weather, {"seed": -1}, "seed is -1: it must be at least 0"),
    ],
)
def test_impossible_sentence_batches(make: Make, changes: dict, message: str, tmp_path: Path):
    """An impossible batch is an error that names the value."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        make(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context is 0: it must be at least 1"),
        ({"windows": -2}, "windows is -2: it must be at least 1"),
        ({"seed": -1}, "seed is -1: it must be at least 0"),
        ({"context": 5000}, "with a context of 5000 it needs at least 50010; give more text"),
        ({"vocabulary_size": 20}, "vocabulary_size is 20: a byte-level BPE needs at least 258"),
    ],
)
def test_impossible_text_batches(changes: dict[str, int], message: str, tmp_path: Path):
    """Impossible windows of a text are an error that names the value and the remedy."""
    text(tmp_path)
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        TextBatches.read([tmp_path / "weather.txt"], **({"vocabulary_size": 270} | changes))
