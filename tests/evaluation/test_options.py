"""What the public functions accept as a model, and what they refuse before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import kullback
from kullback.errors import InvalidValueError
from kullback.text.documents import Document

TEXT = Document("mine", "the night river " * 5)


def test_a_loaded_model_is_measured_as_its_name_is(tiny_llama_folder: Path) -> None:
    """What `load_model` returns is an operand of `evaluate` and `compare`, schemes included."""
    loaded = kullback.load_model(f"{tiny_llama_folder}@int8")
    by_name = kullback.evaluate(f"{tiny_llama_folder}@int8", TEXT)
    assert kullback.evaluate(loaded, TEXT).measures == by_name.measures
    compared = kullback.compare(tiny_llama_folder, loaded, TEXT)
    named = kullback.compare(tiny_llama_folder, schemes="int8", text=TEXT)
    assert compared.ranked[0].kl == named.ranked[0].kl
    assert compared.ranked[0].size_bytes == named.ranked[0].size_bytes == loaded.size_bytes


@pytest.mark.parametrize(
    "choose",
    [lambda m, t: 3, lambda m, t: m, lambda m, t: (t, m), lambda m, t: (m,), lambda m, t: None],
    ids=["number", "without tokenizer", "exchanged", "alone in a tuple", "none"],
)
def test_what_is_no_model_is_refused(
    choose: Callable[[object, object], object], tiny_llama_folder: Path
) -> None:
    """The error names the type that was given and the forms that a model has."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    operand = choose(model, AutoTokenizer.from_pretrained(tiny_llama_folder))
    for call in (
        lambda: kullback.evaluate(operand, TEXT),  # type: ignore[arg-type]
        lambda: kullback.compare(tiny_llama_folder, [operand], TEXT),  # type: ignore[list-item]
    ):
        with pytest.raises(InvalidValueError, match=rf"{type(operand).__name__}.*\(model, token"):
            call()


def test_values_of_the_wrong_type_or_size_are_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """A window in a string, and a k of 0, are errors that name the argument."""
    with pytest.raises(InvalidValueError, match="window is '32'"):
        kullback.evaluate(tiny_llama_folder, TEXT, window="32")  # type: ignore[arg-type]
    output = tmp_path / "mine.rec"
    with pytest.raises(InvalidValueError, match="k is 0"):
        kullback.record(tiny_llama_folder, TEXT, output, distributions="top-k", k=0)
