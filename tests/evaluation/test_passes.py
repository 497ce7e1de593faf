"""A text, read by a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from kullback.errors import InvalidValueError
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.predictions.base import DensePredictions
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.token_statistics import concatenate_statistics
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document("first", TEXT), Document("second", "Another one: ¿qué tal?\n")]


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> HuggingFaceModel:
    """A tiny Llama, in float64."""
    loaded = load_text_model(str(tiny_llama_folder), torch.float64)
    assert isinstance(loaded, HuggingFaceModel)
    return loaded


def reading_of(model: HuggingFaceModel, protocol: Protocol | None = None) -> TokenizedText:
    """What the model reads."""
    protocol = protocol or Protocol(window=32)
    return TokenizedText.of(DOCUMENTS, protocol, model.tokenizer, model.context)


def test_rows_are_those_of_the_models_own_logits(model):
    """Each nll and rank equals that from the model's own softmax over the same window."""
    tokenized = reading_of(model)
    found = concatenate_statistics(list(token_rows(ModelPredictor(model), tokenized)))
    network: LlamaForCausalLM = model.model
    expected, ranks = [], []
    for window in tokenized.windows:
        with torch.no_grad():
            logits = network(torch.from_numpy(window.inputs)[None]).logits[0, window.rows]
        target = torch.from_numpy(window.targets)[:, None]
        expected.append(-torch.log_softmax(logits, 1).gather(1, target)[:, 0].numpy())
        ranks.append(1 + (logits > logits.gather(1, target)).sum(1).numpy())
    np.testing.assert_allclose(found.nll, np.concatenate(expected), rtol=1e-9)
    np.testing.assert_array_equal(found.rank, np.concatenate(ranks))


def test_places_add_up_to_the_text(model):
    """Scored bytes are the text's but for each first byte, words those of the scored part."""
    tokenized = reading_of(model)
    places = tokenized.places
    # Without BOS and EOS nothing predicts a document's first token, here a byte.
    assert places.bytes_M.sum() == sum(each.n_bytes - 1 for each in DOCUMENTS)
    assert tokenized.coverage.bytes - tokenized.coverage.scored_bytes == len(DOCUMENTS)
    words = sum(each.n_words * (1 - 1 / each.n_bytes) for each in DOCUMENTS)
    assert places.words_M.sum() == pytest.approx(words)
    assert places.position_M.max() == 32
    np.testing.assert_array_equal(np.unique(places.document_M), [0, 1])
    read = b"".join(tokenized.text_of(row).encode() for row in np.flatnonzero(places.document_M))
    shown = read.decode()
    assert shown.replace("▒", "") == DOCUMENTS[1].text[1:].translate({0xBF: None, 0xE9: None})


def test_text_around_a_token(model):
    """What stands before and after a token is the document's text there."""
    tokenized = reading_of(model)
    before, after = tokenized.text_around(10, 5)
    assert (before, tokenized.text_of(10), after) == (TEXT[6:11], TEXT[11], TEXT[12:17])


def test_going_on_gives_the_same_rows(model):
    """Beginning at a later window gives the rest of the rows, bit for bit."""
    tokenized = reading_of(model)
    everything = concatenate_statistics(list(token_rows(ModelPredictor(model), tokenized)))
    for first in range(1, len(tokenized.windows)):
        rest = list(token_rows(ModelPredictor(model), tokenized, first_window=first))
        np.testing.assert_array_equal(
            concatenate_statistics(rest).nll, everything.nll[tokenized.starts[first] :]
        )


def test_progress_counts_scored_tokens(model):
    """Progress ends at all scored tokens and never falls."""
    seen: list[tuple[int, int]] = []
    tokenized = reading_of(model)
    list(token_rows(ModelPredictor(model), tokenized, progress=lambda *now: seen.append(now)))
    assert seen[-1] == (len(tokenized), len(tokenized))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_top_words_only_where_they_are_asked_for(model):
    """Windows before `top_rows` have the most probable words, the others none."""
    tokenized = reading_of(model)
    first, *others = token_rows(ModelPredictor(model), tokenized, top_k=3, top_rows=10)
    assert len(first) == int(tokenized.starts[1])
    assert first.top_tokens.shape[1] == 3
    assert others
    assert not any(rows.top_tokens.shape[1] for rows in others)
    np.testing.assert_array_equal(first.top_tokens[:, 0], first.top1)


@pytest.mark.parametrize("first_window", [0, 1])
def test_a_text_of_one_batch_has_all_cores(model, first_window, monkeypatch):
    """Batches count, not windows; and what remains does not, or a resumed run would differ."""
    asked = []

    class Watched(ProcessGroup):
        def map(self, measure, windows, at_once=None, one_each=False):
            asked.append(at_once)
            assert not one_each
            return super().map(measure, windows, at_once)

    for texts, at_once in (([TEXT[:60], "No!", TEXT[:40]], 2), ([TEXT[:60], "No!"], 1)):
        documents = [Document(text[:2], text) for text in texts]
        tokenized = TokenizedText.of(documents, Protocol(), model.tokenizer, model.context)
        monkeypatch.setattr("kullback.evaluation.predictors.CPU_TOKENS", 64)
        rows = token_rows(ModelPredictor(model), tokenized, Watched(), first_window=first_window)
        assert sum(map(len, rows)) == len(tokenized) - int(tokenized.starts[first_window])
        assert asked.pop() == at_once


def test_words_are_those_of_the_part_that_is_scored(model):
    """A protocol that scores half of a text counts half of its words, by bytes."""
    half = TokenizedText.of(DOCUMENTS, Protocol("llama.cpp", 32), model.tokenizer, model.context)
    (whole,) = half.documents
    share = half.places.bytes_M.sum() / whole.n_bytes
    assert share < 0.6
    assert half.places.words_M.sum() == pytest.approx(whole.n_words * share, rel=1e-12)


def test_damaged_logits_are_placed_in_the_text(model):
    """NaN in a model's logits is an error that names the document and the tokens."""
    tokenized = reading_of(model)

    class Damaged:
        name = "damaged"
        device = torch.device("cpu")

        def sharing(self, longest):
            return "padded"

        def predictions(self, batch):
            logits = torch.zeros(len(batch.row_numbers), 256)
            logits[batch.row_numbers == tokenized.starts[-2] + 1, 7] = torch.nan
            return DensePredictions(logits)

    with pytest.raises(InvalidValueError, match=r"second, tokens 1 to \d+: row 1 .* NaN"):
        list(token_rows(Damaged(), tokenized))
