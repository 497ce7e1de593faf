"""Quantised weights are scale × integer, by hand; fewer bits give a larger KL."""

from __future__ import annotations

import copy
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.quantization import (
    Scheme,
    linear_weights,
    packed_size_in_bytes,
    quantise,
    quantise_layers,
    saved_size_in_bytes,
    size_in_bytes,
)
from kullback.sources.language import Language
from kullback.training.gpt import GPT
from tiny_runs import exact_kl, fingerprint, prefixes, sizes, trained, weather


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run."""
    return tmp_path_factory.mktemp("quantise")


@pytest.fixture(scope="module")
def gpt(folder: Path) -> GPT:
    """Train a model of the tiny language."""
    return trained(folder / "run")


@pytest.fixture(scope="module")
def language(folder: Path, gpt: GPT) -> Language:
    """Return the language it was trained on."""
    return weather(folder).source.training


def by_hand(matrix: Tensor, bits: int, group: int | None) -> tuple[Tensor, Tensor]:
    """Return the integers and scales of symmetric quantisation: round, clamp, one row at a time.

    The scale makes the largest magnitude the middle of the integers' range: (2^bits - 1) / 2.
    """
    rows, columns = matrix.shape
    pieces = matrix.double().reshape(rows, -1, group or columns)
    scales = pieces.abs().amax(dim=2, keepdim=True) / ((2**bits - 1) / 2)
    integers = torch.round(pieces / scales).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return integers.reshape(rows, columns), scales.expand_as(pieces).reshape(rows, columns)


@pytest.mark.parametrize("name", ["int8", "int4", "int4-g8", "int4-g4", "int3-g8", "int2-g8"])
def test_weights_are_scale_times_integer(name: str, gpt: GPT):
    """Every matrix is what rounding and clamping by hand makes of it."""
    scheme = Scheme.parse(name)
    quantised = quantise(gpt, scheme).gpt
    before = dict(gpt.named_parameters())
    matrices = 0
    for weight_name, weight in quantised.named_parameters():
        if weight.ndim == 2:
            matrices += 1
            integers, scales = by_hand(before[weight_name].detach(), scheme.bits, scheme.group)
            multiples = weight.detach().double() / scales
            assert (multiples - multiples.round()).abs().max() < 1e-4
            # Half-way between two integers float32 may take the other one; the largest weight of
            # each group is there.
            half_way = ((before[weight_name].double() / scales) % 1 - 0.5).abs() < 1e-4
            assert ((multiples.round() == integers) | half_way).all()
            assert half_way.double().mean() < 1 / (scheme.group or weight.shape[1]) + 0.02
    assert matrices == 8


@pytest.mark.parametrize("name", ["int8", "int2-g8", "bf16", "fp8"])
def test_what_is_no_matrix_stays(name: str, gpt: GPT):
    """Normalisation weights are untouched, and every matrix is touched."""
    quantised = dict(quantise(gpt, Scheme.parse(name)).gpt.named_parameters())
    for weight_name, weight in gpt.named_parameters():
        assert torch.equal(weight, quantised[weight_name]) == (weight.ndim == 1)


@pytest.mark.parametrize("name", ["int8", "int4-g8", "bf16", "fp8"])
def test_the_original_is_untouched(name: str, gpt: GPT):
    """Quantising leaves the model it was given as it was."""
    before = fingerprint(gpt)
    quantised = quantise(gpt, Scheme.parse(name))
    assert fingerprint(gpt) == before
    assert fingerprint(quantised.gpt) != before
    assert quantised.scheme == name


def test_floats_are_torchs(gpt: GPT):
    """bf16 and fp16 are casts there and back; fp8 has a scale a row and 3 bits of mantissa."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        head = quantise(gpt, Scheme.parse(name)).gpt.head_weight
        assert torch.equal(head, gpt.head_weight.to(dtype).float())
    head = quantise(gpt, Scheme.parse("fp8")).gpt.head_weight.detach()
    scale = gpt.head_weight.detach().abs().amax(dim=1, keepdim=True) / 448.0
    expected = (gpt.head_weight.detach() / scale).to(torch.float8_e4m3fn).float() * scale
    torch.testing.assert_close(head, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("int8", (10, 32), 320 + 40),
        ("int4", (10, 32), 160 + 40),
        ("int4-g16", (10, 32), 160 + 80),
        ("int2-g8", (10, 32), 80 + 160),
        ("int3", (3, 3), 4 + 12),  # 27 bits are four bytes
        ("bf16", (10, 32), 640),
        ("fp16", (10, 32), 640),
        ("fp8", (10, 32), 320 + 40),
    ],
)
def test_sizes(name: str, shape: tuple[int, int], expected: int):
    """A matrix takes its numbers' bits, rounded up to bytes, and four bytes a scale."""
    assert Scheme.parse(name).size_in_bytes(torch.Size(shape)) == expected


def test_the_size_of_a_model(gpt: GPT):
    """A quantised model's size is that of its matrices and four bytes for every other number."""
    numbers = sum(weight.numel() for weight in gpt.parameters())
    assert size_in_bytes(gpt) == 4 * numbers == 4 * gpt.config.parameters
    rows = sum(len(weight) for weight in gpt.parameters() if weight.ndim == 2)
    norms = sum(weight.numel() for weight in gpt.parameters() if weight.ndim == 1)
    quantised = quantise(gpt, Scheme.parse("int8"))
    assert quantised.size_bytes == (numbers - norms) + 4 * rows + 4 * norms


def kl_from(reference: GPT, other: GPT, language: Language) -> float:
    """Return KL(reference‖other) in nats/token over the language's prefixes."""
    total = tokens = 0.0
    with torch.no_grad():
        for prefix, reach, _ in prefixes(language):
            inputs = torch.tensor([[0, *prefix]])
            log_p, log_q = (
                torch.log_softmax(model(inputs)[0, -1].double(), dim=0)
                for model in (reference, other)
            )
            total += reach * torch.sum(log_p.exp() * (log_p - log_q)).item()
            tokens += reach
    return total / tokens


def test_fewer_bits_are_farther_away(gpt: GPT, language: Language, folder: Path):
    """KL from the original grows from int8 over int4 to int2; int8 costs the truth next to nothing.

    The first model is drawn, not trained: what a training ends with depends on how the processor
    rounds, and on so small a model that decides what int4 costs.
    """
    drawn = GPT(sizes(weather(folder), width=16), seed=0)
    with torch.no_grad():
        drawn.head_weight.mul_(40)  # with conviction, so that there is something to lose
    schemes = [Scheme.parse(name) for name in ("int8", "int4-g8", "int2-g8")]
    far = [kl_from(drawn, quantise(drawn, scheme).gpt, language) for scheme in schemes]
    assert 0 < 10 * far[0] < far[1]
    assert 3 * far[1] < far[2]
    int8, _, int2 = (quantise(gpt, scheme).gpt for scheme in schemes)
    assert 0 < kl_from(gpt, int8, language) < 1e-3
    assert exact_kl(int8, language) == pytest.approx(exact_kl(gpt, language), rel=0.2, abs=5e-4)
    assert exact_kl(int2, language) > 10 * exact_kl(gpt, language)


def test_quantising_twice_changes_nothing_more(gpt: GPT):
    """A bf16 model quantised to bf16 is itself."""
    once = quantise(gpt, Scheme.parse("bf16")).gpt
    assert fingerprint(quantise(once, Scheme.parse("bf16")).gpt) == fingerprint(once)


@pytest.mark.parametrize("name", ["int8", "int4-g32", "int1", "bf16", "fp16", "fp8"])
def test_names_come_back(name: str):
    """A scheme's name is the one it was parsed from."""
    assert Scheme.parse(name).name == name


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("int0", "int8"), ("INT8", "int8"), ("int8 ", "int8"), ("int4g32", "int4-g32"),
        ("int4_g32", "int4-g32"), ("int4-g0", "int4-g32"), ("bf-16", "bf16"), ("float8", None),
        ("q", None), ("", None),
    ],
)  # fmt: skip
def test_unknown_schemes(name: str, similar: str | None):
    """An unknown scheme is an error with the most similar known one, and the forms of names."""
    with pytest.raises(InvalidValueError, match=r"intBITS.*fp8") as caught:
        Scheme.parse(name)
    message = str(caught.value)
    assert f"scheme {name!r} is unknown" in message
    assert (f"did you mean {similar}?" in message) if similar else ("did you mean" not in message)


def test_groups_that_do_not_divide(gpt: GPT):
    """A group size that does not divide a matrix is an error with the matrix's name."""
    before = fingerprint(gpt)
    with pytest.raises(InvalidValueError, match=r"int4-g7.*embed_tokens.weight.* 16 .* 7;"):
        quantise(gpt, Scheme.parse("int4-g7"))
    assert fingerprint(gpt) == before


def test_without_torchao(gpt: GPT, monkeypatch: pytest.MonkeyPatch):
    """Without torchao the error says what to install; the 16-bit floats need none."""
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'kullback[quantise]'")):
        quantise(gpt, Scheme.parse("int8"))
    assert quantise(gpt, Scheme.parse("bf16")).scheme == "bf16"


# --- models of transformers --------------------------------------------------------------------


@pytest.fixture
def llama() -> transformers.LlamaForCausalLM:
    """Return a random Llama."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("name", ["int8", "int4-g16", "int2-g8", "fp8", "bf16"])
def test_sizes_of_transformers_layers(name: str, llama: transformers.LlamaForCausalLM):
    """Packed, a scheme's layers take its bits; saved, whole bytes and zero points as well."""
    scheme = Scheme.parse(name)
    shapes = [matrix.shape for _, matrix in linear_weights(llama)]
    numbers = sum(shape.numel() for shape in shapes)
    others = sum(weight.numel() for weight in llama.parameters()) - numbers
    scales = sum(scheme._scales(shape) for shape in shapes)
    saved = saved_size_in_bytes(llama, scheme)
    assert packed_size_in_bytes(llama) == size_in_bytes(llama) == 4 * (numbers + others)
    assert (
        saved
        == {
            "int8": numbers + 5 * scales + 4 * others,
            "int4-g16": numbers + 5 * scales + 4 * others,
            "int2-g8": numbers + 5 * scales + 4 * others,
            "fp8": numbers + 4 * scales + 4 * others,
            "bf16": 2 * (numbers + others),
        }[name]
    )


def test_layers_are_quantised_in_place_but_the_head(llama: transformers.LlamaForCausalLM):
    """Of a Llama the linear layers change as by hand; embedding, head and norms do not."""
    before = copy.deepcopy(llama.state_dict())
    size = quantise_layers(llama, Scheme.parse("int4-g16")).size_bytes
    changed = {name for name, w in llama.state_dict().items() if not torch.equal(w, before[name])}
    assert len(changed) == 2 * 7
    assert all("proj.weight" in name for name in changed)
    for name in changed:
        integers, scales = by_hand(before[name], 4, 16)
        close = (llama.state_dict()[name] - integers * scales).abs() < 1e-6
        assert close.double().mean() > 0.9  # but for what lies half-way
    linear = sum(before[name].numel() for name in changed)
    assert size == size_in_bytes(llama) - 4 * linear + linear // 2 + linear // 16 * 4


def test_only_the_wanted_layers(llama: transformers.LlamaForCausalLM):
    """`wanted` chooses the layers by name, and the size counts only those."""
    before = copy.deepcopy(llama.state_dict())
    size = quantise_layers(
        llama, Scheme.parse("int8"), lambda name: "layers.1.mlp" in name
    ).size_bytes
    changed = {name for name, w in llama.state_dict().items() if not torch.equal(w, before[name])}
    assert changed == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert size == size_in_bytes(llama) - 3 * 3 * 32 * 48 + 4 * (48 + 48 + 32)


def test_gpt2s_transposed_layers():
    """GPT-2 keeps (in, out): its matrices are quantised by output all the same."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=32, n_layer=1, n_head=2, tie_word_embeddings=True
    )
    model = transformers.GPT2LMHeadModel(config)
    matrices = dict(linear_weights(model))
    assert len(matrices) == 4
    assert matrices["transformer.h.0.attn.c_attn"].shape == (96, 32)
    before = model.transformer.h[0].attn.c_attn.weight.detach().clone()
    embedding = model.transformer.wte.weight.detach().clone()
    quantise_layers(model, Scheme.parse("int8"))
    integers, scales = by_hand(before.T, 8, None)
    after = model.transformer.h[0].attn.c_attn.weight.detach().T
    assert ((after - integers * scales).abs() < 1e-6).double().mean() > 0.9
    assert torch.equal(model.transformer.wte.weight, embedding)


def test_progress_counts_the_layers(llama: transformers.LlamaForCausalLM):
    """`progress` is told how many of the chosen layers are done, and ends with all."""
    steps: list[tuple[int, int]] = []
    quantise_layers(
        llama, Scheme.parse("int8"), lambda name: "mlp" in name, lambda *step: steps.append(step)
    )
    assert steps == [(done, 6) for done in range(7)]


def test_quantising_changes_no_level_of_a_logger(gpt: GPT):
    """torchao and pytree log as before."""
    names = ("torchao", "torch.utils._pytree", "huggingface_hub")
    before = [logging.getLogger(name).level for name in names]
    quantise(gpt, Scheme.parse("int8"))
    assert [logging.getLogger(name).level for name in names] == before


def test_layers_without_a_head():
    """A module that has no head has all its linear layers quantised."""
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    assert [name for name, _ in linear_weights(model)] == ["0", "2"]
    biases = model[0].bias.detach().clone()
    quantise_layers(model, Scheme.parse("int8"))
    assert torch.equal(model[0].bias, biases)
