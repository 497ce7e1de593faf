"""Fingerprints of weights: when they are computed, and when they are remembered."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file

from kullback import evaluate
from kullback.evaluation.passes import ModelPredictor
from kullback.models import from_transformers, weights_identity
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.models.quantization import Scheme
from kullback.models.quantized import apply_scheme


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints that are computed; files are taken to be read an hour from now."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    computed: list[str] = []
    original = weights_identity.weights_fingerprint

    def counted(*arguments: object) -> str:
        computed.append(original(*arguments))  # type: ignore[arg-type]
        return computed[-1]

    monkeypatch.setattr(weights_identity, "weights_fingerprint", counted)
    now = time.time
    monkeypatch.setattr(from_transformers.time, "time", lambda: now() + 3600.0)
    return computed


def test_the_second_run_hashes_nothing(tiny_llama_folder: Path, hashed: list[str]) -> None:
    """The same files in the same type are hashed once; another type is other weights."""
    folder = str(tiny_llama_folder)
    first, second = (load_text_model(folder).weights_fingerprint() for _ in range(2))
    assert hashed == [first] == [second]
    narrow = load_text_model(folder, torch.bfloat16).weights_fingerprint()
    assert hashed == [first, narrow]
    assert narrow != first


def test_changed_weights_are_hashed_again(
    tiny_llama_folder: Path, tmp_path: Path, hashed: list[str]
) -> None:
    """Other numbers in a file of the same name and size, with its time put back."""
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "copy"))
    before = load_text_model(str(folder)).weights_fingerprint()
    file = folder / "model.safetensors"
    times, weights = file.stat(), load_file(file)
    weights["lm_head.weight"][0, 0] += 1.0
    save_file(weights, file, {"format": "pt"})
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_text_model(str(folder)).weights_fingerprint() != before
    assert len(hashed) == 2


def test_quantised_weights_are_hashed(tiny_llama_folder: Path, hashed: list[str]) -> None:
    """What is made of the files has a fingerprint of its own."""
    model = load_text_model(str(tiny_llama_folder))
    assert isinstance(model, HuggingFaceModel)
    stored = model.weights_fingerprint()
    quantised = apply_scheme(model, Scheme.parse("int8")).model.weights_fingerprint()
    assert hashed == [stored, quantised]
    assert stored != quantised


def test_the_first_window_does_not_wait(
    tiny_llama_folder: Path, text_file: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass begins while the weights are hashed, and its result has their fingerprint."""
    began = Event()
    original, predict = weights_identity.weights_fingerprint, ModelPredictor.predictions

    def late(*arguments: object) -> str:
        assert began.wait(60), "the pass waits for the fingerprint"
        return original(*arguments)  # type: ignore[arg-type]

    def beginning(*arguments: object) -> object:
        began.set()
        return predict(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(weights_identity, "weights_fingerprint", late)
    monkeypatch.setattr(ModelPredictor, "predictions", beginning)
    result = evaluate(str(tiny_llama_folder), text_file)
    assert result.protocol["weights"] == hashed[0]
