"""Our own runs as language models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kullback.errors import InvalidValueError, RunError
from kullback.models.mini_gpt import GPTModel, GPTTextModel
from kullback.runtime.weights import weights_fingerprint
from kullback.text.tokenizer_training import tokenizer_config, train_tokenizer
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.run_folder import save_model

TOKENIZER = train_tokenizer(["A quick brown fox; naïve façade. " * 5], 300)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a mini-GPT."""
    return write_run(tmp_path / "run", TOKENIZER.get_vocab_size())


def write_run(folder: Path, vocabulary_size: int) -> Path:
    """The files of a run."""
    torch.manual_seed(0)
    sizes = GPTConfig(vocabulary_size, context=32, width=16, heads=2, mlp_width=32)
    save_model(folder, GPT(sizes), TOKENIZER.to_str(), tokenizer_config())
    return folder


def test_hidden_states_and_head_give_the_models_logits(run: Path) -> None:
    """The factored logits are hidden states times the tied embedding, for each of N·T rows."""
    model = GPTTextModel.load(run)
    inputs = torch.arange(24).view(2, 12)
    predictions = model.predict(inputs)
    assert len(predictions) == 24
    with torch.inference_mode():
        expected = model.gpt.hidden(inputs).flatten(0, 1) @ model.gpt.head_weight.T
    assert torch.allclose(predictions.logits(slice(None)), expected, atol=1e-6)
    some = predictions.select(torch.tensor([3, 20]))
    assert torch.allclose(some.logits(slice(None), slice(5, 9)), expected[[3, 20], 5:9], atol=1e-6)


def test_a_run_says_what_its_numbers_depend_on(run: Path) -> None:
    """Context, type, place, tokenizer and fingerprint are those of the folder."""
    model = GPTTextModel.load(run)
    assert (model.name, model.context, model.vocabulary_size) == ("run", 32, 283)
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")
    assert (model.factored, model.notes) == (True, ())
    assert model.tokenizer.adds_bos
    assert model.tokenizer.encode("A quick").ids.tolist() == TOKENIZER.encode("A quick").ids[1:]
    assert model.weights_fingerprint() == weights_fingerprint(GPTModel.load(run).gpt.state_dict())


def test_float64_stays_float64(run: Path) -> None:
    """A run loaded in float64 computes its logits in float64, near those of float32."""
    inputs = torch.arange(10)[None]
    exact = GPTTextModel.load(run, torch.float64).predict(inputs).logits(slice(None))
    assert exact.dtype == torch.float64
    rounded = GPTTextModel.load(run).predict(inputs).logits(slice(None))
    assert torch.allclose(exact, rounded.double(), atol=1e-6)


def test_a_run_without_tokenizer_cannot_read_text(run: Path) -> None:
    """The message names the file; the model alone still loads."""
    (run / "tokenizer.json").unlink()
    with pytest.raises(InvalidValueError, match=r"no tokenizer\.json"):
        GPTTextModel.load(run)
    assert GPTModel.load(run).vocabulary_size == 283


def test_a_tokenizer_of_another_run_is_refused(tmp_path: Path) -> None:
    """More ids than rows: the message names both numbers."""
    with pytest.raises(InvalidValueError, match=r"has 283 ids and the model predicts 280"):
        GPTTextModel.load(write_run(tmp_path / "small", 280))


def test_a_damaged_run_is_named(run: Path) -> None:
    """Weights cut short are a RunError that names the file."""
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        GPTTextModel.load(run)
