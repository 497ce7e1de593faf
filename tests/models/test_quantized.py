"""``MODEL@SCHEME``: names, weights and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.models import from_transformers, quantized
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_sized, load_text_model
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.quantization import Scheme, quantise_layers
from kullback.models.quantized import apply_scheme, sized, split_scheme
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from tiny_models import gguf_header


@pytest.mark.parametrize(
    ("name", "base", "scheme"),
    [
        ("runs/mine", "runs/mine", None),
        ("runs/mine@int8", "runs/mine", "int8"),
        ("me@home/model.gguf@int4-g32", "me@home/model.gguf", "int4-g32"),
    ],
)
def test_the_scheme_follows_the_last_at_sign(name: str, base: str, scheme: str | None) -> None:
    """The rest is the model's own name."""
    model, parsed = split_scheme(name)
    assert (model, parsed and parsed.name) == (base, scheme)


@pytest.mark.parametrize(
    ("name", "words"),
    [("runs/mine@ctk=q8_0", r"only a \.gguf file"), ("model.gguf@ctk", "ctk is ''.*q8_0")],
)
def test_misplaced_options_of_llama_cpp_are_no_scheme(name: str, words: str) -> None:
    """Options of a folder, and an option without a value."""
    with pytest.raises(InvalidValueError, match=words):
        split_scheme(name)


def test_an_existing_path_is_no_scheme(tmp_path: Path) -> None:
    """A folder whose name has an at sign is a model."""
    path = tmp_path / "model@int8"
    path.mkdir()
    assert split_scheme(str(path)) == (str(path), None)


def test_a_misspelt_scheme_is_named(tiny_llama_folder: Path) -> None:
    """The message has the most similar scheme."""
    with pytest.raises(InvalidValueError, match=r"'int9' is unknown: did you mean int8"):
        load_sized(f"{tiny_llama_folder}@int9")


def test_sizes_of_a_scheme(tiny_llama_folder: Path) -> None:
    """int4 packed is smaller than int8; as saved they are equal, a byte for each integer."""
    plain, int8, int4 = (load_sized(f"{tiny_llama_folder}{at}") for at in ("", "@int8", "@int4"))
    assert plain.size_bytes == plain.saved_bytes
    assert int4.size_bytes < int8.size_bytes < int8.saved_bytes == int4.saved_bytes
    assert int8.saved_bytes < plain.size_bytes


def test_a_mini_gpt_is_copied_and_a_transformers_model_is_not(tiny_llama_folder: Path) -> None:
    """Quantising changes a `transformers` model in place, a mini-GPT in a copy."""
    gpt = GPT(GPTConfig(vocabulary_size=256, context=32, width=16, heads=2, mlp_width=32))
    model = load_text_model(str(tiny_llama_folder))
    mini = GPTTextModel(gpt, "mini", tokenizer=model.tokenizer)
    prints = model.weights_fingerprint(), mini.weights_fingerprint()
    quantised, small = (apply_scheme(m, Scheme.parse("int8")).model for m in (model, mini))
    assert quantised.model is model.model
    assert mini.weights_fingerprint() == prints[1] != small.weights_fingerprint()
    assert quantised.weights_fingerprint() != prints[0]
    assert (quantised.name, small.name) == (f"{tiny_llama_folder}@int8", "mini@int8")
    expected = GPT(gpt.config)
    expected.load_state_dict(gpt.state_dict())
    with torch.no_grad():
        quantise_layers(expected, Scheme.parse("int8"))
    assert torch.equal(expected(torch.arange(5)[None]), small.gpt(torch.arange(5)[None]))


def test_a_model_without_linear_layers_is_refused(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheme that would change nothing is an error, not a model at a KL of 0."""
    model = load_text_model(str(tiny_llama_folder))
    monkeypatch.setattr(quantized, "linear_weights", lambda module: [])
    with pytest.raises(InvalidValueError, match="cannot be quantised: it has no linear layers"):
        apply_scheme(model, Scheme.parse("int8"))


class Elsewhere:
    """A model whose weights are in another process."""

    name = "http://server"


def test_a_model_elsewhere_has_no_size_and_no_scheme() -> None:
    """Its size is unknown, and it cannot be quantised."""
    assert (sized(Elsewhere()).size_bytes, sized(Elsewhere()).saved_bytes) == (None, None)
    with pytest.raises(InvalidValueError, match="http://server cannot be quantised"):
        apply_scheme(Elsewhere(), Scheme.parse("int8"))


def test_the_size_of_a_gguf_file_is_that_of_the_file(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of its dequantised weights; quantised further, it has the size of the scheme."""
    path = gguf_header(tmp_path / "model.gguf", "llama")
    llama = load_text_model(str(tiny_llama_folder))
    assert isinstance(llama, HuggingFaceModel)

    def load_pretrained(*arguments: object) -> from_transformers.Pretrained:
        return from_transformers.Pretrained(llama.model, llama.tokenizer, ())

    monkeypatch.setattr(from_transformers, "load_pretrained", load_pretrained)
    monkeypatch.setattr(from_transformers, "text_tokenizer", lambda location, made: made)
    gguf = load_sized(path, backend="transformers")
    assert gguf.model.name == "model.gguf"
    assert gguf.size_bytes == gguf.saved_bytes == path.stat().st_size
    assert (
        load_sized(f"{path}@int8").size_bytes == load_sized(f"{tiny_llama_folder}@int8").size_bytes
    )
