"""Dropout: what a step leaves out depends on nothing but seed, step, block, token and channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from kullback.errors import InvalidValueError
from kullback.sources.catalogue import open_source
from kullback.training.batches import Batches
from kullback.training.config import TrainingConfig
from kullback.training.dropout import Dropout
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.loss import gradients, losses
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.state import TrainingState
from kullback.training.text_batches import TextBatches

SHAPE = GPTConfig(vocabulary_size=40, context=32, width=32, layers=3, heads=2, mlp_width=48)


def text_batches() -> TextBatches:
    """Return eight windows of random tokens."""
    tokens = np.random.default_rng(0).integers(0, 40, 2_000)
    alphabet = Tokenizer(models.WordLevel({str(i): i for i in range(40)}))
    return TextBatches.of_tokens(tokens, alphabet, context=32, windows=8)


def of_batch(batches: Batches, pieces: int, part: slice = slice(None)) -> torch.Tensor:
    """Return the factors of the pieces of a batch, one after the other."""
    shards = batches.shards(3, pieces, part)
    factors = [
        Dropout(0.25, 5, 3, shard.first_token).factors(1, torch.empty(len(shard.targets_M), 32))
        for shard in shards
    ]
    return torch.cat(factors)


def test_factors_are_0_or_keep_the_mean() -> None:
    """A quarter of the numbers is left out, of every token and channel about as many."""
    factors = Dropout(0.25, 0, 0, 0).factors(0, torch.empty(500, 400))
    assert factors.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    # 200,000 draws: the standard error of the fraction is 0.001.
    assert (factors == 0).double().mean() == pytest.approx(0.25, abs=0.004)
    assert (factors == 0).double().mean(0) == pytest.approx(0.25, abs=0.1)
    assert (factors == 0).double().mean(1) == pytest.approx(0.25, abs=0.12)


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"step": 1}, {"first_token": 1}, {"first_token": 500}, {"block": 1}]
)
def test_other_seeds_steps_tokens_and_blocks_are_independent(changed: dict[str, int]) -> None:
    """Of two patterns of a half each, a quarter is in both."""
    block = changed.pop("block", 0)
    first = Dropout(0.5, 0, 0, 0)
    left_out = first.factors(0, torch.empty(500, 400)) == 0
    other = replace(first, **changed).factors(block, torch.empty(500, 400)) == 0
    assert (left_out & other).double().mean() == pytest.approx(0.25, abs=0.004)


def test_neighbouring_channels_are_independent() -> None:
    """So are channels that share a hash, and those at distances of powers of two."""
    left_out = Dropout(0.5, 0, 0, 0).factors(0, torch.empty(500, 400)) == 0
    for distance in (1, 2, 16, 64, 128, 256):
        both = left_out[:, distance:] & left_out[:, :-distance]
        assert both.double().mean() == pytest.approx(0.25, abs=0.006)


@pytest.mark.parametrize(
    "batches", [text_batches(), SentenceBatches(open_source("conjugation"), 64)]
)
def test_pieces_of_a_batch_leave_out_what_the_whole_does(batches: Batches) -> None:
    """However a batch is cut for threads, parts and processes."""
    whole = of_batch(batches, 1)
    assert torch.equal(of_batch(batches, 3), whole)
    of_processes = [of_batch(batches, 4, slice(0, 2)), of_batch(batches, 4, slice(2, 4))]
    assert torch.equal(torch.cat(of_processes), whole)


def test_a_step_scales_what_each_block_adds() -> None:
    """The definition, block by block."""
    model = GPT(SHAPE, seed=1)
    (shard,) = text_batches().shards(0, 1)
    dropout = Dropout(0.3, 2, 0, 0)
    x = model.model.embed_tokens(shard.inputs_M)
    rotation = model._rotation(32, x)
    for i, block in enumerate(model.model.layers):
        added = block(x, rotation, shard.layout) - x
        x = x + dropout.factors(i, x) * added
    hidden = model.hidden_packed(shard.inputs_M, shard.layout, dropout)
    torch.testing.assert_close(hidden, model.model.norm(x))
    assert not torch.allclose(hidden, model.hidden_packed(shard.inputs_M, shard.layout))


def test_activation_checkpointing_leaves_out_the_same_numbers() -> None:
    """A block that is computed again has the same gradient, to the last bit."""
    batches, config = text_batches(), TrainingConfig(steps=4, dropout=0.3)
    found = []
    for checkpointed in (False, True):
        state = TrainingState.begin(SHAPE, replace(config, checkpoint_activations=checkpointed))
        (shard,) = batches.shards(0, 1)
        found.append(gradients(state, shard, len(shard.targets_M))[0])
    for gradient, again in zip(*found, strict=True):
        assert torch.equal(gradient, again)


def test_a_step_is_with_dropout_and_validation_without() -> None:
    """The loss of a step is that of what is left; without a step there is no dropout."""
    batches = text_batches()
    state = TrainingState.begin(SHAPE, TrainingConfig(steps=4, dropout=0.5))
    (shard,) = batches.shards(0, 1)
    loss = gradients(state, shard, len(shard.targets_M))[1]().cross_entropy
    without = losses(state.model, shard, 1 / len(shard.targets_M))[0].item()
    with_it = losses(state.model, shard, 1 / len(shard.targets_M), state.dropout(shard))[0].item()
    assert loss == pytest.approx(with_it, rel=1e-6)
    assert loss != pytest.approx(without, rel=1e-4)


@pytest.mark.parametrize("fraction", [1e-9, 2.0**-17])
def test_dropout_that_leaves_nothing_out_is_refused(fraction: float) -> None:
    """It is rounded to multiples of 2^-16, so less than half of that would be none."""
    with pytest.raises(InvalidValueError, match=r"dropout is .*at least 1\.5e-05"):
        TrainingConfig(dropout=fraction)
    assert TrainingConfig(dropout=1.6e-05).dropout == 1.6e-05
