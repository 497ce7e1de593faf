"""Quantised checkpoints against weights that are dequantised by hand, one number at a time."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.load import load_sized
from kullback.models.quantization import Scheme
from kullback.models.quantized_folder import save_quantised
from tiny_architectures import saved_model
from tiny_models import tiny_llama

INPUTS = torch.arange(30)[None]
Stored = tuple[dict[str, Tensor], Tensor]
"""The tensors that stand for a weight, by the ends of their names, and the weight by hand."""


def packed(numbers: Tensor, bits: int, order: list[int] | None = None) -> Tensor:
    """Pack each row's unsigned numbers into 32-bit words with Python's integers."""
    per_word = 32 // bits
    order = order or list(range(per_word))
    rows = []
    for row in numbers.tolist():
        words = []
        for start in range(0, len(row), per_word):
            word = sum(row[start + place] << (bits * i) for i, place in enumerate(order))
            words.append(word - 2**32 if word >= 2**31 else word)
        rows.append(words)
    return torch.tensor(rows, dtype=torch.int32)


def fp8(weight: Tensor, draw: torch.Generator, block: tuple[int, int] | None) -> Stored:
    """Blocks, of which those at the edges are smaller, or the whole matrix."""
    high, wide = block or weight.shape
    numbers = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    by_hand, rows = torch.empty_like(weight), -(-weight.shape[0] // high)
    scales = torch.rand(rows, -(-weight.shape[1] // wide), generator=draw) * 0.01 + 0.001
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            numbers[part] = (weight[part] / scales[i, j]).clamp(-448, 448).to(numbers.dtype)
            by_hand[part] = numbers[part].float() * scales[i, j]
    scale = scales if block else scales[0, 0]
    return {"weight": numbers, "weight_scale_inv": scale}, by_hand


def auto_fp8(weight: Tensor, draw: torch.Generator) -> Stored:
    """The whole matrix, by another name of the scale, and a scale of activations."""
    parts, by_hand = fp8(weight, draw, None)
    parts["weight_scale"] = parts.pop("weight_scale_inv")
    return {**parts, "input_scale": torch.tensor(0.5)}, by_hand


def gptq(weight: Tensor, draw: torch.Generator, bits: int, order: bool, v2: bool) -> Stored:
    """Groups of 16 inputs, in order or by a permutation."""
    E, D = weight.shape
    groups = torch.arange(D) // 16
    if order:
        groups = groups[torch.randperm(D, generator=draw)]
    scales = (torch.rand(D // 16, E, generator=draw) * 0.1 + 0.01).half()
    numbers = torch.randint(0, 2**bits, (D, E), generator=draw)
    zeros = torch.randint(1, 2**bits, (D // 16, E), generator=draw)
    by_hand = torch.tensor([
        [float(scales[groups[d], e]) * int(numbers[d, e] - zeros[groups[d], e]) for d in range(D)]
        for e in range(E)
    ])  # fmt: skip
    return {
        "qweight": packed(numbers.T, bits).T.contiguous(),
        "qzeros": packed(zeros - (0 if v2 else 1), bits),
        "scales": scales,
        "g_idx": groups.int(),
    }, by_hand


def awq(weight: Tensor, draw: torch.Generator) -> Stored:
    """Groups of 16 inputs; eight outputs a word, the even ones first."""
    E, D = weight.shape
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    scales = (torch.rand(D // 16, E, generator=draw) * 0.1 + 0.01).half()
    numbers = torch.randint(0, 16, (D, E), generator=draw)
    zeros = torch.randint(0, 16, (D // 16, E), generator=draw)
    by_hand = torch.tensor([
        [float(scales[d // 16, e]) * int(numbers[d, e] - zeros[d // 16, e]) for d in range(D)]
        for e in range(E)
    ])  # fmt: skip
    return {"qweight": packed(numbers, 4, order), "qzeros": packed(zeros, 4, order),
            "scales": scales}, by_hand  # fmt: skip


def compressed(weight: Tensor, draw: torch.Generator, form: str, zero: bool = False) -> Stored:
    """Rows of 8-bit numbers, or groups of 16 packed 4-bit integers."""
    E, D = weight.shape
    if form != "pack-quantized":
        dtype = torch.float8_e4m3fn if form == "float-quantized" else torch.int8
        scale = torch.rand(E, 1, generator=draw) * 0.01 + 0.001
        numbers = (weight / scale).clamp(-127, 127)
        numbers = (numbers if dtype.is_floating_point else numbers.round()).to(dtype)
        return {"weight": numbers, "weight_scale": scale}, numbers.float() * scale
    scale = torch.rand(E, D // 16, generator=draw) * 0.1 + 0.01
    numbers = torch.randint(-8, 8, (E, D), generator=draw)
    zeros = torch.randint(-8, 8, (E, D // 16), generator=draw) * zero
    by_hand = torch.tensor([
        [float(scale[e, d // 16]) * int(numbers[e, d] - zeros[e, d // 16]) for d in range(D)]
        for e in range(E)
    ])  # fmt: skip
    stored = {"weight_packed": packed(numbers + 8, 4), "weight_scale": scale,
              "weight_shape": torch.tensor([E, D])}  # fmt: skip
    if zero:
        stored["weight_zero_point"] = packed((zeros + 8).T, 4).T.contiguous()
    return stored, by_hand


def group(bits: int) -> dict[str, object]:
    """Return the settings of compressed-tensors for weights of that many bits."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group"}
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def bitsandbytes(weight: Tensor, draw: torch.Generator) -> Stored:
    """Rows of 8-bit integers, of which 127 stands for the largest."""
    largest = weight.abs().amax(1)
    numbers = (weight / largest[:, None] * 127).round().to(torch.int8)
    by_hand = torch.tensor([
        [int(number) * (float(size) / 127) for number in row]
        for row, size in zip(numbers, largest, strict=True)
    ])  # fmt: skip
    stored = {"weight": numbers, "SCB": largest, "weight_format": torch.tensor(0)}
    return stored, by_hand


FORMS: dict[str, tuple[Callable[[Tensor, torch.Generator], Stored], dict[str, Any]]] = {
    "fp8 blocks": (lambda w, d: fp8(w, d, (24, 20)),
                   {"quant_method": "fp8", "weight_block_size": [24, 20]}),
    "fp8 matrices": (lambda w, d: fp8(w, d, None), {"quant_method": "fp8"}),
    "fp8 of AutoFP8": (auto_fp8, {
        "quant_method": "fp8", "activation_scheme": "static"}),
    "gptq": (lambda w, d: gptq(w, d, 4, False, False),
             {"quant_method": "gptq", "bits": 4, "group_size": 16}),
    "gptq ordered": (lambda w, d: gptq(w, d, 8, True, False),
                     {"quant_method": "gptq", "bits": 8, "group_size": 16, "desc_act": True}),
    "gptq v2": (lambda w, d: gptq(w, d, 2, False, True),
                {"quant_method": "gptq", "bits": 2, "group_size": 16,
                 "checkpoint_format": "gptq_v2"}),
    "gptq dynamic": (lambda w, d: gptq(w, d, 8 if w.shape[0] < w.shape[1] else 4, False, False),
                     {"quant_method": "gptq", "bits": 4, "group_size": 16,
                      "dynamic": {"+:.*down_proj": {"bits": 8}}}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}),
    "bitsandbytes": (bitsandbytes, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "compressed float": (lambda w, d: compressed(w, d, "float-quantized"),
                         {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    "compressed int": (lambda w, d: compressed(w, d, "int-quantized"),
                       {"quant_method": "compressed-tensors", "format": "int-quantized"}),
    "compressed packed": (lambda w, d: compressed(w, d, "pack-quantized"),
                          {"quant_method": "compressed-tensors", "format": "pack-quantized",
                           **group(4)}),
    "compressed zeros": (lambda w, d: compressed(w, d, "pack-quantized", zero=True),
                         {"quant_method": "compressed-tensors", "format": "pack-quantized",
                          **group(4)}),
}  # fmt: skip


def checkpoint(form: str, folder: Path) -> tuple[Path, Any]:
    """Save a tiny Llama whose linear layers have the form, and return it with the model by hand."""
    tiny_llama(folder)
    draw, (make, settings) = torch.Generator().manual_seed(4), FORMS[form]
    stored: dict[str, Tensor] = {}
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = weight
            continue
        parts, by_hand = make(weight, draw)
        stored |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
        model.get_parameter(name).data.copy_(by_hand)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder, model.eval()


def logits(name: str | Path) -> Tensor:
    """Return the logits of the model called `name`."""
    return load_sized(str(name)).model.predict(INPUTS).logits(slice(None))


@pytest.mark.parametrize("form", ["gptq", "awq", "fp8 blocks", "compressed packed", "bitsandbytes"])
def test_a_form_that_no_weight_has_is_refused(form: str, tmp_path: Path) -> None:
    """The configuration alone does not make a model quantised."""
    folder, _ = checkpoint(form, tmp_path / "model")
    tiny_llama(tmp_path / "plain")
    shutil.copyfile(tmp_path / "plain/model.safetensors", folder / "model.safetensors")
    with pytest.raises(InvalidValueError, match=r"config.json of .*none of them is"):
        load_sized(str(folder))


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_by_hand(form: str, tmp_path: Path) -> None:
    """Every weight is equal, the note names the form, and the size is that of the files."""
    folder, expected = checkpoint(form, tmp_path / "model")
    sized = load_sized(folder)
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(sized.model.model.get_parameter(name), weight, rtol=1e-6, atol=0)
    method = FORMS[form][1]["quant_method"]
    assert any(method in note.lower() and "dequantised" in note for note in sized.model.notes)
    assert sized.size_bytes == (folder / "model.safetensors").stat().st_size
    with torch.no_grad():
        by_hand = expected(INPUTS).logits[0]
    torch.testing.assert_close(logits(folder), by_hand, rtol=1e-4, atol=1e-4)


def test_a_16_bit_type_rounds_the_dequantised_weights(tmp_path: Path) -> None:
    """The note says so instead of calling it exact."""
    folder, expected = checkpoint("fp8 blocks", tmp_path / "model")
    model = load_sized(folder, "bfloat16").model
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.model.get_parameter(name), expected.get_parameter(name).bfloat16())
    assert any("rounded to bfloat16" in note and "exact" not in note for note in model.notes[-1:])


def test_a_scheme_quantises_the_dequantised_weights(tmp_path: Path) -> None:
    """``FP8@int8`` is the folder that quantise saves of it, which has no other form."""
    folder, _ = checkpoint("fp8 blocks", tmp_path / "model")
    saved = save_quantised(folder, Scheme.parse("int8"), tmp_path / "saved")
    assert torch.equal(logits(f"{folder}@int8"), logits(saved.folder))


def test_experts_of_a_checkpoint_become_one_parameter(tmp_path: Path) -> None:
    """A mixture of experts in FP8 has a matrix and a scale for each expert."""
    folder = saved_model("mixtral", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    draw, stored = torch.Generator().manual_seed(5), load_file(folder / "model.safetensors")
    experts = [name for name in stored if ".experts." in name]
    assert len(experts) == 2 * 4 * 3
    for name in experts:
        parts, by_hand = fp8(stored.pop(name), draw, (16, 16))
        stored |= {f"{name.removesuffix('weight')}{part}": x for part, x in parts.items()}
        layer, expert, part = (name.split(".")[i] for i in (2, -3, -2))
        mlp = model.model.layers[int(layer)].mlp.experts
        with torch.no_grad():
            if part == "w2":
                mlp.down_proj[int(expert)] = by_hand
            else:
                mlp.gate_up_proj[int(expert)].chunk(2)[part == "w3"].copy_(by_hand)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with torch.no_grad():
        expected = model.eval()(INPUTS).logits[0]
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=1e-4)


def test_experts_in_4_bit_floats_are_those_of_transformers(tmp_path: Path) -> None:
    """A gpt-oss in MXFP4 is dequantised, whatever kernels there are."""
    folder = saved_model("gpt_oss", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    draw, stored = torch.Generator().manual_seed(5), load_file(folder / "model.safetensors")
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, D, E = stored.pop(name).shape
        blocks = torch.randint(0, 256, (experts, E, -(-D // 32), 16), generator=draw)
        scales = torch.randint(118, 124, blocks.shape[:3], generator=draw)
        stored |= {f"{name}_blocks": blocks.byte(), f"{name}_scales": scales.byte()}
        weight = convert_moe_packed_tensors(blocks.byte(), scales.byte(), dtype=torch.float32)
        with torch.no_grad():
            model.get_parameter(name).copy_(weight)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    loaded = load_sized(folder).model
    assert any("mxfp4" in note and "dequantised in float32" in note for note in loaded.notes)
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight), name


@pytest.mark.slow
def test_bitsandbytes_in_4_bits_runs_as_it_is(tmp_path: Path) -> None:
    """Where the package is there: the logits are those of transformers, and the note names it."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (60 MB)")
    tiny_llama(tmp_path / "plain")
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map="cpu"
    )
    shutil.copytree(tmp_path / "plain", tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    quantised.save_pretrained(tmp_path / "model")
    loaded = load_sized(str(tmp_path / "model")).model
    with torch.no_grad():
        expected = quantised(INPUTS).logits.reshape(-1, loaded.vocabulary_size)
    assert torch.equal(loaded.predict(INPUTS).logits(slice(None)), expected)
    assert any("bitsandbytes (4 bits) and run in that form" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("method", "package"),
    [("bitsandbytes", "bitsandbytes"), ("hqq", "hqq"), ("quanto", "optimum.quanto"),
     ("torchao", "torchao"), ("aqlm", "aqlm")],
)  # fmt: skip
def test_other_forms_need_their_package(
    method: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is named, and what to install; the files are not called damaged."""
    folder, _ = checkpoint("awq", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "load_in_4bit": method[0] == "b"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{method}.*needs {package}: pip install"
    ) as error:
        load_sized(folder)
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("fp8 blocks", {"weight_block_size": [7, 7]}, "scales do not fit"),
        ("gptq", {"bits": 3}, "3 bits"),
        ("gptq", {"bits": 8}, "8 bits, and .* has 4"),
        ("gptq", {"bits": None}, "no bits"),
        ("awq", {"quant_method": "new"}, "new.*does not know"),
        ("awq", {"bits": 8}, "gemm with 4 bits"),
        ("awq", {"quant_method": "fp8"}, "qweight has no scale"),
    ],
)
def test_forms_that_do_not_fit_are_refused(
    form: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    """One sentence with the form and what is wrong."""
    folder, _ = checkpoint(form, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidValueError, match=message) as error:
        load_sized(folder)
    assert "damaged" not in str(error.value)


def test_ambiguous_zero_points_are_refused(tmp_path: Path) -> None:
    """A stored zero point of 15 is 16 to some programs and 0 to others."""
    folder, _ = checkpoint("gptq", tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    name = next(name for name in stored if name.endswith("qzeros"))
    stored[name][0, 0] = -1
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidValueError, match="zero points of 15"):
        load_sized(folder)
