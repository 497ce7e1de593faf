"""What is refused before anything is read layer by layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from kullback.errors import InvalidValueError
from kullback.models import load_streamed as module
from kullback.models.layer_probe import Layers
from kullback.models.load_streamed import check_streamable, load_streamed
from swept_architectures import tiny
from tiny_architectures import saved_model


@pytest.mark.parametrize("name", ["folder@int8", "model.gguf", "model.gguf@transformers"])
def test_names_that_are_not_streamed(name: str) -> None:
    """A scheme and a .gguf file are seen in the name."""
    with pytest.raises(InvalidValueError, match=r"(int8|\.gguf).*leave out --stream"):
        check_streamable(name)


def test_a_loaded_model_is_refused() -> None:
    """It is in memory already."""
    with pytest.raises(InvalidValueError, match="--stream"):
        check_streamable((object(), object()))


def test_an_architecture_whose_layers_share_more_is_refused(tmp_path: Path) -> None:
    """With what a layer reads, and the remedy."""
    folder = saved_model("llama", tmp_path)
    tiny("gemma3n_text").save_pretrained(folder)
    with pytest.raises(InvalidValueError, match=r"layer 1 reads .*leave out --stream"):
        load_streamed(str(folder))


def test_weights_in_another_format_are_refused(tmp_path: Path) -> None:
    """Parts of pickles cannot be read."""
    folder = saved_model("llama", tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidValueError, match=r"no \.safetensors.*leave out --stream"):
        load_streamed(str(folder))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    """By the configuration, before they are read."""
    folder = saved_model("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [8, 8]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidValueError, match=r"quantised.*leave out --stream"):
        load_streamed(str(folder))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """It would be merged into the weights."""
    folder = saved_model("llama", tmp_path)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 1})
    )
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    with pytest.raises(InvalidValueError, match="adapter"):
        load_streamed(str(folder))


@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_damaged_weights_are_named_before_the_pass(damage: str, tmp_path: Path) -> None:
    """Headers show what is missing or has another shape."""
    folder = saved_model("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    if damage == "missing":
        del weights[key]
    else:
        weights[key] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidValueError, match=key):
        load_streamed(str(folder))


def test_weights_without_a_place_are_noted(tmp_path: Path) -> None:
    """As when the model is loaded as a whole; they are not read."""
    folder = saved_model("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.9.mlp.down_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = load_streamed(str(folder))
    assert any("no place" in note for note in model.notes)


def test_transformers_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first call of some models it advises to install kernels."""
    from transformers.utils import logging

    heard: list[int] = []
    own = module.find_layers

    def noted(model: PreTrainedModel) -> Layers:
        heard.append(logging.get_verbosity())
        return own(model)

    monkeypatch.setattr(module, "find_layers", noted)
    logging.set_verbosity(logging.WARNING)
    load_streamed(str(saved_model("llama", tmp_path)))
    assert (heard, logging.get_verbosity()) == ([logging.ERROR], logging.WARNING)
