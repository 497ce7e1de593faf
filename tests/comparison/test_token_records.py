"""Comparing token statistics."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET

from kullback.comparison.models import Candidate, compare_models
from kullback.comparison.operands import ModelOperand, RecordingOperand
from kullback.comparison.token_records import NO_KL, TokenRows, compare_records
from kullback.errors import InvalidValueError
from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.evaluation.record import record_text
from kullback.evaluation.token_records import read_records
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.load import load_sized
from kullback.runtime.progress import Progress
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document(f"part {i}", TEXT[i : i + 200]) for i in range(4)]
# Tokens of overlapping windows count less than 1 there.
PROTOCOL = Protocol("hf-stride", window=32, stride=16, joined=False)
MEASURES = (
    "delta_cross_entropy",
    "reference_cross_entropy",
    "candidate_cross_entropy",
    "delta_p_mean",
    "delta_p_rms",
    "top1_agreement",
)


@pytest.fixture(scope="module")
def sides(tiny_llama_folder: Path) -> tuple[ModelOperand, ModelOperand]:
    """A tiny Llama, and one that is quantised."""
    folder = str(tiny_llama_folder)
    return ModelOperand(load_sized(folder)), ModelOperand(load_sized(f"{folder}@int2-g32"))


@pytest.fixture(scope="module")
def files(sides, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The token statistics of both."""
    folder = tmp_path_factory.mktemp("records")
    paths = folder / "reference.parquet", folder / "candidate.parquet"
    for side, path in zip(sides, paths, strict=True):
        evaluate_text(side.model, DOCUMENTS, PROTOCOL, TextTask(records=path))
    return paths


def test_measures_are_those_of_a_live_comparison(sides, files):
    """From two files, and from a file and a model, value and interval are the live ones."""
    live = compare_models(sides[0], [Candidate("candidate", lambda: sides[1])], DOCUMENTS, PROTOCOL)
    rows = [TokenRows.of_file(path) for path in files]
    second = TokenRows.of_model(sides[1].model, DOCUMENTS, PROTOCOL, against=rows[0])
    for found in (compare_records(*rows, DOCUMENTS), compare_records(rows[0], second)):
        assert tuple(found.measures) == MEASURES
        for name in MEASURES:
            one, expected = found.measures[name], live.measures[name]
            assert one.value == pytest.approx(expected.value, rel=1e-6, abs=1e-9), name
            assert one.interval == pytest.approx(expected.interval, rel=1e-5, abs=1e-9), name
        assert found.reference.fingerprint == live.reference.fingerprint
        assert (
            found.candidates[0].operand.protocol["weights"]
            == live.candidates[0].operand.protocol["weights"]
        )
        assert found.scored_tokens == live.scored_tokens
        assert NO_KL in found.notes


def test_values_are_weighted_means_of_the_rows(files):
    """Each measure is the mean over the rows of both files, in which a token counts by weight."""
    (_, one), (_, two) = (read_records(path) for path in files)
    assert len(set(one.weight.tolist())) > 1
    found = compare_records(*(TokenRows.of_file(path) for path in files)).measures

    def mean(values):
        return np.average(values, weights=one.weight.astype(np.float64))

    p, q = np.exp(-one.nll), np.exp(-two.nll)
    expected = {
        "delta_cross_entropy": mean(two.nll - one.nll),
        "reference_cross_entropy": mean(one.nll),
        "candidate_cross_entropy": mean(two.nll),
        "delta_p_mean": mean(q - p),
        "delta_p_rms": mean((q - p) ** 2) ** 0.5,
        "top1_agreement": mean(one.top1 == two.top1),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-9), name


def test_the_sizes_of_models_are_known_and_those_of_files_are_not(sides, files, tmp_path):
    """Of a model that reads now and of a recording: what the verdict begins with."""
    reference = TokenRows.of_file(files[0])
    model = sides[1].sized
    rows = TokenRows.of_model(model.model, DOCUMENTS, PROTOCOL, size_bytes=model.size_bytes)
    result = compare_records(reference, rows)
    assert result.candidates[0].operand.size_bytes == model.size_bytes > 0
    assert result.reference.size_bytes is None
    path = tmp_path / "candidate.rec"
    record_text(model.model, DOCUMENTS, PROTOCOL, path, "exact", size_bytes=1234)
    recorded = TokenRows.of_recording(RecordingOperand.open(path))
    assert compare_records(recorded, reference).reference.size_bytes == 1234


@pytest.mark.parametrize("kind", ["exact", "top-k"])
def test_a_recording_stands_in_for_its_statistics(kind, sides, files, tmp_path):
    """From a recording of either kind the measures are those of the model's own file."""
    path = tmp_path / "candidate.rec"
    record_text(sides[1].model, DOCUMENTS, PROTOCOL, path, kind, k=4)
    reference = TokenRows.of_file(files[0])
    expected = compare_records(reference, TokenRows.of_file(files[1])).measures
    recorded = TokenRows.of_recording(RecordingOperand.open(path))
    found = compare_records(reference, recorded).measures
    for name in MEASURES:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-6), name
    # The weights are in the file alone, on whichever side it stands.
    turned = compare_records(recorded, reference).measures["delta_cross_entropy"].value
    assert turned == pytest.approx(-expected["delta_cross_entropy"].value, rel=1e-6)


def other(rows: TokenRows, **parts: object) -> TokenRows:
    """The rows, with another fingerprint."""
    return replace(rows, identity=Fingerprint({**rows.identity.parts, **parts}))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"text": "x"}, r"the texts are not the same: .* in .*reference\.parquet and 'x' in"),
        ({"protocol": {"window": 9}}, "protocol.window is 32 in .* and 9 in"),
    ],
)
def test_other_readings_are_refused(parts, message, files):
    """A file of another text, tokenizer or protocol is refused with what differs."""
    rows = TokenRows.of_file(files[0])
    with pytest.raises(InvalidValueError, match=message):
        compare_records(rows, other(rows, **parts))


def test_another_tokenizer_with_the_same_tokens_is_compared(files):
    """With a note; with other tokens it is refused."""
    rows = replace(TokenRows.of_file(files[0]), begins_with=UNSET)  # of an earlier version
    again = other(rows, tokenizer="x")
    result = compare_records(rows, again)
    assert result.measures["delta_cross_entropy"].value == 0
    assert any("same tokens" in note and "BOS" in note for note in result.notes)
    tokens = rows.target_M.copy()
    tokens[3] += 1
    with pytest.raises(InvalidValueError, match=r"the tokenizers are not the same .*--by-bytes"):
        compare_records(rows, replace(again, target_M=tokens))


def reading_after(model: HuggingFaceModel, bos: int | None, eos: int) -> HuggingFaceModel:
    """The model, whose texts begin with the token `bos` by itself; `eos` is the other mark."""
    tokenizer = copy.copy(model.tokenizer)
    tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos = bos, eos, bos is not None
    return replace(model, tokenizer=tokenizer)


def test_texts_that_begin_in_two_ways_are_noted(sides, tmp_path):
    """Where the same rows are scored: records made after one BOS beside a model that reads after
    another, and no note where both read after the same.
    """
    protocol = Protocol(window=32)
    begun, other = (reading_after(sides[1].model, bos, 2) for bos in (3, 4))
    path = tmp_path / "begun.parquet"
    evaluate_text(begun, DOCUMENTS, protocol, TextTask(records=path))
    rows = TokenRows.of_file(path)
    assert rows.begins_with == 3

    def notes(candidate: TextModel) -> list[str]:
        live = TokenRows.of_model(candidate, DOCUMENTS, protocol, against=rows)
        return [note for note in compare_records(rows, live).notes if "BOS" in note]

    assert notes(begun) == []
    (note,) = notes(other)
    assert f"{path} begins a text with the BOS 3, {other.name} with the BOS 4" in note
    assert "--bos never" in note


def test_rows_that_differ_since_texts_begin_in_two_ways_are_refused(sides, files):
    """Before the model reads: its first tokens are not scored, or scored after BOS."""
    rows = TokenRows.of_file(files[0])
    assert rows.begins_with is None
    model = reading_after(sides[1].model, 3, 2)
    with pytest.raises(InvalidValueError, match=r"no BOS, .* with the BOS 3.*--bos always"):
        TokenRows.of_model(model, DOCUMENTS, PROTOCOL, against=rows)


def test_a_recording_says_what_its_texts_begin_with(sides, tmp_path):
    """Where its protocol leaves that to the tokenizer; else it is known for "never" alone."""
    for bos, begins_with in (("auto", None), ("never", None)):
        path = tmp_path / bos
        record_text(sides[0].model, DOCUMENTS, Protocol(window=32, bos=bos), path, "exact")
        assert TokenRows.of_recording(RecordingOperand.open(path)).begins_with is begins_with


def test_a_model_of_another_reading_is_refused_before_it_reads(sides, files):
    """Text and protocol are compared before the first window."""

    class Unread(Progress):
        def tokens(self, done: int, total: int) -> None:
            raise AssertionError("it has read a window")

    progress = Unread()
    rows = TokenRows.of_file(files[0])
    with pytest.raises(InvalidValueError, match="the texts are not the same"):
        TokenRows.of_model(sides[1].model, DOCUMENTS[:2], PROTOCOL, progress, against=rows)
    with pytest.raises(InvalidValueError, match=r"window is 32 in .* and 16 in the reading of"):
        TokenRows.of_model(sides[1].model, DOCUMENTS, Protocol(window=16), progress, against=rows)


def test_rows_that_do_not_fit_are_refused(files):
    """Rows about other tokens under one fingerprint, no rows, and another text are errors."""
    rows = TokenRows.of_file(files[0])
    with pytest.raises(InvalidValueError, match=r"not about the same tokens, .*: one is damaged"):
        compare_records(rows, replace(rows, target_M=rows.target_M[::-1]))
    with pytest.raises(InvalidValueError, match="recorded on another text"):
        compare_records(rows, rows, DOCUMENTS[:1])
    nothing = np.zeros(0, dtype=np.int64)
    empty = TokenRows("empty", rows.identity, *(nothing for _ in range(6)))
    with pytest.raises(InvalidValueError, match="no token was scored in empty"):
        compare_records(empty, empty)
