"""n-gram baselines: fitted to the training data, scored on the targets of the validation shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kullback.models import ngram_baseline
from kullback.models.kneser_ney import NgramModel
from kullback.models.ngram_baseline import fit_baselines, ngram_losses, running_losses, scored_rows
from kullback.training.batches import Batches
from tiny_runs import sequences, text, weather

STEPS = 3


@pytest.mark.parametrize("make", [weather, text])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_target_is_scored_after_the_tokens_before_it_in_its_sequence(
    make: Callable[[Path], Batches], order: int, tmp_path: Path
) -> None:
    """Each loss is −log p(target | at most order − 1 inputs of the same window or sentence)."""
    batches = make(tmp_path)
    (model,), *_ = fit_baselines(batches, STEPS, orders=[order])
    shards = batches.validation()[:1]
    losses = iter(ngram_losses(model, shards))
    for inputs, targets in sequences(shards)[:20]:
        for t, target in enumerate(targets):
            context = inputs[: t + 1][-(order - 1) :] if order > 1 else []
            padded = np.array([[-1] * (order - 1 - len(context)) + context], dtype=int)
            log_probs = model.log_probs(padded.reshape(1, order - 1))[0]
            assert next(losses) == pytest.approx(-log_probs[target], abs=1e-12)


@pytest.mark.parametrize("limit", [10**9, 40])
def test_running_text_is_scored_after_the_tokens_before_the_window(
    limit: int, tmp_path: Path
) -> None:
    """Each loss is −log p(target | the order − 1 tokens before it in the validation split)."""
    batches = replace(text(tmp_path), context=3)
    (model,), *_ = fit_baselines(batches, STEPS, orders=[6])
    shards, before = batches.validation(limit), batches.preceding(limit, 5)
    losses = running_losses(model, shards, before)
    held = batches.held_out[:]
    whole = -model.token_log_probs(held[None])[0]
    if limit > len(held):
        np.testing.assert_array_equal(losses, whole[1:])
    else:
        assert len(losses) == 39
        starts = np.arange(13) * len(range(0, len(held) - 1, 3)) // 13 * 3
        expected = np.concatenate([whole[start + 1 : start + 4] for start in starts])
        np.testing.assert_array_equal(losses, expected)


def test_a_text_is_counted_up_to_the_validation_split(tmp_path: Path) -> None:
    """The models of a text are those of the first nine tenths of its tokens."""
    batches = text(tmp_path)
    models, fitted, total = fit_baselines(batches, STEPS, orders=[2])
    assert fitted == total == len(batches.training)
    expected = NgramModel.fit(
        [batches.training[:]], order=2, vocabulary_size=batches.vocabulary_size, bos=None
    )
    contexts = np.arange(-1, batches.vocabulary_size)[:, None]
    np.testing.assert_array_equal(models[0].log_probs(contexts), expected.log_probs(contexts))


def test_sentences_are_those_of_the_training_steps(tmp_path: Path) -> None:
    """The models of a source are those of the sentences of all batches of the run."""
    batches = weather(tmp_path)
    models, fitted, total = fit_baselines(batches, STEPS, orders=[3])
    sentences = [s for step in range(STEPS) for _, s in sequences(batches.shards(step, 1))]
    assert fitted == total == sum(map(len, sentences))
    expected = NgramModel.fit(sentences, order=3, vocabulary_size=batches.vocabulary_size, bos=0)
    prefix = batches.source.training.encode("today it")
    np.testing.assert_array_equal(
        models[0].next_token_distribution(prefix), expected.next_token_distribution(prefix)
    )


@pytest.mark.parametrize("make", [weather, text])
def test_models_of_what_is_scored_give_the_same_losses(
    make: Callable[[Path], Batches], tmp_path: Path
) -> None:
    """Models that keep only the n-grams of the scored rows are smaller, with equal losses."""
    batches = make(tmp_path)
    shards, before = batches.validation()[:1], batches.preceding(10**9, 5)
    before = None if before is None else before[:1]
    whole, *_ = fit_baselines(batches, STEPS, orders=range(1, 7))
    small, *_ = fit_baselines(
        batches, STEPS, orders=range(1, 7), scored=scored_rows(shards, before)
    )
    for model, expected in zip(small, whole, strict=True):
        np.testing.assert_array_equal(ngram_losses(model, shards), ngram_losses(expected, shards))
        if before is not None:
            ours, theirs = (running_losses(m, shards, before) for m in (model, expected))
            np.testing.assert_array_equal(ours, theirs)
        sizes = [sum(len(table.keys) for table in m._tables) for m in (model, expected)]
        assert sizes[0] < sizes[1] or model.order == 1
    with pytest.raises(AssertionError):
        small[1].next_token_distribution([1])


@pytest.mark.parametrize("make", [weather, text])
def test_large_data_is_counted_in_part(
    make: Callable[[Path], Batches], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit only a part is counted, and both numbers of tokens are returned."""
    batches = make(tmp_path)
    _, everything, _ = fit_baselines(batches, 40, orders=[1])
    monkeypatch.setattr(ngram_baseline, "BASELINE_TOKENS", 500)
    _, fitted, total = fit_baselines(batches, 40, orders=[1])
    assert 500 <= fitted < 1000 < everything
    assert total == pytest.approx(everything, rel=0.1)
