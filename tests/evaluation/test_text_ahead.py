"""The first windows of a text are read while the rest is cut into tokens."""

from __future__ import annotations

import copy
import random
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import batches, text_ahead
from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.evaluation.passes import ModelPredictor
from kullback.evaluation.record import record_text
from kullback.evaluation.text_ahead import TextAhead
from kullback.evaluation.token_records import read_records
from kullback.results.evaluation import Evaluation
from kullback.runtime.progress import Progress
from kullback.text.documents import Document
from kullback.text.encoded_documents import EncodedAhead
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import TextTokenizer
from stepwise_texts import (
    LONG,
    MIXED,
    PROTOCOL,
    SHORT,
    Failing,
    read_in_small_steps,
    read_whole,
)
from tiny_models import TEXT


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of these tests read in small steps."""
    read_in_small_steps(monkeypatch)


def evaluate(model, documents, path=None, protocol=PROTOCOL, progress=None) -> Evaluation:
    """The result of `model` on the documents; records go to `path`."""
    result = evaluate_text(
        model, documents, protocol, TextTask(records=path, passages=True), progress=progress
    )
    assert isinstance(result, Evaluation)
    return result


def beginnings_of(model, documents, protocol=PROTOCOL) -> list[int]:
    """How many rows the beginnings have that are read before all is known."""
    with TextAhead.of(documents, protocol, model) as text:
        return [len(beginning) for beginning in text.beginnings(ModelPredictor(model))]


@pytest.mark.parametrize(
    "protocol",
    [
        PROTOCOL,
        Protocol(window=32, stride=8),
        Protocol("hf-stride", 32, 8),
        Protocol("hf-stride", 32, 32, "always"),
        Protocol("lm-eval", 32),
        Protocol(window=32, joined=True),
        Protocol(window=20, bos="never"),
        Protocol("llama.cpp", 32),
    ],
    ids=repr,
)
@pytest.mark.parametrize("documents", [LONG, SHORT, MIXED], ids=["long", "short", "mixed"])
def test_results_are_those_of_the_whole_text(
    tiny_llama, documents, protocol, tmp_path, monkeypatch
):
    """The same file, byte for byte, and the same measures, whatever was read first."""
    tokenizer = copy.copy(tiny_llama.tokenizer)
    tokenizer.bos_id = 0
    tiny_llama = replace(tiny_llama, tokenizer=tokenizer)
    steps = beginnings_of(tiny_llama, documents, protocol)
    assert bool(steps) == (protocol.preset != "llama.cpp")
    assert steps == sorted(set(steps))
    first = evaluate(tiny_llama, documents, tmp_path / "ahead.parquet", protocol)
    read_whole(monkeypatch)
    assert not beginnings_of(tiny_llama, documents, protocol)
    whole = evaluate(tiny_llama, documents, tmp_path / "whole.parquet", protocol)
    files = [(tmp_path / f"{name}.parquet").read_bytes() for name in ("ahead", "whole")]
    assert files[0] == files[1]
    assert first.measures == whole.measures
    assert first.passages == whole.passages


def test_windows_of_a_beginning_are_the_first_of_the_text(tiny_llama):
    """Of each beginning all windows are those of the whole text, in the same batches."""
    predictor = ModelPredictor(tiny_llama)
    with TextAhead.of(MIXED, PROTOCOL, tiny_llama) as text:
        parts = list(text.beginnings(predictor))
        whole = text.whole
    plans = [
        batches.plan_batches(part.windows.read(), 64, lambda longest: "padded").batches
        for part in (*parts, whole)
    ]
    for part, plan in zip(parts, plans[:-1], strict=True):
        count = len(part.windows)
        keys = [(*window.key, window.last) for window in part.windows]
        assert keys == [(*window.key, window.last) for window in whole.windows[:count]]
        assert all(
            (ours.inputs == theirs.inputs).all() and (ours.targets == theirs.targets).all()
            for ours, theirs in zip(part.windows, whole.windows[:count], strict=True)
        )
        for own, of_all in zip(plan, plans[-1], strict=False):
            assert own.group == of_all.group
            assert own.numbers_N.tolist() == of_all.numbers_N.tolist()
        assert part.total > len(part)


def test_a_beginning_in_which_nothing_is_scored_is_no_error(tiny_llama):
    """Of a single token none is scored without BOS: what follows is read."""
    documents = [*(Document(str(i), "x") for i in range(500)), *LONG]
    protocol = Protocol(window=32, bos="never")
    assert evaluate(tiny_llama, documents, protocol=protocol).documents == 501


def test_short_texts_are_cut_as_a_whole(tiny_llama, monkeypatch):
    """Where there are fewer batches than cores, the cores of a batch depend on the whole."""
    monkeypatch.setattr(text_ahead, "cores", lambda: 1000)
    assert beginnings_of(tiny_llama, LONG) == []


def test_a_model_whose_sharing_depends_on_the_length_reads_the_whole_text(tiny_llama):
    """How windows share a batch is known when the longest is; without shared batches it is."""

    class Model:
        def __init__(self, safe: int) -> None:
            self._safe = safe

        def __getattr__(self, name):
            return getattr(tiny_llama, name)

        def sharing(self, longest):
            return "padded" if longest <= self._safe else "equal lengths"

    assert beginnings_of(Model(1000), SHORT)
    assert not beginnings_of(Model(20), SHORT)
    alone = replace(PROTOCOL, window=60, joined=True)
    assert beginnings_of(Model(20), SHORT, alone)


def test_what_cannot_be_read_at_the_end_leaves_nothing(tiny_llama, tmp_path, monkeypatch):
    """The error names the place, after the first windows; no run could resume their rows."""
    encode = TextTokenizer.encode

    def failing(self, text, first_byte=0, special_tokens="text"):
        if first_byte > 3000:
            raise InvalidValueError(f"no token at byte {first_byte}")
        return encode(self, text, first_byte, special_tokens)

    monkeypatch.setattr(TextTokenizer, "encode", failing)
    read: list[int] = []
    progress = Progress()
    monkeypatch.setattr(progress, "tokens", lambda done, total: read.append(done))
    with pytest.raises(InvalidValueError, match="no token at byte 3"):
        evaluate(tiny_llama, LONG, tmp_path / "tokens.parquet", progress=progress)
    assert read
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["records", "state", "exact"])
def test_a_disk_that_is_full_at_the_end_keeps_the_rows(tiny_llama, tmp_path, monkeypatch, what):
    """A failure that may pass leaves the rows of the windows before, and says so."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    encode = TextTokenizer.encode

    def failing(self, text, first_byte=0, special_tokens="text"):
        if first_byte > 3000:
            raise RunError("no space left")
        return encode(self, text, first_byte, special_tokens)

    read: list[int] = []
    progress = Progress()
    monkeypatch.setattr(progress, "tokens", lambda done, total: read.append(done))

    def run() -> object:
        if what == "exact":
            record_text(tiny_llama, LONG, PROTOCOL, tmp_path / "r.rec", what, 5, progress)
            return (tmp_path / "r.rec").read_bytes()
        path = tmp_path / "tokens.parquet" if what == "records" else None
        return evaluate(tiny_llama, LONG, path, progress=progress).measures

    with monkeypatch.context() as full:
        full.setattr(TextTokenizer, "encode", failing)
        with pytest.raises(RunError, match="no space left") as error:
            run()
    (note,) = error.value.__notes__
    kept = re.match(r"([\d,]+) of about [\d,]+ tokens are kept", note)
    assert kept
    assert int(kept[1].replace(",", "")) > 200
    begun = max(read)
    read.clear()
    resumed = run()
    assert read[0] >= begun
    (tmp_path / "r.rec").unlink(missing_ok=True)
    (tmp_path / "tokens.parquet").unlink(missing_ok=True)
    assert run() == resumed
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.name[0] == "."]


@pytest.mark.parametrize("what", ["records", "exact", "top-k"])
def test_what_cannot_be_read_is_said_while_the_beginning_is_read(
    tiny_llama, tmp_path, monkeypatch, what
):
    """A pass that may take hours stops when it is known that it cannot be finished."""
    read: list[int] = []
    progress = Progress()
    monkeypatch.setattr(progress, "tokens", lambda done, total: read.append(done))
    monkeypatch.setattr(text_ahead, "EncodedAhead", Failing)

    def run() -> None:
        if what == "records":
            evaluate(tiny_llama, LONG, tmp_path / "tokens.parquet", progress=progress)
        else:
            record_text(tiny_llama, LONG, PROTOCOL, tmp_path / "r.rec", what, 5, progress)

    with pytest.raises(InvalidValueError, match="no token at byte 1600"):
        run()
    assert max(read, default=0) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["exact", "top-k"])
@pytest.mark.parametrize("documents", [LONG, SHORT, MIXED], ids=["long", "short", "mixed"])
def test_recordings_are_those_of_the_whole_text(tiny_llama, documents, kind, tmp_path, monkeypatch):
    """The same file, byte for byte, also where it was interrupted twice: early, and at the end."""
    path, whole = tmp_path / "a.rec", tmp_path / "b.rec"
    progress = Progress()
    known: list[bool] = []
    reading = TextAhead.check

    def check(text: TextAhead) -> None:
        known.append(text._whole is not None)
        reading(text)

    monkeypatch.setattr(TextAhead, "check", check)
    for at in (500, 3000):
        stop = partial(_stop_after, at)
        monkeypatch.setattr(progress, "tokens", stop)
        with pytest.raises(KeyboardInterrupt) as stopped:
            record_text(tiny_llama, documents, PROTOCOL, path, kind, 5, progress)
        (note,) = stopped.value.__notes__
        assert ("of about" in note) == (at == 500)
        assert known[0] == (at > 500)
        known.clear()
    text = record_text(tiny_llama, documents, PROTOCOL, path, kind, 5)
    read_whole(monkeypatch)
    assert len(record_text(tiny_llama, documents, PROTOCOL, whole, kind, 5)) == len(text)
    assert path.read_bytes() == whole.read_bytes()


def test_a_resumed_recording_that_is_stopped_before_its_text_is_known(
    tiny_llama, tmp_path, monkeypatch
):
    """It says how many rows are kept, and not of how many."""
    progress = Progress()
    monkeypatch.setattr(progress, "tokens", partial(_stop_after, 500))
    with pytest.raises(KeyboardInterrupt):
        record_text(tiny_llama, LONG, PROTOCOL, tmp_path / "a.rec", progress=progress)

    def stop(text: TextAhead) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TextAhead, "_read", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        record_text(tiny_llama, LONG, PROTOCOL, tmp_path / "a.rec")
    (note,) = stopped.value.__notes__
    assert re.match(r"\d+ tokens are kept beside", note)


def _stop_after(at: int, done: int, total: int) -> None:
    if done > at:
        raise KeyboardInterrupt


def test_rows_are_counted_from_the_beginning(tiny_llama):
    """There are at least those that are known, and all in all about as many as the bytes say."""
    with TextAhead.of(MIXED, PROTOCOL, tiny_llama) as text:
        least, total = text.at_least, text.total
        assert text._whole is None
        whole = len(text.whole)
        assert 0 < least < whole
        assert total == pytest.approx(whole, rel=0.2)
        assert text.total == text.at_least == whole


@pytest.mark.parametrize("at", [100, 1500, 5100])
def test_a_run_that_is_stopped_resumes_to_the_same_file(tiny_llama, tmp_path, monkeypatch, at):
    """In the beginning, of which the size is estimated, or after it."""
    monkeypatch.setattr("kullback.evaluation.recorded_pass.ROWS_AT_ONCE", 64)
    path, whole = tmp_path / "tokens.parquet", tmp_path / "whole.parquet"
    evaluate(tiny_llama, LONG, whole)
    progress = Progress()

    def stop(done: int, total: int) -> None:
        assert 0.8 * len(read_records(whole)[1]) < total < 1.2 * len(read_records(whole)[1])
        if done > at:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "tokens", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        evaluate(tiny_llama, LONG, path, progress=progress)
    (note,) = stopped.value.__notes__
    assert ("of about" in note) == (at < 5000)
    evaluate(tiny_llama, LONG, path)
    assert path.read_bytes() == whole.read_bytes()


def test_a_thread_encodes_ahead_what_is_read(tiny_llama, monkeypatch, tmp_path):
    """With the thread itself: the same measures, and random amounts are known each time."""
    monkeypatch.setattr(text_ahead, "EncodedAhead", EncodedAhead)
    encode, draw = TextTokenizer.encode, random.Random(0)

    def slow(self, *given, **named):
        time.sleep(draw.random() / 500)
        return encode(self, *given, **named)

    monkeypatch.setattr(TextTokenizer, "encode", slow)
    first = evaluate(tiny_llama, MIXED)
    read_whole(monkeypatch)
    assert evaluate(tiny_llama, MIXED).measures == first.measures


def test_a_thread_stops_when_the_pass_does(tiny_llama: object, tmp_path: Path) -> None:
    """What is not encoded when the context is left never is."""
    encoded: list[int] = []

    class Tokenizer:
        def encode(self, text, first_byte=0, special_tokens="text"):
            encoded.append(first_byte)
            return tiny_llama.tokenizer.encode(text, first_byte)

    documents = [Document(str(i), TEXT) for i in range(2000)]
    with EncodedAhead(Tokenizer(), documents) as ahead:
        known = ahead.known(1000)
    assert known is not None
    assert known[1] >= 1000
    with pytest.raises(AssertionError, match="was left before"):
        ahead.all()  # would be a part of them
    assert len(encoded) < 2000
