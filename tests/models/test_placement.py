"""Models that accelerate spreads over devices, host memory and the disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from placement_checks import check
from safetensors.torch import load_file, save_file

from kullback.cli import main
from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models import placement
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_sized, load_text_model
from kullback.models.placement import DeviceMap, Place

INPUTS = torch.arange(30, 50)[None]
SPLIT = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "disk",
    "model.layers.1": "cpu",
    "model.norm": "cpu",
    "lm_head": "disk",
}


@pytest.fixture
def tied_folder(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """The tiny Llama with its embedding as its head."""
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "tied"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def check_equal(folder: Path, device_map: DeviceMap) -> HuggingFaceModel:
    """Check that predictions and fingerprint are those of the whole model."""
    whole = load_text_model(str(folder))
    spread = load_text_model(str(folder), device="auto", device_map=device_map)
    assert isinstance(spread, HuggingFaceModel)
    assert spread.factored
    logits = [model.predict(INPUTS).logits(slice(None)) for model in (whole, spread)]
    torch.testing.assert_close(*logits)
    assert spread.weights_fingerprint() == whole.weights_fingerprint()
    assert load_sized(spread).size_bytes == load_sized(whole).size_bytes
    return spread


@pytest.mark.parametrize("device_map", [SPLIT, {"": "disk"}, {"model": "cpu", "lm_head": "disk"}])
def test_a_spread_model_predicts_as_a_whole_one(tiny_llama_folder: Path, device_map: DeviceMap):
    """Weights that are read while a layer computes: the head is found, all numbers are the same."""
    spread = check_equal(tiny_llama_folder, device_map)
    assert any("accelerate" in note and "on the disk" in note for note in spread.notes)
    assert spread.exclusive
    assert spread.device == torch.device("cpu")


def test_a_spread_model_with_tied_weights(tied_folder: Path):
    """A head that is the embedding counts once, wherever it is."""
    check_equal(tied_folder, {"": "disk"})


def test_auto_on_a_cpu_is_the_whole_model(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, auto leaves the model on the CPU, with nothing to note."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto = check_equal(tiny_llama_folder, "auto")
    assert (auto.exclusive, auto.notes) == (False, ())


def test_the_command_line_measures_a_spread_model(
    tiny_llama_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--device-map auto gives the measures of the model on one device."""
    command = ["evaluate", str(tiny_llama_folder), "--text", str(text_file), "--json"]
    results = []
    for options in (["--device", "cpu"], ["--device-map", "auto", "--dtype", "float32"]):
        assert main([*command, *options]) == 0
        results.append(json.loads(capsys.readouterr().out)["measures"])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device_map": "everywhere"}, "'everywhere'.*auto"),
        ({"device_map": "auto", "device": "cpu"}, "--device.*cpu.*leave out one"),
    ],
)
def test_an_impossible_map_is_refused(
    options: dict[str, str], said: str, tiny_llama_folder: Path
) -> None:
    """What is no map, or contradicts a device, is named."""
    with pytest.raises(InvalidValueError, match=f"(?s)device_map.*{said}|{said}"):
        load_sized(str(tiny_llama_folder), **options)


def test_what_cannot_be_spread_is_refused(
    tiny_llama_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheme quantises what the map spreads as it is stored; a loaded model is where it is."""
    folder, text = str(tiny_llama_folder), ["--text", str(text_file), "--device-map", "auto"]
    for command in (["evaluate", f"{folder}@int8"], ["compare", folder, "--schemes", "int8"]):
        assert main([*command, *text]) == 2
        error = capsys.readouterr().err
        assert "--device-map" in error
        assert "int8 quantises" in error
    with pytest.raises(InvalidValueError, match="loaded already"):
        load_sized(load_sized(folder), device_map="auto")


def test_accelerate_is_named_where_it_is_missing(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without accelerate a map is refused with the package's name; one device needs none."""
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install accelerate"):
        load_text_model(str(tiny_llama_folder), device="auto", device_map="auto")
    assert Place(torch.device("cuda:1")).options == {}


def test_a_spread_model_is_one_process(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun each process has a model of its own."""
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidValueError, match="torchrun"):
        load_text_model(str(tiny_llama_folder), device="auto", device_map="auto")


def test_weights_are_read_straight_to_an_accelerator() -> None:
    """transformers is told the device, so that no copy is made in host memory."""
    device = torch.device("cuda:1")
    assert Place(device).options == {"device_map": {"": device}}
    assert Place(torch.device("cpu")).options == {}


def test_the_checks_of_a_gpu_run_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers and fingerprints are those of the whole model, wherever weights are."""
    monkeypatch.setenv("XDG_STATE_HOME", "")  # put back afterwards
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check("cpu", 32)
    assert "all pass" in capsys.readouterr().out
