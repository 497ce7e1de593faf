"""Models that are read of the same files again while the first one is in memory."""

from __future__ import annotations

import pytest
import torch

from kullback.models import from_transformers
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_sized
from kullback.models.quantized import SizedModel
from kullback.runtime import remembered
from tiny_architectures import saved_model

INPUTS = torch.arange(60).view(2, 30) * 7 % 250
KINDS = (
    "llama",
    "gpt2",
    "gemma2",
    "phi",
    "opt",
    "bloom",
    "gpt_neox",
    "mixtral",
    "gpt_oss",
    "mamba",
)


@pytest.fixture
def wraps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of models that are tried; files that have just been written are as good as old."""
    names: list[str] = []
    wrapped = from_transformers.wrapped

    def counted(model: object, tokenizer: object, name: str, longest: object) -> object:
        names.append(name)
        return wrapped(model, tokenizer, name, longest)  # type: ignore[arg-type]

    monkeypatch.setattr(from_transformers, "wrapped", counted)
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", 0.0)
    return names


def load(name: str, dtype: str = "float32") -> SizedModel:
    """The model, which is one of transformers."""
    loaded = load_sized(name, dtype)
    assert isinstance(loaded.model, HuggingFaceModel)
    return loaded


def about(loaded: SizedModel) -> list[object]:
    """What a comparison takes of a model."""
    model = loaded.model
    assert isinstance(model, HuggingFaceModel)
    head = model.head and (model.head.scale, model.head.softcap, model.head.product_dtype)
    return [
        loaded.size_bytes, loaded.saved_bytes, model.name, model.notes, head, model.context,
        model.layers.has_attention, model.vocabulary_size, model.sharing(30),
        model.weights_fingerprint(), model.tokenizer.fingerprint,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_scheme_of_a_model_in_memory_is_that_of_one_read_anew(kind, tmp_path, wraps):
    """The same bits, notes and sharing; the tokenizer and what the weights give are found once."""
    folder = str(saved_model(kind, tmp_path / kind))
    for scheme, dtype in (("@int8", "float32"), ("@bf16", "float32"), ("", "bfloat16")):
        from_transformers._tried.clear()
        alone = load(folder + scheme, dtype)
        expected = alone.model.predict(INPUTS).logits(slice(None))
        from_transformers._tried.clear()
        wraps.clear()
        reference = load(folder, dtype)
        of_reference = reference.model.predict(INPUTS).logits(slice(None))
        again = load(folder + scheme, dtype)
        assert wraps == [folder]
        assert torch.equal(again.model.predict(INPUTS).logits(slice(None)), expected)
        assert torch.equal(reference.model.predict(INPUTS).logits(slice(None)), of_reference)
        assert about(again) == about(alone)
        assert again.model.tokenizer is reference.model.tokenizer


@pytest.mark.parametrize("scheme", ["int8", "int4-g16", "fp8", "bf16"])
def test_a_scheme_in_float64_has_the_weights_of_float32(scheme, tmp_path):
    """The arithmetic is another one, the weights are those that the scheme gives."""
    folder = saved_model("llama", tmp_path / "llama")
    narrow, wide = (
        load(f"{folder}@{scheme}", dtype).model.model.state_dict()
        for dtype in ("float32", "float64")
    )
    assert all(weight.dtype == torch.float64 for weight in wide.values())
    for name, weight in narrow.items():
        assert torch.equal(weight.double(), wide[name]), name


def test_another_state_of_the_files_is_tried(tmp_path, wraps):
    """Also another type of the arithmetic, another name, and a model that is no longer there."""
    folder = saved_model("llama", tmp_path / "llama")
    first = load(str(folder))
    load(str(folder), "bfloat16")
    load(f"{tmp_path}/../{tmp_path.name}/llama")
    assert len(wraps) == 3
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    again = load(f"{folder}@int8")
    assert len(wraps) == 4
    assert again.model.tokenizer is not first.model.tokenizer
    del first, again
    load(str(folder))
    load(str(folder))
    assert len(wraps) == 6
