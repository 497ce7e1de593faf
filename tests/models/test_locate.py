"""Where a name leads, and what is wrong with a folder or a file before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from kullback.errors import InvalidValueError
from kullback.models.adapters import find_adapter
from kullback.models.locate import SENTENCE_PIECE_FILES, Location, locate
from tiny_models import gguf_header, tiny_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tiny Llama."""
    return tiny_llama(tmp_path / "tiny")


def message_of(name: Path | str) -> str:
    """The one sentence about a name that leads nowhere."""
    with pytest.raises(InvalidValueError) as caught:
        locate(str(name))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_a_folder(folder: Path) -> None:
    """transformers loads from the folder itself."""
    location = locate(str(folder))
    assert location == Location(str(folder), folder)
    assert (location.source, location.gguf, location.is_run) == (str(folder), None, False)


def test_a_run_is_known_by_its_training(tmp_path: Path) -> None:
    """A folder with training.json is a run, whatever else is in it."""
    (tmp_path / "training.json").write_text("{}")
    assert locate(str(tmp_path)).is_run


def test_a_gguf_file_is_loaded_from_its_folder(tmp_path: Path) -> None:
    """transformers wants the folder and the name of the file."""
    path = gguf_header(tmp_path / "model.gguf", "llama")
    location = locate(str(path))
    assert (location.gguf, location.source) == (path, str(tmp_path))


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_another_name_is_one_on_the_hub(name: str) -> None:
    """No file, no folder and at most one slash."""
    assert locate(name) == Location(name, None)
    assert locate(name).source == name


@pytest.mark.parametrize(
    "name", ["./nowhere/at/all", "missing.gguf", "some/missing.gguf", "~/nowhere", "a/b/c"]
)
def test_a_path_that_does_not_exist_is_named(name: str) -> None:
    """A path is not looked for on the hub, nor is what ends in .gguf."""
    assert f"no model at {name}" in message_of(name)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    """The message names the file and the kinds of models there are."""
    message = message_of(tmp_path)
    assert "has no config.json" in message
    assert ".gguf" in message


@pytest.mark.parametrize("text", ["{bad", "[]"])
def test_a_damaged_config_is_named(folder: Path, text: str) -> None:
    """A config that is no JSON object is an error that names the file."""
    (folder / "config.json").write_text(text)
    assert "config.json is damaged" in message_of(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    """A folder without weights is not filled with random ones."""
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors" in message_of(folder)


def test_missing_shards_are_counted(folder: Path) -> None:
    """An index of files that are missing gives their number and the first."""
    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert locate(str(folder)).path == folder
    shards[1].unlink()
    message = message_of(folder)
    assert f"1 of {len(shards)} shards" in message
    assert shards[1].name in message


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    """Without a tokenizer no text can be read."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer.json" in message_of(folder)


@pytest.mark.parametrize("name", [*SENTENCE_PIECE_FILES, "qwen.tiktoken", "tekken.json"])
def test_other_files_of_a_tokenizer_are_known(folder: Path, name: str) -> None:
    """Of a model, and of an adapter, which is then not read with the tokenizer of its model."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / name).write_bytes(b"\n")
    assert locate(str(folder)).path == folder
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    adapter = find_adapter(locate(str(folder)))
    assert adapter is not None
    assert adapter.has_tokenizer


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Only .gguf files are models by themselves."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"")
    message = message_of(path)
    assert str(path) in message
    assert ".gguf" in message


def test_a_file_that_is_only_called_gguf_is_refused(tmp_path: Path) -> None:
    """The first four letters of a GGUF file are GGUF."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model at all")
    assert "model.gguf is not a GGUF file" in message_of(path)


def test_a_gguf_file_comes_with_its_header(tmp_path: Path) -> None:
    """It is read once, and a file that ends within it is refused here."""
    path = gguf_header(tmp_path / "model.gguf", "mamba9")
    header = locate(str(path)).header
    assert header is not None
    assert header.architecture == "mamba9"
    path.write_bytes(path.read_bytes()[:30])
    assert "damaged" in message_of(path)
