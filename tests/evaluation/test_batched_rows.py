"""Batches of a text against its windows one by one: values, order, memory that is too small."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.errors import RunError
from kullback.evaluation import predictors
from kullback.evaluation.batched_rows import BatchLimit, batched_rows, window_predictions
from kullback.evaluation.passes import ModelPredictor, TokenizedText, divergence_rows, token_rows
from kullback.models.load import load_text_model
from kullback.predictions.base import FactoredPredictions
from kullback.runtime import workers
from kullback.scoring.divergence import concatenate_divergences
from kullback.scoring.token_statistics import (
    concatenate_statistics,
    start_statistics,
    token_statistics,
)
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document(f"{i}", TEXT[i : i + 2 + 7 * (i % 9)]) for i in range(40)]


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path):
    """A tiny Llama, in float32."""
    return load_text_model(str(tiny_llama_folder), torch.float32)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches of 128 tokens, so that the text has several groups."""
    monkeypatch.setattr(predictors, "CPU_TOKENS", 128)


def reading_of(model, protocol: Protocol | None = None) -> TokenizedText:
    """What the model reads."""
    protocol = protocol or Protocol(window=32)
    return TokenizedText.of(DOCUMENTS, protocol, model.tokenizer, model.context)


@pytest.mark.parametrize("protocol", [Protocol(window=32), Protocol("hf-stride", 32, 8)])
def test_rows_are_those_of_windows_read_alone(model, protocol):
    """In the order of the text and to float32 rounding, ranks and most probable tokens too."""
    tokenized, predictor = reading_of(model, protocol), ModelPredictor(model)
    together = concatenate_statistics(list(token_rows(predictor, tokenized)))
    alone = []
    for number in range(len(tokenized.windows)):
        batch = tokenized.batch([number])
        alone.append(
            token_statistics(predictor.predictions(batch), torch.from_numpy(batch.targets))
        )
    expected = concatenate_statistics(alone)
    np.testing.assert_allclose(together.nll, expected.nll, atol=2e-5)
    np.testing.assert_allclose(together.entropy, expected.entropy, atol=2e-5)
    assert (together.top1 == expected.top1).mean() > 0.99
    assert abs(together.rank - expected.rank).max() <= 1


def test_a_model_beside_itself_is_exactly_itself(model):
    """Both operands read the same batches: the KL is 0, not rounding."""
    tokenized, predictor = reading_of(model), ModelPredictor(model)
    rows = concatenate_divergences(list(divergence_rows(predictor, predictor, tokenized)))
    assert len(rows) == len(tokenized)
    assert not rows.kl.any()


def test_short_windows_share_a_forward_pass(model):
    """Forty documents of up to 58 tokens take a quarter as many passes."""
    tokenized = reading_of(model)
    calls = []

    class Counted(ModelPredictor):
        def predictions(self, batch):
            calls.append(len(batch.windows))
            return super().predictions(batch)

    list(token_rows(Counted(model), tokenized))
    assert sum(calls) == len(tokenized.windows)
    assert 4 * len(calls) <= len(tokenized.windows)


def small_memory(most: int, error: Exception):
    """A predictor's `predictions` that fails for batches of more than `most` tokens."""

    class Small(ModelPredictor):
        def predictions(self, batch):
            if batch.inputs.size > most:
                raise error
            return super().predictions(batch)

    return Small


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_memory_that_is_too_small_halves_the_batches(model, error):
    """The rows are those of the usual batches, and a note says what was read at a time."""
    tokenized = reading_of(model)
    usual = concatenate_statistics(list(token_rows(ModelPredictor(model), tokenized)))
    limit = BatchLimit()
    small = small_memory(40, error)(model)
    rows = concatenate_statistics(list(token_rows(small, tokenized, limit=limit)))
    np.testing.assert_allclose(rows.nll, usual.nll, atol=2e-5)
    (note,) = limit.notes
    assert limit.tokens is not None
    assert limit.tokens <= 64
    assert f"{limit.tokens:,} tokens" in note
    assert not BatchLimit().notes


def test_memory_that_is_too_small_for_a_window_is_refused(model):
    """One sentence names the window, the model and what to do."""
    tokenized = reading_of(model)
    small = small_memory(8, MemoryError())(model)
    with pytest.raises(RunError, match=r"window of \d+ tokens.*--window"):
        list(token_rows(small, tokenized))


def test_other_errors_are_not_taken_for_small_memory(model):
    """A damaged shape is raised as it is."""
    small = small_memory(8, RuntimeError("shapes cannot be multiplied"))(model)
    with pytest.raises(RuntimeError, match="shapes"):
        list(token_rows(small, reading_of(model)))


def test_a_recording_reads_the_batches_of_a_pass(model):
    """Window by window, from any on, with the numbers that the pass has."""
    tokenized, predictor = reading_of(model), ModelPredictor(model)
    whole = concatenate_statistics(list(token_rows(predictor, tokenized))).nll
    for first in (0, 17):
        numbers = []
        for number, predictions in window_predictions(predictor, tokenized, first):
            numbers.append(number)
            targets = torch.from_numpy(tokenized.windows[number].targets)
            nll = token_statistics(predictions, targets).nll
            np.testing.assert_allclose(nll, whole[tokenized.rows_of(number)], rtol=0, atol=1e-5)
        assert numbers == list(range(first, len(tokenized.windows)))


def test_windows_that_wait_for_a_recording_are_on_the_host(model, monkeypatch):
    """Those of a group that come after a longer one, in the model's own 16 bits."""
    tokenized = reading_of(model)
    narrow = replace(model, head=replace(model.head, product_dtype=torch.bfloat16))
    batches = []
    own = FactoredPredictions.hidden_on_host

    def on_host(self):
        batches.append(weakref.ref(self))
        hidden_MD = own(self)
        assert hidden_MD.dtype == torch.bfloat16
        return hidden_MD

    monkeypatch.setattr(FactoredPredictions, "hidden_on_host", on_host)
    for _, predictions in window_predictions(ModelPredictor(narrow), tokenized):
        assert predictions.hidden_MD.dtype == torch.float32
        assert not any(batch() for batch in batches)
    assert 1 < len(batches) < len(tokenized.windows)


def test_a_recording_halves_its_batches_too(model):
    """Where the memory is too small its windows come in the same order, and a note says so."""
    tokenized, limit = reading_of(model), BatchLimit()
    small = small_memory(40, torch.OutOfMemoryError("CUDA out of memory"))(model)
    numbers = []
    for number, predictions in window_predictions(small, tokenized, limit=limit):
        numbers.append(number)
        assert len(predictions) == len(tokenized.windows[number])
    assert numbers == list(range(len(tokenized.windows)))
    assert limit.notes
    smaller = small_memory(8, MemoryError())(model)
    with pytest.raises(RunError, match="--window"):
        list(window_predictions(smaller, tokenized))


def test_each_rows_are_of_whole_windows_in_order(model):
    """A consumer may stop after any of them and resume at the window that comes next."""
    tokenized, predictor = reading_of(model), ModelPredictor(model)
    whole = concatenate_statistics(list(token_rows(predictor, tokenized))).nll
    row = 0
    for rows in batched_rows(
        lambda batch: start_statistics(
            predictor.predictions(batch), torch.from_numpy(batch.targets)
        ),
        tokenized,
        (predictor,),
    ):
        assert row in tokenized.starts
        np.testing.assert_array_equal(rows.nll, whole[row : row + len(rows)])
        row += len(rows)
    assert row == len(tokenized)


def test_the_next_batch_is_started_before_one_is_waited_for(model, monkeypatch):
    """Of an accelerator: the host waits for a batch while the next is computed."""
    tokenized, predictor = reading_of(model), ModelPredictor(model)
    expected = concatenate_statistics(list(token_rows(predictor, tokenized))).nll
    events = []

    def start(batch):
        events.append("start")
        finish = start_statistics(predictor.predictions(batch), torch.from_numpy(batch.targets))
        return lambda: events.append("wait") or finish()

    class OnDevice(ModelPredictor):
        device = torch.device("meta")

    monkeypatch.setattr("kullback.evaluation.batched_rows.token_budget", lambda *_: 128)
    rows = list(batched_rows(start, tokenized, (OnDevice(model),)))
    np.testing.assert_allclose(concatenate_statistics(rows).nll, expected, atol=1e-5)
    assert events[:4] == ["start", "start", "wait", "start"]
    assert events[-2:] == ["wait", "wait"]
    assert events.count("start") == events.count("wait") > 3


def test_a_window_that_does_not_fit_beside_others_is_read_alone(model, monkeypatch):
    """Where one window fits at a time: the usual rows, a note, fewer at a time from then on."""
    monkeypatch.setattr(workers, "cores", lambda: 2)
    tokenized = reading_of(model)
    usual = concatenate_statistics(list(token_rows(ModelPredictor(model), tokenized)))
    running, met = [], threading.Event()

    class Crowded(ModelPredictor):
        def predictions(self, batch):
            running.append(1)
            try:
                if len(running) > 1:
                    met.set()
                met.wait(20)  # until two are read at the same time
                if len(running) > 1:
                    raise MemoryError
                return super().predictions(batch)
            finally:
                running.pop()

    limit = BatchLimit()
    rows = concatenate_statistics(list(token_rows(Crowded(model), tokenized, limit=limit)))
    np.testing.assert_allclose(rows.nll, usual.nll, atol=2e-5)
    assert limit.at_once == 1
    assert any("1 was read at the same time" in note for note in limit.notes)


@pytest.mark.parametrize("top_rows", [30, 100])
def test_top_tokens_of_batches_that_were_halved_are_those_of_the_text(model, top_rows):
    """Parts of a planned batch on both sides of the last such row are computed alike."""
    tokenized = reading_of(model)

    def top(predictor) -> np.ndarray:
        rows = token_rows(predictor, tokenized, top_k=3, top_rows=top_rows)
        return np.concatenate([part.top_tokens for part in rows if part.top_tokens.shape[1]])

    expected = top(ModelPredictor(model))
    assert len(expected) >= top_rows
    np.testing.assert_array_equal(top(small_memory(40, MemoryError())(model)), expected)
