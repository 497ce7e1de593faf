"""Comparisons whose first pass reads a text while the rest of it is cut into tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kullback.comparison import kept_pass, kept_reference, window_rows
from kullback.comparison.models import Candidate, Task, compare_models
from kullback.comparison.operands import ModelOperand, Operand, RecordingOperand
from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import text_ahead
from kullback.evaluation.record import record_text
from kullback.evaluation.text_ahead import TextAhead
from kullback.models.load import load_sized
from kullback.models.quantized import SizedModel
from kullback.results.comparison import Comparison
from kullback.runtime.interrupted import InterruptedFile
from kullback.runtime.progress import Progress
from kullback.text.documents import Document
from kullback.text.encoded_documents import EncodedAhead
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import Encoding
from stepwise_texts import PROTOCOL, SHORT, Failing, read_in_small_steps, read_whole
from tiny_models import TEXT

LONG = [Document("long", TEXT * 5 + "\n\n")]
MIXED = [*SHORT[:15], Document("empty", ""), *LONG, Document("last", ""), *SHORT[15:30]]


@pytest.fixture(autouse=True)
def beginnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Passes in small steps, with nothing kept of others; the windows of each beginning."""
    read_in_small_steps(monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(kept_pass, "SECONDS_WORTH_KEEPING", 0.0)
    sizes: list[int] = []
    beginning = TextAhead._beginning

    def counted(text: TextAhead, *given: object) -> object:
        part = beginning(text, *given)
        sizes.extend([] if part is None else [len(part.windows)])
        return part

    monkeypatch.setattr(TextAhead, "_beginning", counted)
    return sizes


@pytest.fixture(scope="module")
def sized(tiny_llama_folder: Path) -> dict[str, SizedModel]:
    """The model and two quantisations of it."""
    folder = str(tiny_llama_folder)
    return {name: load_sized(folder + name) for name in ("", "@int8", "@int4-g32")}


def compare(
    operands: Sequence[Operand],
    documents: Sequence[Document],
    protocol: Protocol = PROTOCOL,
    task: Task | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """The first operand against the others."""
    candidates = [
        Candidate(f"candidate {i}", partial(_given, operand), _tokenizer(operand))
        for i, operand in enumerate(operands[1:])
    ]
    result = compare_models(operands[0], candidates, documents, protocol, task, progress)
    assert isinstance(result, Comparison)
    return result


def _given(operand: Operand) -> Operand:
    return operand


def _tokenizer(operand: Operand):
    return None if operand.model is None else lambda: operand.model.tokenizer


def measured(result: Comparison) -> dict[str, object]:
    """All of a result but when it was made, and how long that took."""
    document = result.to_dict()
    return {name: value for name, value in document.items() if name not in ("created", "seconds")}


@pytest.mark.parametrize(
    ("documents", "protocol", "several"),
    [
        (LONG, PROTOCOL, False),
        (LONG, PROTOCOL, True),
        (LONG, Protocol("hf-stride", 32, 16), False),
        (SHORT, PROTOCOL, False),
        (SHORT, Protocol(window=32, joined=True), True),
        (MIXED, PROTOCOL, True),
    ],
)
def test_results_are_those_of_the_whole_text(
    sized, documents, protocol, several, monkeypatch, beginnings
):
    """Every number of one candidate, and of two with the noise floor."""
    monkeypatch.setattr(window_rows, "IN_MEMORY", 4096)
    operands = [ModelOperand(model) for model in sized.values()][: 3 if several else 2]
    task = Task(passages=True, noise=several)
    first = compare(operands, documents, protocol, task)
    assert beginnings == sorted(set(beginnings)) != []
    beginnings.clear()
    read_whole(monkeypatch)
    whole = compare(operands, documents, protocol, task)
    assert beginnings == []
    assert measured(first) == measured(whole)


@pytest.mark.parametrize("fit", [False, True])
def test_logits_are_kept_where_those_of_the_whole_text_fit(sized, fit, monkeypatch, beginnings):
    """Whether they fit is known when the text is, or when its beginning is too much already."""
    operands = [ModelOperand(model) for model in sized.values()]
    monkeypatch.setattr(kept_reference, "is_wide", lambda head: True)
    if not fit:
        monkeypatch.setattr(kept_reference, "logits_fit", lambda *sizes: False)
    said: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "note", said.append)
    first = compare(operands, LONG, progress=progress)
    assert [("are kept in" in note) for note in said] == [True] * fit
    assert bool(beginnings) != fit
    read_whole(monkeypatch)
    assert measured(first) == measured(compare(operands, LONG))


@pytest.mark.parametrize("place", [0, 1])
def test_an_exact_recording_reads_the_whole_text_first(sized, place, tmp_path, beginnings):
    """Its rows are checked against all tokens; a recording that is made ahead is the model's."""
    operands: list[Operand] = [ModelOperand(sized[name]) for name in ("", "@int8")]
    live = compare(operands, MIXED)
    model = operands[place].model
    size = operands[place].size_bytes
    record_text(model, MIXED, PROTOCOL, tmp_path / "r.rec", size_bytes=size)
    beginnings.clear()
    operands[place] = RecordingOperand.open(tmp_path / "r.rec")
    recorded = compare(operands, MIXED)
    assert beginnings == []
    assert recorded.measures == live.measures
    assert recorded.candidates[0].worst_tokens == live.candidates[0].worst_tokens


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_another_tokenizer_is_checked_on_the_whole_text_first(sized, same, alone, beginnings):
    """Before anything is computed, also where it is known only when the model is loaded."""
    model = sized["@int8"].model
    tokenizer = copy.copy(model.tokenizer)
    tokenizer.fingerprint = "another"
    if not same:
        encode = tokenizer.encode

        def other(text: str, first_byte: int = 0, **named: object) -> Encoding:
            encoding = encode(text, first_byte, **named)
            is_there = first_byte + encoding.byte_spans[:, 0] == 2000
            return replace(encoding, ids=encoding.ids + is_there)

        tokenizer.encode = other
    operand = ModelOperand(replace(sized["@int8"], model=replace(model, tokenizer=tokenizer)))
    read: list[int] = []
    progress = Progress()
    progress.tokens = lambda done, total: read.append(done)
    candidate = Candidate("other", lambda: operand, (lambda: tokenizer) if alone else None)

    def compared() -> Comparison:
        reference = ModelOperand(sized[""])
        return compare_models(reference, [candidate], LONG, PROTOCOL, progress=progress)

    if same:
        assert compared().measures["kl"].value > 0
    else:
        with pytest.raises(InvalidValueError, match="first at byte 2000"):
            compared()
        assert read == []
    assert beginnings == []


@pytest.mark.parametrize("at", [100, 800, 2100])
@pytest.mark.parametrize("several", [False, True])
def test_a_comparison_that_is_stopped_resumes_to_the_same(
    sized, at, several, monkeypatch, beginnings
):
    """In the beginning, of which the size is estimated, or after it; rows are not read twice."""
    operands = [ModelOperand(model) for model in sized.values()][: 3 if several else 2]
    expected = compare(operands, LONG)
    progress = Progress()
    done_of: list[int] = []

    def stop(done: int, total: int) -> None:
        done_of.append(done)
        assert total == pytest.approx(expected.scored_tokens, rel=0.2)
        if done > at:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "tokens", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        compare(operands, LONG, progress=progress)
    (note,) = stopped.value.__notes__
    assert ("of about" in note) == (at < 2000)
    beginnings.clear()
    begun = done_of[-2]
    done_of.clear()
    monkeypatch.setattr(progress, "tokens", lambda done, total: done_of.append(done))
    assert measured(compare(operands, LONG, progress=progress)) == measured(expected)
    assert done_of[0] >= begun
    assert beginnings == []


@pytest.mark.parametrize("early", [False, True])
def test_what_cannot_be_read_at_the_end_is_an_error(sized, early, tmp_path, monkeypatch):
    """It names the place, while the beginning is read where it is known then; nothing is kept."""
    if early:
        monkeypatch.setattr(text_ahead, "EncodedAhead", Failing)
    else:
        tokenizer = type(sized[""].model.tokenizer)
        encode = tokenizer.encode

        def failing(self, text, first_byte=0, special_tokens="text"):
            if first_byte > 1300:
                raise InvalidValueError("no token at byte 1600")
            return encode(self, text, first_byte, special_tokens)

        monkeypatch.setattr(tokenizer, "encode", failing)
    read: list[int] = []
    progress = Progress()
    monkeypatch.setattr(progress, "tokens", lambda done, total: read.append(done))
    operands = [ModelOperand(sized[name]) for name in ("", "@int8")]
    saved: list[int] = []
    often(monkeypatch, saved)
    with pytest.raises(InvalidValueError, match="no token at byte 1600"):
        compare(operands, LONG, progress=progress)
    assert (0 < max(read) < 1000) if early else (max(read) > 200)
    assert early or saved
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def often(monkeypatch, saved: list[int]) -> None:
    """Rows are saved after each batch, by the caller's thread."""

    def at_once(compute):
        value = compute()
        return lambda: value

    monkeypatch.setattr(kept_pass, "in_background", at_once)
    monkeypatch.setattr(kept_pass, "SECONDS_PER_SAVE", 0.0)
    append = InterruptedFile.append

    def counted(file, pieces, after):
        saved.append(after.end)
        return append(file, pieces, after)

    monkeypatch.setattr(InterruptedFile, "append", counted)


def test_a_disk_that_is_full_at_the_end_keeps_the_rows(sized, tmp_path, monkeypatch):
    """A failure that may pass leaves the rows of the windows before, and says so."""
    tokenizer = type(sized[""].model.tokenizer)
    encode = tokenizer.encode

    def failing(self, text, first_byte=0, special_tokens="text"):
        if first_byte > 1300:
            raise RunError("no space left")
        return encode(self, text, first_byte, special_tokens)

    operands = [ModelOperand(sized[name]) for name in ("", "@int8")]
    expected = measured(compare(operands, LONG))
    with monkeypatch.context() as full:
        full.setattr(tokenizer, "encode", failing)
        with pytest.raises(RunError, match="no space left") as error:
            compare(operands, LONG)
    (note,) = error.value.__notes__
    assert "tokens of this candidate are kept" in note
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
    read: list[int] = []
    progress = Progress()
    monkeypatch.setattr(progress, "tokens", lambda done, total: read.append(done))
    assert measured(compare(operands, LONG, progress=progress)) == expected
    assert read[0] > 200


def test_a_thread_encodes_ahead_what_is_compared(sized, monkeypatch):
    """With the thread itself: the same numbers."""
    monkeypatch.setattr(text_ahead, "EncodedAhead", EncodedAhead)
    operands = [ModelOperand(model) for model in sized.values()]
    first = compare(operands, MIXED, task=Task(noise=True))
    read_whole(monkeypatch)
    assert measured(first) == measured(compare(operands, MIXED, task=Task(noise=True)))
