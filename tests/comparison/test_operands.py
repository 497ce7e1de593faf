"""Models and recordings as the operands of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.comparison.operands import ModelOperand, RecordingOperand, check_is_text, text_parts
from kullback.errors import InvalidValueError
from kullback.evaluation.passes import TokenizedText
from kullback.evaluation.record import record_text
from kullback.models.load import load_sized
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document("one", TEXT), Document("two", TEXT[5:])]
PROTOCOL = Protocol(window=32)


@pytest.fixture(scope="module")
def live(tiny_llama_folder: Path) -> ModelOperand:
    """A tiny Llama."""
    return ModelOperand(load_sized(str(tiny_llama_folder)))


@pytest.fixture(scope="module")
def recorded(live: ModelOperand, tmp_path_factory: pytest.TempPathFactory) -> RecordingOperand:
    """What it said."""
    path = tmp_path_factory.mktemp("recordings") / "tiny.rec"
    record_text(live.model, DOCUMENTS, PROTOCOL, path, size_bytes=live.size_bytes)
    return RecordingOperand.open(path)


def reading_of(live: ModelOperand, protocol: Protocol = PROTOCOL) -> TokenizedText:
    """What the model reads."""
    return TokenizedText.of(DOCUMENTS, protocol, live.model.tokenizer, live.model.context)


def test_a_recording_answers_as_its_model(live, recorded):
    """Size, vocabulary, fingerprint and the logits of each window are the model's own."""
    tokenized = reading_of(live)
    assert recorded.size_bytes == live.size_bytes
    assert recorded.vocabulary_size == live.vocabulary_size
    assert recorded.fingerprint(DOCUMENTS, tokenized) == live.fingerprint(DOCUMENTS, tokenized)
    assert recorded.model is None
    for index in range(len(tokenized.windows)):
        said, says = (side.predictions(tokenized.batch([index])) for side in (recorded, live))
        everything = slice(0, len(said))
        torch.testing.assert_close(said.logits(everything), says.logits(everything), rtol=0, atol=0)


def test_a_recording_says_of_what_it_is_one(live, recorded):
    """Its name is the file's, and its note has the model, the type and the device."""
    assert recorded.name.endswith("tiny.rec")
    (note,) = recorded.notes
    assert note == (f"{recorded.name} is a recording of {live.name}, made in float32 on cpu")


def test_the_same_reading_is_accepted(live, recorded):
    """Model and recording are both about the tokens that were recorded."""
    tokenized = reading_of(live)
    live.check(DOCUMENTS, tokenized, live.model)
    recorded.check(DOCUMENTS, tokenized, live.model)
    parts = text_parts(DOCUMENTS, tokenized, live.model)
    assert parts.items() <= dict(recorded.identity.parts).items()


def test_a_window_beyond_the_context_names_the_model(live):
    """Of several candidates the one that reads fewer tokens than the window is told."""
    short = replace(live.sized, model=replace(live.model, context=16))
    with pytest.raises(InvalidValueError, match=rf"window is 32: {live.name} reads at most 16"):
        ModelOperand(short).check(DOCUMENTS, reading_of(live), live.model)


def test_another_reading_is_refused(live, recorded):
    """Another text, protocol or tokenizer is named, with the file and the model that reads."""
    tokenized = reading_of(live)
    with pytest.raises(InvalidValueError, match=r"texts are not the same: .* in .*tiny\.rec and"):
        recorded.check(DOCUMENTS[:1], tokenized, live.model)
    with pytest.raises(InvalidValueError, match=f"16 in the reading of {live.name}"):
        recorded.check(DOCUMENTS, reading_of(live, Protocol(window=16)), live.model)
    metadata = {**recorded.recording.metadata, "tokenizer": "another"}
    other = RecordingOperand(replace(recorded.recording, metadata=metadata))
    with pytest.raises(InvalidValueError, match="the tokenizers are not the same"):
        other.check(DOCUMENTS, tokenized, live.model)


def test_rows_about_other_tokens_are_damage(live, recorded):
    """Where the text is the same and the tokens are not, the file is named as damaged."""
    columns = dict(recorded.recording.columns)
    columns["targets"] = columns["targets"].flip(0)
    damaged = RecordingOperand(replace(recorded.recording, columns=columns))
    assert not np.array_equal(damaged.recording.targets, recorded.recording.targets)
    with pytest.raises(InvalidValueError, match=r"tiny\.rec has .* it is damaged; record it again"):
        damaged.check(DOCUMENTS, reading_of(live), live.model)


def test_a_text_that_is_not_read_again_is_checked(recorded):
    """The recorded text passes, a part of it does not."""
    check_is_text("x", recorded.identity.parts, DOCUMENTS)
    with pytest.raises(InvalidValueError, match="x was recorded on another text"):
        check_is_text("x", recorded.identity.parts, DOCUMENTS[:1])


def test_a_recording_without_a_size_has_none(recorded):
    """What the metadata do not hold is not known."""
    without = RecordingOperand(replace(recorded.recording, metadata={"model": "tiny", "text": "t"}))
    assert without.size_bytes is None
    assert without.notes == (f"{without.name} is a recording of tiny",)
    assert Path(without.name).name == "tiny.rec"
