"""n-gram baselines: fitted to the training data, scored on the targets of the validation shards."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kullback.models import _ngram_tables, ngram_baseline
from kullback.models._ngram_scores import OrderScores
from kullback.models._ngram_tables import count_ngrams
from kullback.models._token_rows import sentence_stream
from kullback.models.kneser_ney import NgramModel
from kullback.models.ngram_baseline import baseline_losses
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
    model, shards = _fitted(batches, order), batches.validation()[:1]
    losses = iter(baseline_losses(batches, STEPS, shards, None, [order]).windows[order][:])
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
    shards, before = batches.validation(limit), batches.preceding(limit, 5)
    losses = baseline_losses(batches, STEPS, shards, before, [6]).running[6][:]
    held = batches.held_out[:]
    whole = -_fitted(batches, 6).token_log_probs(held[None])[0]
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
    losses = baseline_losses(batches, STEPS, batches.validation(), None, [2])
    assert losses.fitted_tokens == losses.training_tokens == len(batches.training)
    model = NgramModel.fit(
        [batches.training[:]], order=2, vocabulary_size=batches.vocabulary_size, bos=None
    )
    rows = [[inputs[0], *targets] for inputs, targets in sequences(batches.validation())]
    expected = [-model.token_log_probs(np.array([row]))[0, 1:] for row in rows]
    np.testing.assert_array_equal(losses.windows[2][:], np.concatenate(expected))


def test_sentences_are_those_of_the_training_steps(tmp_path: Path) -> None:
    """The models of a source are those of the sentences of all batches of the run."""
    batches = weather(tmp_path)
    losses = baseline_losses(batches, STEPS, batches.validation()[:1], None, [3])
    sentences = [s for step in range(STEPS) for _, s in sequences(batches.shards(step, 1))]
    assert losses.fitted_tokens == losses.training_tokens == sum(map(len, sentences))
    model = NgramModel.fit(sentences, order=3, vocabulary_size=batches.vocabulary_size, bos=0)
    targets = [row for _, row in sequences(batches.validation()[:1])]
    expected = [-model.token_log_probs(np.array([row]))[0] for row in targets]
    np.testing.assert_array_equal(losses.windows[3][:], np.concatenate(expected))


@pytest.mark.parametrize("make", [weather, text])
def test_parts_and_counts_for_some_targets_at_a_time_change_no_loss(
    make: Callable[[Path], Batches], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count for every shard, of a few n-grams together, gives the losses of one count."""
    batches = make(tmp_path)
    shards, before = batches.validation(), batches.preceding(10**9, 6)
    assert len(shards) > 1
    whole = baseline_losses(batches, STEPS, shards, before)
    monkeypatch.setattr(ngram_baseline, "SCORED_TOKENS", 1)
    monkeypatch.setattr(_ngram_tables, "PART", 7)
    some = baseline_losses(batches, STEPS, shards, before)
    assert (before is None) == (not whole.running)
    for ours, theirs in ((some.windows, whole.windows), (some.running, whole.running)):
        assert ours.keys() == theirs.keys()
        for order, losses in ours.items():
            np.testing.assert_array_equal(losses[:], theirs[order][:])


@pytest.mark.parametrize("make", [weather, text])
def test_large_data_is_counted_in_part(
    make: Callable[[Path], Batches], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit only a part is counted, and both numbers of tokens are returned."""
    batches = make(tmp_path)
    shards = batches.validation()[:1]
    everything = baseline_losses(batches, 40, shards, None, [1]).fitted_tokens
    monkeypatch.setattr(ngram_baseline, "BASELINE_TOKENS", 500)
    losses = baseline_losses(batches, 40, shards, None, [1])
    assert 500 <= losses.fitted_tokens < 1000 < everything
    assert losses.training_tokens == pytest.approx(everything, rel=0.1)


def test_counting_takes_little_memory() -> None:
    """Of 400,000 tokens, nearly all of whose n-grams differ, at most 45 bytes each, for any order.

    Counts and keys of 64 bits with an index of 64 bits take more than 110.
    """
    rng, size = np.random.default_rng(0), 400_000
    stream = sentence_stream(rng.integers(0, 8192, (1, size)), None, None, 8192)
    scored = sentence_stream(stream.tokens[None, :1000], None, None, 8192)
    orders: list[int] = []
    tracemalloc.start()
    try:
        scores = OrderScores([scored], 8192, lambda order, log_probs: orders.append(order))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_ngram_tables, "PART", 10_000)
            count_ngrams(stream, range(1, 8), 8192, scores)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert orders == [*range(1, 8)]
    assert peak / size < 45


def _fitted(batches: Batches, order: int) -> NgramModel:
    """The model of the training data of the first steps."""
    rows = batches.training_rows(STEPS, 10**9)
    return NgramModel.fit(
        rows.tokens_NT,
        order=order,
        vocabulary_size=batches.vocabulary_size,
        bos=rows.bos,
        lengths=rows.lengths_N,
    )
