"""Sizes of a config.json that its weights cannot have are refused before anything is allocated."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from kullback.errors import InvalidValueError
from kullback.models._config_checks import check_sizes
from kullback.models.locate import locate

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32_000, "hidden_size": 64, "num_hidden_layers": 4,
    "intermediate_size": 256, "num_attention_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose weights have the bytes of two million numbers in 16 bits."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "tokenizer.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(4_000_000)
    return tmp_path


def test_honest_sizes_pass(folder: Path) -> None:
    """The sizes of the weights themselves, in any type of number, also of 4 bits."""
    assert locate(str(folder)).path == folder
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(1_100_000)
    assert locate(str(folder)).path == folder
    # GPT-2's default with a small vocabulary; the last row, and one counted from the end.
    for ids in ({"bos_token_id": 50_256, "eos_token_id": [50_256]}, {"pad_token_id": 32_000},
                {"pad_token_id": -1}, {"pad_token_id": None}, {"head_dim": 128}):  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**LLAMA, **ids}))
        assert locate(str(folder)).path == folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 10**9}, "asks for at least"),
        ({"hidden_size": 10**9}, "asks for at least"),
        ({"intermediate_size": 10**9}, "asks for at least"),
        ({"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000, more than 10,000"),
        ({"num_attention_heads": 10**9}, "num_attention_heads is"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is"),
        ({"num_hidden_layers": 1e99}, "num_hidden_layers is"),
        ({"vocab_size": "32000"}, "not a whole number"),
        ({"hidden_size": -1}, "not a whole number"),
        ({"hidden_size": True}, "not a whole number"),
        ({"head_dim": 10**7}, "asks for at least .* head_dim of 10,000,000"),
        ({"head_dim": -1}, "head_dim is -1, not a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"n_head": 0}, "n_head is 0"),
        ({"pad_token_id": 10**9}, "pad_token_id is 1000000000, .* 10,000,000 tokens"),
        ({"pad_token_id": -(10**9)}, "pad_token_id is -1000000000"),
        ({"text_config": {**LLAMA, "vocab_size": 10**9}}, "asks for at least"),
    ],
    ids=str,
)
def test_impossible_sizes_are_named(change: dict[str, Any], words: str, folder: Path) -> None:
    """The sentence has the file and the number."""
    (folder / "config.json").write_text(json.dumps({**LLAMA, **change}))
    with pytest.raises(InvalidValueError, match=words) as error:
        locate(str(folder))
    assert str(folder / "config.json") in str(error.value)


def test_other_names_of_sizes_are_known(tmp_path: Path) -> None:
    """GPT-2's, and lists that have a size for each layer."""
    weights = tmp_path / "w"
    weights.write_bytes(b"x" * 1000)
    config = {"vocab_size": 50_257, "n_embd": 10**6, "n_layer": 2, "n_inner": None}
    with pytest.raises(InvalidValueError, match="width 1,000,000"):
        check_sizes(tmp_path / "config.json", config, [weights])
    check_sizes(tmp_path / "config.json", {"intermediate_size": [10**9] * 3}, [weights])


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": NaN}', "", "[]", "\ud800"])
def test_a_damaged_config_is_named(content: str, folder: Path) -> None:
    """Whatever is in it."""
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidValueError, match=r"config\.json is damaged"):
        locate(str(folder))


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "other.bin", ""])
def test_special_files_are_refused(
    kind: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the model, and as any file in its folder, without waiting."""
    path = folder / (name or "model.gguf")
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(folder)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InvalidValueError, match="give a regular file"):
        locate(str(folder if name else path))


@pytest.mark.parametrize("shard", ["/etc/passwd", "../weights.safetensors", "a\0b"])
def test_shards_are_in_the_folder(shard: str, folder: Path) -> None:
    """An index names files beside it."""
    index = json.dumps({"weight_map": {"w": shard}})
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InvalidValueError, match="outside the folder"):
        locate(str(folder))


def test_a_gguf_file_cannot_have_more_entries_than_bytes(tmp_path: Path) -> None:
    """Numbers of its header are checked against its size."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") * 2)
    with pytest.raises(InvalidValueError, match="more than the file can hold"):
        locate(str(path))
