"""n-gram models behind the interface of every language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.evaluation.on_source import Corpus, evaluate_on_source
from kullback.models.ngram import NgramLanguageModel
from kullback.sources.language import Language
from tiny_runs import weather


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    """Eleven sentences about the weather."""
    folder: Path = tmp_path_factory.mktemp("weather")
    return weather(folder).source.training


def fitted(language: Language, order: int, sentences: int = 300) -> NgramLanguageModel:
    """A model of a sample."""
    return NgramLanguageModel.fit(language.sample(sentences, np.random.default_rng(0)), order)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_each_position_sees_the_last_words_and_bos(language, order):
    """Every row equals the n-gram's distribution after the last ``order - 1`` inputs."""
    model = fitted(language, order)
    sample = language.sample(5, np.random.default_rng(1))
    T = sample.tokens.shape[1]
    inputs = np.concatenate([np.zeros((5, 1), int), sample.tokens[:, : T - 1]], axis=1)
    predictions = model.predict(torch.from_numpy(inputs))
    assert (len(predictions), predictions.vocabulary_size) == (5 * T, len(language.vocabulary))
    logits = predictions.logits(slice(0, 5 * T)).numpy().reshape(5, T, -1)
    assert np.exp(logits).sum(axis=2) == pytest.approx(np.ones((5, T)))
    reach = order - 1
    for row in range(5):
        for t in range(int(sample.lengths[row])):
            before = inputs[row, max(0, t + 1 - reach) : t + 1] if reach else inputs[row, :0]
            padded = np.concatenate([np.full(reach - len(before), -1), before]).astype(int)
            expected = model.ngram.log_probs(padded[None])[0]
            assert logits[row, t] == pytest.approx(expected, abs=1e-12)


def test_padding_on_the_right_changes_nothing(language):
    """The model is causal: what follows a position does not change the predictions there."""
    model = fitted(language, 3)
    short = torch.tensor([[0, 3, 5]])
    long = torch.tensor([[0, 3, 5, 4, 4]])
    first = model.predict(short).logits(slice(0, 3))
    assert torch.equal(first, model.predict(long).logits(slice(0, 3)))


def test_rows_do_not_depend_on_the_block_they_are_asked_in(language):
    """Selected rows and single rows equal those of the whole."""
    predictions = fitted(language, 3).predict(torch.tensor([[0, 3, 5, 4], [0, 4, 3, 3]]))
    whole = predictions.logits(slice(0, 8))
    assert torch.equal(predictions.select(torch.tensor([6, 1])).logits(slice(0, 2)), whole[[6, 1]])
    assert torch.equal(torch.cat([predictions.logits(slice(i, i + 1)) for i in range(8)]), whole)


def test_a_long_memory_and_much_text_come_near_the_floor(language):
    """A 5-gram of many sentences has a small KL, a unigram cannot, and CE = H + KL for both."""
    corpus = Corpus.everything(language)
    good = evaluate_on_source(fitted(language, 5, 20_000), corpus)
    poor = evaluate_on_source(fitted(language, 1, 20_000), corpus)
    assert good.name == "5-gram Kneser-Ney"
    assert 0 < good.kl.value < 0.01 < 0.5 < poor.kl.value
    for evaluation in (good, poor):
        assert abs(evaluation.identity_residual) < 1e-12
