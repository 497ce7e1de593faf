"""Comparing predictions that are on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kullback.comparison.models import Candidate, compare_models
from kullback.comparison.operands import ModelOperand, RecordingOperand
from kullback.comparison.recordings import NO_WEIGHTS, compare_recorded
from kullback.errors import InvalidValueError
from kullback.evaluation.record import record_text
from kullback.models.load import load_sized
from kullback.results.comparison import MOVED_IS_NOT_WORSE, Comparison
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document(f"part {i}", TEXT[i : i + 200]) for i in range(4)]
PROTOCOL = Protocol(window=32)


@pytest.fixture(scope="module")
def pair(tiny_llama_folder: Path) -> tuple[ModelOperand, ModelOperand]:
    """The model, and one that is quantised."""
    return ModelOperand(load_sized(str(tiny_llama_folder))), ModelOperand(
        load_sized(f"{tiny_llama_folder}@int4-g32")
    )


@pytest.fixture(scope="module")
def live(pair) -> Comparison:
    """The comparison of the two, read now."""
    return compare_models(pair[0], [Candidate("int4", lambda: pair[1])], DOCUMENTS, PROTOCOL)


@pytest.fixture(scope="module")
def recorded(
    pair, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RecordingOperand, RecordingOperand]:
    """Exact recordings of both."""
    made = []
    for name, side in zip(("reference", "candidate"), pair, strict=True):
        path = tmp_path_factory.mktemp("recordings") / name
        read = record_text(side.model, DOCUMENTS, PROTOCOL, path)
        made.append(RecordingOperand.open(path))
        assert len(made[-1].recording) == len(read)
    return made[0], made[1]


def test_exact_recordings_give_the_live_measures(recorded, pair, live):
    """From two recordings, or one and a model on either side, each measure is the live one."""
    both = compare_recorded(*recorded)
    first = compare_recorded(recorded[0], pair[1], DOCUMENTS, PROTOCOL)
    second = compare_recorded(pair[0], recorded[1], DOCUMENTS, PROTOCOL)
    for found in (both, first, second):
        assert found.measures["kl"].value == pytest.approx(live.measures["kl"].value, rel=1e-6)
        assert set(found.measures) == set(live.measures)
        assert found.candidates[0].kl_quantiles == pytest.approx(
            live.candidates[0].kl_quantiles, rel=1e-6
        )
        assert found.scored_tokens == live.scored_tokens


def test_each_side_has_its_fingerprint(recorded, pair, live):
    """Recorded or read now, a side's fingerprint and its parts are those of the live reading."""
    for found in (
        compare_recorded(*recorded),
        compare_recorded(recorded[0], pair[1], DOCUMENTS, PROTOCOL),
    ):
        reference, candidate = found.reference, found.candidates[0].operand
        assert reference.fingerprint == live.reference.fingerprint
        assert candidate.protocol == live.candidates[0].operand.protocol
        assert candidate.fingerprint not in ("", reference.fingerprint)
        assert reference.protocol["protocol"]["window"] == 32


def test_top_k_recordings_bound_the_kl(pair, live, tmp_path):
    """From a top-k recording the KL is bounded, and called so; what it holds exactly is as live."""
    record_text(pair[0].model, DOCUMENTS, PROTOCOL, tmp_path / "top", "top-k", k=16)
    found = compare_recorded(RecordingOperand.open(tmp_path / "top"), pair[1], DOCUMENTS, PROTOCOL)
    low, high = (found.measures[f"kl_{side}_bound"].value for side in ("lower", "upper"))
    assert "kl" not in found.measures
    for name in ("delta_cross_entropy", "top1_agreement", "delta_p_mean", "delta_p_rms"):
        expected = live.measures[name].value
        assert found.measures[name].value == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert 0 < low < live.measures["kl"].value < high
    assert found.reference.fingerprint == live.reference.fingerprint
    assert any("lower bound" in note for note in found.notes)


def test_recordings_of_other_texts_are_refused(recorded, pair, tmp_path):
    """A recording of another text or protocol is refused by name."""
    with pytest.raises(InvalidValueError, match="text"):
        compare_recorded(recorded[0], pair[1], DOCUMENTS[:2], PROTOCOL)
    with pytest.raises(InvalidValueError, match="protocol"):
        compare_recorded(recorded[0], pair[1], DOCUMENTS, Protocol(window=16))
    with pytest.raises(InvalidValueError, match="was recorded on another text"):
        compare_recorded(*recorded, DOCUMENTS[:2])


@pytest.fixture(scope="module")
def padded(
    tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RecordingOperand]:
    """Recordings of the model whose vocabulary is padded to 272 tokens."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("padded")
    shutil.copytree(tiny_llama_folder, folder / "model")
    model = LlamaForCausalLM.from_pretrained(tiny_llama_folder)
    model.resize_token_embeddings(272, mean_resizing=False)
    model.save_pretrained(folder / "model")
    wide, made = load_sized(str(folder / "model")).model, {}
    for kind in ("exact", "top-k"):
        record_text(wide, DOCUMENTS, PROTOCOL, folder / kind, kind)
        made[kind] = RecordingOperand.open(folder / kind)
    return made


def test_tokens_that_only_one_recording_has_are_noted(recorded, padded, pair):
    """Two recordings say what was left out, as the comparison of their models does."""
    found = compare_recorded(recorded[0], padded["exact"])
    live = compare_models(
        padded["exact"], [Candidate("narrow", lambda: pair[0])], DOCUMENTS, PROTOCOL
    )
    (left_out,) = [note for note in found.notes if note.startswith("tokens that only one")]
    assert left_out in live.notes
    assert MOVED_IS_NOT_WORSE in found.notes


def test_a_top_k_recording_of_another_vocabulary_is_refused(padded, pair, recorded):
    """With a remedy that the command has."""
    for candidate in (pair[0], recorded[0]):
        with pytest.raises(InvalidValueError, match=r"272 tokens.*256.*--distributions exact"):
            compare_recorded(padded["top-k"], candidate, DOCUMENTS, PROTOCOL)


def test_weights_that_a_recording_has_not_are_noted(pair, tmp_path):
    """Of hf-stride, which weighs tokens, two recordings say that they count each token once."""
    record_text(pair[0].model, DOCUMENTS, Protocol("hf-stride", 32, 16), tmp_path / "a")
    side = RecordingOperand.open(tmp_path / "a")
    assert NO_WEIGHTS in compare_recorded(side, side).notes
