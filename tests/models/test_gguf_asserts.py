"""Headers with which llama.cpp would end the process are refused before."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_files import Value, gguf_vocabulary
from kullback.errors import InvalidValueError
from kullback.models.gguf_asserts import check_asserts
from kullback.models.gguf_file import read_gguf
from kullback.models.load import load_text_model

FEW_EXPERTS: dict[str, Value] = {"llama.expert_count": 4, "llama.expert_used_count": 2}


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
        ({"llama.expert_count": 4, "llama.expert_used_count": [2, 5]}, "5 of 4 experts"),
        ({"llama.expert_group_count": 2}, "2 groups of 0 experts"),
        (FEW_EXPERTS | {"llama.expert_group_count": 4}, "4 groups of 4 experts"),
        (FEW_EXPERTS | {"llama.expert_group_count": 3}, "3 groups of 4 experts"),
        (FEW_EXPERTS | {"llama.expert_group_count": 2}, "0 of 2 groups"),
        (
            FEW_EXPERTS | {"llama.expert_group_count": 2, "llama.expert_group_used_count": 2},
            "2 of 2 groups",
        ),
        ({"llama.block_count": 2, "llama.nextn_predict_layers": 3}, "nextn_predict_layers is 3"),
        ({"llama.classifier.activation": "zork"}, "'zork'"),
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


@pytest.mark.parametrize(
    "entries",
    [
        {"llama.expert_count": 4, "llama.expert_used_count": [2, 0, 4]},
        FEW_EXPERTS | {"llama.expert_group_count": 2, "llama.expert_group_used_count": 1},
        FEW_EXPERTS | {"llama.expert_group_count": 1},
        {"llama.block_count": 2, "llama.nextn_predict_layers": 1},
        {"llama.classifier.activation": "gelu"},
    ],
)
def test_what_llama_cpp_reads_is_not_refused(tmp_path: Path, entries: dict[str, Value]) -> None:
    """A number of experts for each layer, groups, layers that predict further tokens."""
    check_asserts(read_gguf(gguf_vocabulary(tmp_path / "m.gguf", ["a", "b"], entries)))


@pytest.mark.parametrize(
    ("kind", "architecture"), [("adapter", "llama"), ("mmproj", "clip"), ("imatrix", "llama")]
)
def test_a_file_that_is_no_model_is_refused_in_both_programs(
    tmp_path: Path, kind: str, architecture: str
) -> None:
    """With what it is, not as a damaged one."""
    entries: dict[str, Value] = {} if architecture == "clip" else {"general.type": kind}
    path = gguf_vocabulary(tmp_path / "m.gguf", ["a", "b"], entries, architecture)
    for backend in ("llama.cpp", "transformers"):
        with pytest.raises(InvalidValueError, match=f"no model by itself.*'{kind}'"):
            load_text_model(f"{path}@{backend}")


def test_tokens_are_different(tmp_path: Path) -> None:
    """Empty ones, which llama.cpp names by their ids, may be many."""
    experts = {"llama.expert_count": 4, "llama.expert_used_count": 2, "llama.block_count": 2}
    check_asserts(read_gguf(gguf_vocabulary(tmp_path / "m.gguf", ["a", "", ""], experts)))
    path = gguf_vocabulary(tmp_path / "twice.gguf", ["a", "b", "a"], {})
    with pytest.raises(InvalidValueError, match="'a' is a token twice"):
        check_asserts(read_gguf(path))
