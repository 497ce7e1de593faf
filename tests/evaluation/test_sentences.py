"""Sentences with the model's and the true distribution at each token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kullback.evaluation.sentences import TOP_TOKENS, sentence_reports
from kullback.predictions.base import DensePredictions
from kullback.sources.language import Language
from other_device import OtherModel, use_other_device
from tiny_runs import weather


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    """The weather."""
    return weather(tmp_path_factory.mktemp("weather")).source.training


class Disturbed:
    """The language itself, each log-probability changed by noise of the size `change`."""

    name = "disturbed"

    def __init__(self, language: Language, change: float) -> None:
        self.language, self.change = language, change
        self.vocabulary_size = len(language.vocabulary)

    def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
        """The distributions after each prefix of one sentence."""
        (sentence,) = inputs_NT.tolist()
        rng = np.random.default_rng(1)
        rows = [
            self.language.next_token_distribution(tuple(sentence[1 : t + 1]))
            for t in range(len(sentence))
        ]
        with np.errstate(divide="ignore"):
            logits = np.log(rows) + self.change * rng.normal(size=(len(rows), len(rows[0])))
        return DensePredictions(torch.from_numpy(logits))


@pytest.mark.parametrize("change", [0.0, 1e-16, 1e-12, 1e-8, 1e-4])
def test_kl_is_never_negative(language, change):
    """At and near the true distribution KL is at least 0, and exactly 0 where nothing differs."""
    reports = sentence_reports(Disturbed(language, change), language, "training", 200, 0)
    kl = [token.kl for report in reports for token in report.tokens]
    assert min(kl) >= 0.0
    assert max(kl) <= 10 * change**2 + 1e-30


def test_tokens_have_both_surprisals_and_the_most_probable_alternatives(language):
    """For the truth as the model both surprisals and both lists are equal, from large to small."""
    (report,) = sentence_reports(Disturbed(language, 0.0), language, "held out", 1, 3)
    assert report.language == "held out"
    for token in report.tokens:
        assert token.surprisal == pytest.approx(token.true_surprisal, abs=1e-12)
        assert [text for text, _ in token.model_top] == [text for text, _ in token.true_top]
        probabilities = [p for _, p in token.true_top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 1 <= len(probabilities) <= TOP_TOKENS
        assert dict(token.true_top).get(token.text, 0.0) == pytest.approx(
            math.exp(-token.true_surprisal)
        )


def test_a_model_on_an_accelerator_gets_its_inputs_there(language, monkeypatch):
    """A model on another device gives the same reports."""
    use_other_device(monkeypatch)
    model = Disturbed(language, 0.1)
    expected = sentence_reports(model, language, "training", 5, 0)
    assert sentence_reports(OtherModel(model), language, "training", 5, 0) == expected
