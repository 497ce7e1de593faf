"""Golden messages: the exact wording of one error of each family."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from kullback.errors import InvalidValueError
from kullback.text.documents import read_documents
from kullback.text.fingerprint import check_same_text
from kullback.text.plan import plan
from kullback.text.protocol import Protocol
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer import TextTokenizer
from kullback.text.tokenizer_training import train_tokenizer


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Documents: the file, the byte, the fix."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InvalidValueError) as error:
        read_documents([path])
    assert str(error.value) == (
        f"the text {path} is not UTF-8: byte 3 is 0xff; convert it first (iconv -t utf-8)"
    )


def test_files_of_a_folder_that_are_skipped(tmp_path: Path) -> None:
    """Documents: the note about the files that are not read."""
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text("x")
    notes: list[str] = []
    read_documents([tmp_path], note=notes.append)
    assert notes == [
        f"of the folder {tmp_path} only .txt, .jsonl, .jsonlines, .ndjson, .parquet files are "
        "read, not b.md: give the names of other files that are to be read"
    ]


def test_text_that_a_tokenizer_cannot_spell() -> None:
    """Tokenizers: the byte, what is read and what is in the text."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "é": 1, " ": 2}, merges=[]))
    with pytest.raises(InvalidValueError) as error:
        TextTokenizer(tokenizer).encode("é axyza")
    assert str(error.value) == (
        "the tokenizer does not spell the text: at byte 4 it reads b'a' for b'xyza'; remove "
        "that from the text, or use the model's fast tokenizer (tokenizer.json) with a complete "
        "vocabulary"
    )


def test_a_protocol_that_does_not_fit_the_model() -> None:
    """Protocols: the value, the limit, the fix."""
    with pytest.raises(InvalidValueError) as error:
        Protocol(window=33).resolve(context=32)
    assert str(error.value) == (
        "window is 33: the model reads at most 32 tokens; choose a window of 32 or less"
    )


def test_a_text_that_is_too_short() -> None:
    """Windows: how many tokens there are, the reason, the fix."""
    tokenizer = TextTokenizer(train_tokenizer(["a b"], 258), BOS, EOS)
    with pytest.raises(InvalidValueError) as error:
        plan([tokenizer.encode("x")], Protocol(bos="never"), tokenizer, 32)
    assert str(error.value) == (
        "the text has 1 token, none of which the protocol sliding scores: no token before the "
        "first predicts it; give a longer text"
    )


def test_results_about_other_tokens() -> None:
    """Fingerprints: the field, both values, the options to use."""
    first = {"text": "a", "tokenizer": "b", "protocol": {"window": 24, "stride": 12}}
    with pytest.raises(InvalidValueError) as error:
        check_same_text(first, {**first, "protocol": {"window": 48, "stride": 12}}, ("A", "B"))
    assert str(error.value) == (
        "the protocols are not the same: protocol.window is 24 in A and 48 in B; read both with "
        "--window 24, or both with --window 48"
    )
