"""Tokenizers that are trained on a text or made of a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from kullback.errors import InvalidValueError
from kullback.text.special_tokens import BOS, BOS_ID, EOS, EOS_ID
from kullback.text.tokenizer_training import (
    LONGEST_RUN,
    MOST_OF_RUN,
    _cut_runs,
    tokenizer_config,
    train_tokenizer,
    word_tokenizer,
)


def test_a_trained_tokenizer_reads_any_text_and_begins_with_bos() -> None:
    """Characters that were not in training are read as bytes, and decoding gives the text back."""
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 270)
    assert tokenizer.get_vocab_size() == 270
    assert [tokenizer.token_to_id(token) for token in (BOS, EOS)] == [BOS_ID, EOS_ID]
    text = "the dog 🦜 漢字"
    encoding = tokenizer.encode(text)
    assert encoding.ids[0] == BOS_ID
    assert tokenizer.decode(encoding.ids[1:]) == text


@pytest.mark.parametrize("run", ["-", "a", "é", " ", "1", "_"])
def test_long_runs_are_cut_where_a_tokenizer_is_trained(run: str) -> None:
    """No entry is longer than `LONGEST_RUN`, whose merges would take time by the square of it."""
    tokenizer = train_tokenizer([f"the cat {run * 5_000} sat"] * 3, 320)
    longest = max(map(len, tokenizer.get_vocab()))
    assert longest <= LONGEST_RUN * len(run.encode()) + 1  # with the whitespace before it
    text = f"a{run * 3_000}b"
    assert tokenizer.decode(tokenizer.encode(text).ids[1:]) == text


def test_a_text_without_long_runs_is_trained_on_as_it_is() -> None:
    """Long stretches without whitespace are whole where its pre-tokens are short."""
    text = "ab12--" * 200 + " the cat " + "x" * LONGEST_RUN
    assert list(_cut_runs(text)) == [text]
    cut = list(_cut_runs(text + "x"))
    assert "".join(cut) == text + "x"
    assert [len(part) for part in cut] == [len(text), 1]


def test_the_end_of_a_run_without_end_is_not_trained_on() -> None:
    """Of a long line without whitespace the beginning is read, and all that follows it."""
    parts = list(_cut_runs("a " + "x" * (MOST_OF_RUN + 700) + " z"))
    assert max(map(len, parts[1:])) <= LONGEST_RUN
    assert "".join(parts) == "a " + "x" * MOST_OF_RUN + " z"


@pytest.mark.parametrize("size", [0, 257])
def test_too_small_a_vocabulary_is_refused(size: int) -> None:
    """A byte-level BPE has at least 258 entries."""
    with pytest.raises(InvalidValueError, match=f"vocabulary_size is {size}.*258"):
        train_tokenizer(["a"], size)


def test_the_words_of_a_vocabulary_have_its_ids() -> None:
    """Words between whitespace, numbered as in the vocabulary, after BOS."""
    tokenizer = word_tokenizer([BOS, EOS, "ayer", "comió"])
    assert tokenizer.encode(" comió\nayer ").ids == [0, 3, 2]


def test_transformers_reads_the_special_tokens(tmp_path: Path) -> None:
    """With the configuration beside it transformers knows BOS, EOS and the padding."""
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(["a b c"], 258).to_str())
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_config())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS_ID, EOS_ID)
    assert json.loads(tokenizer_config())["pad_token"] == EOS
