"""The first windows of a text are read while the rest is cut into tokens."""

from __future__ import annotations

import copy
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kullback.errors import InvalidValueError
from kullback.evaluation import batches, predictors, text_ahead
from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.evaluation.passes import ModelPredictor
from kullback.evaluation.text_ahead import TextAhead
from kullback.evaluation.token_records import read_records
from kullback.results.evaluation import Evaluation
from kullback.runtime.progress import Progress
from kullback.text import encoded_documents
from kullback.text.documents import Document
from kullback.text.encoded_documents import EncodedAhead, _Encoder
from kullback.text.protocol import Protocol
from kullback.text.stored_encodings import StoredEncodings
from kullback.text.tokenizer import TextTokenizer
from tiny_models import TEXT

LONG = [Document("long", TEXT * 12 + "\n\n")]
SHORT = [Document(f"line {i}", TEXT[i : i + 5 + 7 * (i % 9)]) for i in range(120)]
MIXED = [*SHORT[:40], Document("empty", ""), *LONG, Document("last", ""), *SHORT[40:]]
PROTOCOL = Protocol(window=32)


class Stepwise(EncodedAhead):
    """Encodes in the caller's thread, no further than it is asked to."""

    def __init__(
        self, tokenizer: TextTokenizer, documents: list[Document], special_tokens: str = "text"
    ) -> None:
        self._encoder = _Encoder(tokenizer.encode, documents)
        self._error: InvalidValueError | None = None
        self._steps = self._encoder.run(ThreadPoolExecutor(1), 1)

    def known(self, enough: int) -> tuple[StoredEncodings, int] | None:
        """As of the thread: None after an error, too."""
        try:
            for _ in self._steps:
                if self._encoder.done.bytes >= enough:
                    return self._encoder.encodings(self._encoder.done), self._encoder.done.bytes
        except InvalidValueError as error:
            self._error = error
        return None

    @property
    def has_failed(self) -> bool:
        """Whether a step has."""
        return self._error is not None

    def all(self) -> StoredEncodings:
        """The rest in one go."""
        for _ in self._steps:
            pass
        if self._error is not None:
            raise self._error
        return self._encoder.encodings()

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces, groups and beginnings of a few hundred tokens."""
    monkeypatch.setattr(text_ahead, "EncodedAhead", Stepwise)
    monkeypatch.setattr(text_ahead, "SHORT", 0)
    monkeypatch.setattr(text_ahead, "FIRST", 300)
    monkeypatch.setattr(text_ahead, "cores", lambda: 2)
    monkeypatch.setattr(encoded_documents, "PIECE", 400)
    monkeypatch.setattr(encoded_documents, "OVERLAP", 100)
    monkeypatch.setattr(encoded_documents, "AGREEMENT", 8)
    monkeypatch.setattr(batches, "TOKENS_A_GROUP", 256)
    monkeypatch.setattr(predictors, "CPU_TOKENS", 64)


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
    monkeypatch.setattr(text_ahead, "SHORT", 1 << 30)
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
    monkeypatch.setattr(text_ahead, "SHORT", 1 << 30)
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
    ahead.all()
    assert len(encoded) < 2000
