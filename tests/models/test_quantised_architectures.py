"""Quantisation of many architectures: nothing that multiplies activations is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torchao.quantization import quantize_
from transformers import AutoConfig, AutoModelForCausalLM

from kullback.errors import InvalidValueError
from kullback.models.load import load_sized
from kullback.models.quantization import Scheme, linear_weights, quantise_layers
from kullback.models.quantized_folder import save_quantised
from kullback.models.weight_matrices import unquantised_weights, weight_matrices
from tiny_architectures import ARCHITECTURES, saved_model
from tiny_models import tiny_llama

SCHEME = "int4-g16"
# The others are enough for the fast tests.
SLOW = ("olmoe", "qwen2_moe", "phi", "opt")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in ARCHITECTURES],
)
def test_the_saved_folder_is_the_model_at_the_scheme(kind: str, tmp_path: Path) -> None:
    """KL is 0 exactly between ``MODEL@SCHEME`` and the saved folder, and above 0 to the model."""
    folder = saved_model(kind, tmp_path / "model")
    saved = save_quantised(folder, Scheme.parse(SCHEME), tmp_path / "saved")
    names = (str(folder), f"{folder}@{SCHEME}", saved.folder)
    inputs = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
    original, live, stored = (
        torch.log_softmax(load_sized(name).model.predict(inputs).logits(slice(None)).double(), -1)
        for name in names
    )
    assert torch.equal(live, stored)
    kl = (original.exp() * (original - live)).sum(1).mean()
    assert kl > 1e-3


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "gpt2"])
def test_a_matrix_is_quantised_by_itself(kind: str) -> None:
    """Each expert or transposed matrix becomes what torchao makes of it in a linear layer."""
    config = AutoConfig.for_model(kind, vocab_size=64, initializer_range=0.2, **ARCHITECTURES[kind])
    model = AutoModelForCausalLM.from_config(config)
    before = {name: matrix.clone() for name, matrix in linear_weights(model)}
    scheme = Scheme.parse("int2-g16")
    quantise_layers(model, scheme)
    for name, matrix in linear_weights(model):
        if matrix.ndim == 2:
            before[name], matrix = before[name][None], matrix[None]
        for old, new in zip(before[name], matrix, strict=True):
            layer = torch.nn.Linear(old.shape[1], old.shape[0], bias=False)
            layer.weight = torch.nn.Parameter(old.contiguous())
            quantize_(layer, scheme.torchao_config())
            assert torch.equal(new, layer.weight.dequantize())


def test_what_is_left_is_named_and_counted() -> None:
    """Of a mixture of experts: embedding, head, routers and norms, and nothing else."""
    config = AutoConfig.for_model("mixtral", vocab_size=64, **ARCHITECTURES["mixtral"])
    model = AutoModelForCausalLM.from_config(config)
    left = {entry.name: entry.weights for entry in unquantised_weights(model)}
    assert left == {
        "model.embed_tokens.weight": 64 * 32,
        "lm_head.weight": 64 * 32,
        "model.layers.*.mlp.gate.weight": 2 * 4 * 32,
        "model.layers.*.input_layernorm.weight": 2 * 32,
        "model.layers.*.post_attention_layernorm.weight": 2 * 32,
        "model.norm.weight": 32,
    }
    whole = sum(weight.numel() for weight in model.parameters())
    quantised = sum(matrix.numel() for _, matrix in linear_weights(model))
    assert sum(left.values()) + quantised == whole
    shares = sum(entry.share for entry in unquantised_weights(model))
    assert shares == pytest.approx(1 - quantised / whole)


def test_a_shared_matrix_is_quantised_once() -> None:
    """Rounded twice it would have other values; one that is the embedding stays."""
    model = torch.nn.ModuleList([torch.nn.Linear(16, 16, bias=False) for _ in range(3)])
    model[1].weight = model[0].weight
    assert [weight.name for weight in weight_matrices(model)] == ["0", "2"]
    model.get_input_embeddings = lambda: model[2]
    assert [weight.name for weight in weight_matrices(model)] == ["0"]


def test_the_output_says_what_was_left(tmp_path: Path) -> None:
    """The result and the notes name the embedding, and which floats are the scheme's."""
    folder = saved_model("gpt2", tmp_path / "model")
    saved = save_quantised(folder, Scheme.parse(SCHEME), tmp_path / "saved")
    assert saved.unquantised[0].name == "transformer.wte.weight"
    assert "transformer.wte.weight" in str(saved)
    assert any("float32" in note and "c_attn" in note for note in saved.notes)
    notes = load_sized(f"{folder}@{SCHEME}").model.notes
    assert any("transformer.wte.weight" in note for note in notes)


@pytest.mark.parametrize("scheme", ["bf16", "fp8"])
def test_a_folder_that_equals_its_source_is_refused(scheme: str, tmp_path: Path) -> None:
    """Nothing is written where no weight would change; MODEL@SCHEME has a note."""
    folder = tiny_llama(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.5)
    model.save_pretrained(folder)
    with pytest.raises(InvalidValueError, match=f"{scheme} already.*same model"):
        save_quantised(folder, Scheme.parse(scheme), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    notes = load_sized(f"{folder}@{scheme}").model.notes
    assert any("these values already" in note for note in notes)
