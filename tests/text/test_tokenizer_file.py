"""Tokenizers of others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer_file import MOST_TOKENS, described, read_tokenizer
from kullback.text.tokenizer_training import train_tokenizer, word_tokenizer

TOKENIZER = word_tokenizer([BOS, EOS, "a", "b"])


def test_a_tokenizer_comes_back(tmp_path: Path) -> None:
    """The file of a tokenizer is that tokenizer."""
    path = tmp_path / "tokenizer.json"
    path.write_text(TOKENIZER.to_str())
    assert read_tokenizer(path).get_vocab() == TOKENIZER.get_vocab()


@pytest.mark.parametrize("id_", [MOST_TOKENS, 10**9, 2**31])
def test_large_ids_are_refused(id_: int, tmp_path: Path) -> None:
    """An id is the size of a table."""
    content = json.loads(TOKENIZER.to_str())
    content["model"]["vocab"]["b"] = id_
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"'b' has the id {id_}"):
        read_tokenizer(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_a_value_error(content: bytes, tmp_path: Path) -> None:
    """Whatever the library raises."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        read_tokenizer(path)


def test_a_pipe_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Nothing waits."""
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(OSError, match="named pipe"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_description_is_that_of_the_file_without_the_vocabulary() -> None:
    """`described` says what the whole JSON says, of all but the vocabulary and the merges."""
    tokenizer = train_tokenizer(["a b ab abc abcd"], 262)
    whole = json.loads(tokenizer.to_str())
    about = described(tokenizer.to_str())
    assert about["model"].keys() == whole["model"].keys() - {"vocab", "merges"}
    assert all(whole["model"][key] == value for key, value in about["model"].items())
    assert all(whole[part] == about[part] for part in ("normalizer", "pre_tokenizer", "decoder"))
