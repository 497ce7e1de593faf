"""What ``kullback quantise`` saves is MODEL@SCHEME, and takes the bytes that were promised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models.load import load_sized
from kullback.models.quantization import Scheme, linear_weights
from kullback.models.quantized_folder import save_quantised
from kullback.runtime.progress import Progress
from tiny_models import llama_and_gguf


@pytest.fixture
def gpt2(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A folder with a tiny GPT-2, whose linear layers are of a class of their own."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(tiny_llama_folder).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.mark.parametrize("name", ["int8", "int4", "int4-g32", "int2-g16", "fp8"])
def test_the_folder_is_the_model_at_the_scheme(
    name: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """The same logits to the last bit, and the same two sizes; the file takes what was said."""
    saved = save_quantised(tiny_llama_folder, Scheme.parse(name), tmp_path / "saved")
    live, stored = load_sized(f"{tiny_llama_folder}@{name}"), load_sized(saved.folder)
    inputs = torch.arange(40)[None]
    logits = [sized.model.predict(inputs).logits(slice(None)) for sized in (live, stored)]
    assert torch.equal(*logits)
    assert live.size_bytes == stored.size_bytes == saved.bytes_packed
    assert live.saved_bytes == stored.saved_bytes
    tensors = load_file(Path(saved.folder) / "model.safetensors").values()
    assert live.saved_bytes == sum(tensor.nbytes for tensor in tensors)
    assert saved.bytes_saved == sum(file.stat().st_size for file in Path(saved.folder).iterdir())
    assert saved.scheme == name


def test_16_bit_floats_are_saved_whole(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """bf16 converts all weights, and two bytes a number are saved."""
    saved = save_quantised(str(tiny_llama_folder), Scheme.parse("bf16"), tmp_path / "saved")
    tensors = load_file(Path(saved.folder) / "model.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    size = sum(tensor.nbytes for tensor in tensors)
    assert size == saved.bytes_packed == load_sized(f"{tiny_llama_folder}@bf16").saved_bytes


def test_layers_that_torchao_does_not_quantise_have_the_values_of_the_scheme(
    gpt2: Path, tmp_path: Path
) -> None:
    """GPT-2's layers are no nn.Linear: they are saved as floats of four values a group."""
    save_quantised(gpt2, Scheme.parse("int2-g32"), tmp_path / "saved")
    before, after = (
        load_file(folder / "model.safetensors") for folder in (gpt2, tmp_path / "saved")
    )
    weight = after["transformer.h.0.mlp.c_fc.weight"].T.reshape(-1, 32)
    assert weight.dtype == torch.float32
    assert all(len(group.unique()) <= 4 for group in weight)
    assert torch.equal(after["transformer.wte.weight"], before["transformer.wte.weight"])


def test_all_linear_layers_are_quantised_on_disk(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """Every layer that MODEL@SCHEME quantises holds torchao's integers after loading."""
    save_quantised(tiny_llama_folder, Scheme.parse("int8"), tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    layers = [model.get_submodule(name) for name, _ in linear_weights(model)]
    assert len(layers) == 14
    assert {layer.weight.qdata.dtype for layer in layers} == {torch.int8}


def test_a_group_that_does_not_divide_is_named_before_anything_is_written(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """The error has the layer and the sizes."""
    with pytest.raises(InvalidValueError, match=r"int4-g7.*q_proj.* 32 .* 7;"):
        save_quantised(tiny_llama_folder, Scheme.parse("int4-g7"), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """The error names it and what it contains; an empty folder is used."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(InvalidValueError, match=f"{folder}.* exists already and contains mine"):
        save_quantised(tiny_llama_folder, Scheme.parse("int8"), folder)
    (folder / "mine").unlink()
    save_quantised(tiny_llama_folder, Scheme.parse("bf16"), folder)
    assert (folder / "model.safetensors").exists()
    assert [path.name for path in tmp_path.glob("**/.*")] == []


def test_a_folder_that_cannot_be_written_is_named(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValueError, match="file is not a writable folder"):
        save_quantised(tiny_llama_folder, Scheme.parse("bf16"), tmp_path / "file" / "saved")


def test_without_torchao_nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, before the model is looked for."""
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kullback\[quantise\]'"):
        save_quantised("./nowhere", Scheme.parse("int8"), tmp_path / "saved")


class Told(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int]] = {}

    def stage(self, what: str) -> None:
        """Its name, with nothing done."""
        self.stages[what] = (0, 0)

    def advance(self, done: int, total: int) -> None:
        """How far the last stage is."""
        self.stages[list(self.stages)[-1]] = (done, total)


def test_progress_names_the_stages(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """First the loading, then the quantising; both count to the end."""
    told = Told()
    save_quantised(tiny_llama_folder, Scheme.parse("int8"), tmp_path / "saved", progress=told)
    assert list(told.stages) == [
        f"loading {tiny_llama_folder}", f"quantising {tiny_llama_folder} to int8"
    ]  # fmt: skip
    assert all(done == total > 0 for done, total in told.stages.values())


def test_a_gguf_file_is_named_without_options_of_llama_cpp(tmp_path: Path) -> None:
    """They are not of the weights; that these were dequantised is noted."""
    folder = tmp_path / "llama"
    folder.mkdir()
    llama_and_gguf(folder)
    for end in ("@llama.cpp", "@ctk=q8_0"):
        with pytest.raises(InvalidValueError, match=r"llama\.cpp runs the file.*tiny\.gguf$"):
            save_quantised(f"{folder}/tiny.gguf{end}", Scheme.parse("bf16"), tmp_path / "new")
    saved = save_quantised(folder / "tiny.gguf", Scheme.parse("bf16"), tmp_path / "new")
    assert any("dequantised first" in note for note in saved.notes)
