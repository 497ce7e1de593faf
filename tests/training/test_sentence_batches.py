"""Batches of sentences of a source."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources.catalogue import open_source
from kullback.training.sentence_batches import SentenceBatches
from tiny_runs import sequences, weather


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
        for (_, targets), surprisal in zip(sequences([shard]), surprisals, strict=True):
            for t, token in enumerate(targets):
                p = language.next_token_distribution(targets[:t])[token]
                assert surprisal[t].item() == pytest.approx(-math.log(p), abs=1e-12)
            assert surprisal.sum().item() == pytest.approx(-language.sentence_log_prob(targets))


def test_sentence_validation_is_a_sample_of_its_own(tmp_path: Path):
    """Validation sentences are no training step's batch."""
    batches = weather(tmp_path, sentences=1024)
    held = sequences(batches.validation())
    assert len(held) == 1024
    assert all(sequences(batches.shards(step, 1)) != held for step in range(20))


def test_the_floor_is_the_entropy_of_the_source(tmp_path: Path):
    """The floor is minus the mean over all sentences of log p, per token."""
    batches = weather(tmp_path)
    assert batches.floor == batches.source.training.entropy_per_token
    mean = np.mean(
        [s.surprisals_M.sum().item() for step in range(200) for s in batches.shards(step, 1)]
    )
    tokens = np.mean([len(s.targets_M) for step in range(200) for s in batches.shards(step, 1)])
    assert mean / tokens == pytest.approx(batches.floor, abs=0.01)


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


def test_sentences_beyond_the_longest_sample_are_cut_too(tmp_path: Path):
    """Sentences of 20,000 words on average do not end a training: only their first tokens count."""
    path = tmp_path / "long.toml"
    path.write_text('[rules]\ns = [{ p = 0.99995, then = "on <s>" }, { p = 0.00005, then = "" }]\n')
    batches = SentenceBatches(open_source(str(path)), sentences=64)
    with pytest.raises(GrammarError, match=r"more than 10,000 tokens; make the grammar end sooner"):
        batches.source.training.sample(64, np.random.default_rng(0))
    for shards in (batches.shards(0, 2), batches.validation()):
        assert max(shard.lengths_N.max() for shard in shards) == 256
    assert batches.training_rows(1, 10).tokens_NT.shape == (64, 256)


def test_cutting_keeps_the_first_tokens(tmp_path: Path):
    """What is drawn before the cut is what is drawn without it."""
    language = weather(tmp_path).source.training
    whole = language.sample(50, np.random.default_rng(0)).arcs
    cut = language.sample(50, np.random.default_rng(0), cut_at=3)
    assert np.array_equal(cut.arcs, whole[:, :3])
    assert cut.lengths.max() == 3


def test_the_floor_of_an_endless_language_is_of_the_tokens_before_the_cut(tmp_path: Path):
    """It is the expected surprisal of the tokens of a batch, over their expected number."""
    path = tmp_path / "endless.toml"
    path.write_text(
        'name = "endless"\nstart = "s"\n[rules]\n'
        's = [{ p = 0.99, then = "a <t>" }, { p = 0.01, then = "" }]\n'
        't = [{ p = 0.5, then = "b <t>" }, { p = 0.497, then = "c <t>" }, '
        '{ p = 0.003, then = "" }]\n'
    )
    batches = SentenceBatches(open_source(str(path)), sentences=64)
    assert batches.cut_at == 256
    start = -0.99 * math.log(0.99) - 0.01 * math.log(0.01)
    later = -sum(p * math.log(p) for p in (0.5, 0.497, 0.003))
    expected = [0.99 * 0.997**t for t in range(255)]  # sentences that reach token 1 + t
    tokens = 1 + sum(expected)
    assert batches.floor == pytest.approx((start + later * sum(expected)) / tokens, rel=1e-12)
    assert batches.tokens_per_batch == round(64 * tokens)
    assert abs(batches.floor - batches.source.training.entropy_per_token) > 1e-4


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (weather, {"sentences": 0}, "sentences is 0: it must be a whole number of at least 1"),
        (weather, {"seed": -1}, "seed is -1: it must be a whole number of at least 0"),
    ],
)
def test_impossible_sentence_batches(make: Make, changes: dict, message: str, tmp_path: Path):
    """An impossible batch is an error that names the value."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        make(tmp_path, **changes)
