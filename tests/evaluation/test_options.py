"""What the public functions accept as a model, and what they refuse before anything is read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import kullback
from kullback.errors import InvalidValueError
from kullback.evaluation.options import PassOptions
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
    with pytest.raises(InvalidValueError, match=r"k \(-k\) is 0"):
        kullback.record(tiny_llama_folder, TEXT, output, distributions="top-k", k=0)


@pytest.mark.parametrize("tolerance", [float("nan"), -1, float("inf"), "x"])
def test_a_tolerance_that_is_none_is_refused_before_anything_is_loaded(tolerance: object) -> None:
    """It is named with its value; the models, which do not exist, are not looked for."""
    with pytest.raises(InvalidValueError, match=f"tolerance.*{tolerance}"):
        kullback.compare("none/a/b", "none/a/c", TEXT, tolerance=tolerance)  # type: ignore[arg-type]


def test_a_field_needs_a_file_with_fields(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """It is refused for a document and for .txt files, and read in a folder with a .jsonl."""
    (tmp_path / "a.txt").write_text("the night", encoding="utf-8")
    for text in (TEXT, tmp_path / "a.txt", tmp_path):
        with pytest.raises(InvalidValueError, match=r"field.*'body'.*\.jsonl"):
            kullback.evaluate(tiny_llama_folder, text, field="body")
    (tmp_path / "b.jsonl").write_text('{"body": "the river"}', encoding="utf-8")
    result = kullback.evaluate(tiny_llama_folder, tmp_path, field="body")
    assert isinstance(result, kullback.Evaluation)
    assert result.documents == 2
    with pytest.raises(InvalidValueError, match=r"missing\.txt"):
        kullback.evaluate(tiny_llama_folder, tmp_path / "missing.txt", field="body")


def test_schemes_are_refused_before_the_first_comparison(tiny_llama_folder: Path) -> None:
    """A group that does not divide the widths is found before an earlier candidate is loaded."""
    names = [f"{tiny_llama_folder}@int8", f"{tiny_llama_folder}@int4-g7"]
    with pytest.raises(InvalidValueError, match=r"int4-g7 does not fit .* columns"):
        kullback.compare(tiny_llama_folder, names, TEXT)


def test_loaded_models_of_one_name_are_refused(tiny_llama_folder: Path) -> None:
    """A result could not tell them apart."""
    loaded = kullback.load_model(tiny_llama_folder)
    with pytest.raises(InvalidValueError, match=r"named twice.*name_or_path"):
        kullback.compare(tiny_llama_folder, [loaded, loaded], TEXT)


def test_an_evaluation_with_its_tokens_survives_pickling(tiny_llama_folder: Path) -> None:
    """The columns that are computed when they are asked for are computed for the copy."""
    result = kullback.evaluate(tiny_llama_folder, TEXT)
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert list(again.tokens["text"]) == list(result.tokens["text"])
    assert list(again.tokens["nll"]) == list(result.tokens["nll"])


def test_standard_input_is_refused_under_torchrun(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes inherit it, and each would take a part."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidValueError, match=r"standard input.*torchrun.*to a file"):
        kullback.evaluate(tiny_llama_folder, "-")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_an_unusable_device_is_named_before_anything_is_read(device: str, tmp_path: Path) -> None:
    """Of models that torch runs: files in llama.cpp and recordings are another's."""
    options = PassOptions(device=device)
    recording = tmp_path / "model.rec"
    recording.touch()
    for name in ("FOLDER", "file.gguf@transformers", "file.gguf@int8"):
        with pytest.raises(InvalidValueError, match=f"{device}.*use cpu"):
            options.check_device(recording, name)
    options.check_device(recording, "file.gguf", "file.gguf@ngl=3")
    PassOptions(device="auto").check_device("FOLDER")
    with pytest.raises(InvalidValueError, match=f"{device}.*use cpu"):
        kullback.evaluate("no-such-model", "no-such-text.txt", device=device)
