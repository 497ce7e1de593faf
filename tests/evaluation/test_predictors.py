"""How many inputs are read at a time."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kullback.comparison.row_pairs import pairs_of_text
from kullback.errors import InvalidValueError
from kullback.evaluation import on_text, predictors
from kullback.evaluation.predictors import ModelPredictor, inputs_at_once
from kullback.evaluation.tokenized_text import TokenizedText
from kullback.runtime import threads, workers
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, on any machine."""
    for module in (predictors, threads, workers, on_text):
        monkeypatch.setattr(module, "cores", lambda: 4)


class Exclusive:
    """A model of llama.cpp's kind, which notices where two threads read with it at a time."""

    exclusive = True

    def __init__(self, model) -> None:
        self._model, self._lock = model, threading.Lock()
        self.calls = 0

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def predict(self, inputs_NT: torch.Tensor):
        """The model's, a while later."""
        if not self._lock.acquire(blocking=False):
            raise InvalidValueError("two threads read at a time")
        try:
            self.calls += 1
            time.sleep(0.002)
            return self._model.predict(inputs_NT)
        finally:
            self._lock.release()


def test_accelerators_and_exclusive_models_read_one_input_at_a_time() -> None:
    """Wherever in a chain of predictors they are; a model that says nothing is on the CPU."""
    on_cpu = SimpleNamespace(device=torch.device("cpu"), model=SimpleNamespace())
    on_cuda = SimpleNamespace(predictor=SimpleNamespace(device=torch.device("cuda:1")))
    exclusive = SimpleNamespace(model=SimpleNamespace(exclusive=True))
    assert inputs_at_once(on_cpu, SimpleNamespace(), None) == 4
    assert inputs_at_once(on_cpu, on_cuda) == 1
    assert inputs_at_once(exclusive, on_cpu) == 1


def test_rows_of_an_exclusive_model_are_made_by_one_thread(tiny_llama) -> None:
    """Beside another operand, as where a top-k recording is compared with a GGUF file."""
    model = Exclusive(tiny_llama)
    documents = [Document("text", 3 * TEXT)]
    tokenized = TokenizedText.of(documents, Protocol(window=32), tiny_llama.tokenizer, 64)
    first, second = ModelPredictor(tiny_llama), ModelPredictor(model)
    pairs = pairs_of_text(first, second, tokenized, lambda done, total: None)
    rows = list(pairs.map(lambda pair: len(pair.targets_M)))
    assert sum(rows) == len(tokenized)
    assert model.calls == len(tokenized.windows) > 4


def test_the_temperature_of_an_exclusive_model_is_found_by_one_thread(tiny_llama, monkeypatch):
    """The windows of the sample are read one after the other, with the same numbers."""
    monkeypatch.setattr(on_text, "fit_temperature", lambda nll, _: nll(np.array([1.0, 2.0])))
    documents, protocol = [Document("text", 3 * TEXT)], Protocol(window=32)
    tokenized = TokenizedText.of(documents, protocol, tiny_llama.tokenizer, tiny_llama.context)
    model = Exclusive(tiny_llama)
    nll, _ = on_text._fit_temperature(model, tokenized)
    expected, _ = on_text._fit_temperature(tiny_llama, tokenized)
    assert model.calls > 4
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
