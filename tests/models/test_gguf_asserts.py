"""Headers with which llama.cpp would end the process are refused before."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_files import Value, gguf_vocabulary
from kullback.errors import InvalidValueError
from kullback.models.gguf_asserts import check_asserts
from kullback.models.gguf_file import read_gguf


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"llama.rope.scaling.type": "zork"}, "'zork'"),
        ({"llama.block_count": 0}, "block_count is 0"),
        ({"llama.block_count": 513}, "block_count is 513"),
        ({"llama.expert_count": 2**20, "llama.expert_used_count": 1}, "expert_count is 1,048,576"),
        ({"llama.expert_count": 4, "llama.expert_used_count": 5}, "5 of 4 experts"),
        ({"llama.expert_count": 4}, "0 of 4 experts"),
        ({"llama.expert_used_count": 1}, "1 of 0 experts"),
    ],
)
def test_what_llama_cpp_asserts_is_checked(
    tmp_path: Path, entries: dict[str, Value], word: str
) -> None:
    """By the entry and its value."""
    path = gguf_vocabulary(tmp_path / "m.gguf", ["a", "b"], entries)
    with pytest.raises(InvalidValueError) as caught:
        check_asserts(read_gguf(path))
    assert word in str(caught.value)


def test_tokens_are_different(tmp_path: Path) -> None:
    """Empty ones, which llama.cpp names by their ids, may be many."""
    experts = {"llama.expert_count": 4, "llama.expert_used_count": 2, "llama.block_count": 2}
    check_asserts(read_gguf(gguf_vocabulary(tmp_path / "m.gguf", ["a", "", ""], experts)))
    path = gguf_vocabulary(tmp_path / "twice.gguf", ["a", "b", "a"], {})
    with pytest.raises(InvalidValueError, match="'a' is a token twice"):
        check_asserts(read_gguf(path))
