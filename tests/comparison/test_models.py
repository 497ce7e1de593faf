"""Comparing models on a text, end to end."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from kullback.comparison.models import Candidate, Task, compare_models
from kullback.comparison.operands import ModelOperand, RecordingOperand
from kullback.errors import InvalidValueError
from kullback.evaluation.passes import Batch
from kullback.evaluation.record import record_text
from kullback.models.load import load_sized, load_text_model
from kullback.models.quantization import Scheme
from kullback.models.quantized_folder import save_quantised
from kullback.predictions.base import Predictions
from kullback.results.comparison import Comparison
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT, tiny_llama

DOCUMENTS = [Document(f"part {i}", TEXT[i : i + 200]) for i in range(4)]
PROTOCOL = Protocol(window=32)


@pytest.fixture
def folder(tiny_llama_folder: Path) -> str:
    """The name of a tiny Llama."""
    return str(tiny_llama_folder)


def side(name: str) -> ModelOperand | RecordingOperand:
    """The recording or the model of that name."""
    path = Path(name)
    return RecordingOperand.open(path) if path.is_file() else ModelOperand(load_sized(name))


def record(name: str, path: Path) -> str:
    """Record what a model says of the documents."""
    sized = load_sized(name)
    record_text(sized.model, DOCUMENTS, PROTOCOL, path, size_bytes=sized.size_bytes)
    return str(path)


def compare(folder: str, *names: str, task: Task | None = None):
    """Compare the model in `folder` with others."""
    candidates = [Candidate(name, partial(side, name)) for name in names]
    return compare_models(side(folder), candidates, DOCUMENTS, PROTOCOL, task)


def test_measures_equal_whole_softmaxes(folder, tmp_path):
    """KL and ΔCE equal those of both models' own logits, in float64, to 1e-5."""
    other = str(tiny_llama(tmp_path / "other", seed=1))
    found = compare(folder, other)
    p_model, q_model = (load_text_model(each, torch.float64) for each in (folder, other))
    kl, difference = [], []
    from kullback.evaluation.passes import TokenizedText

    tokenized = TokenizedText.of(DOCUMENTS, PROTOCOL, p_model.tokenizer, p_model.context)
    for window in tokenized.windows:
        inputs, target = torch.from_numpy(window.inputs)[None], window.targets
        with torch.no_grad():
            log_p, log_q = (
                torch.log_softmax(each.model(inputs).logits[0, window.rows], 1).numpy()
                for each in (p_model, q_model)
            )
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(1))
        rows = np.arange(len(target))
        difference.append(log_p[rows, target] - log_q[rows, target])
    value = {name: measurement.value for name, measurement in found.measures.items()}
    assert value["kl"] == pytest.approx(np.concatenate(kl).mean(), rel=1e-5)
    assert value["delta_cross_entropy"] == pytest.approx(
        np.concatenate(difference).mean(), rel=1e-4
    )
    maximum = found.candidates[0].kl_quantiles["maximum"]
    assert maximum == pytest.approx(np.concatenate(kl).max(), rel=1e-4)
    assert Comparison.from_json(found.to_json()) == found
    assert found.candidates[0].name == other


def test_a_model_against_itself_is_exactly_zero(folder):
    """The same model, loaded twice, is 0 away in every measure, and not above the noise."""
    found = compare(folder, folder, task=Task(noise=True))
    for name in (
        "kl",
        "reverse_kl",
        "jensen_shannon",
        "total_variation",
        "delta_cross_entropy",
        "delta_p_rms",
    ):
        assert found.measures[name].value == 0.0, name
    assert found.measures["top1_agreement"].value == 1.0
    assert found.candidates[0].kl_quantiles["maximum"] == 0.0
    assert found.candidates[0].above_noise is False


def test_noise_floor_in_another_type(folder):
    """In bfloat16 the reference is further from itself than in another batch shape."""
    load = partial(load_text_model, folder, torch.bfloat16)
    found = compare(folder, folder + "@int4", task=Task(noise=True, noise_dtype=[load]))
    floor = found.noise_floor
    assert floor["batch shape"].value < 1e-9 < floor["bfloat16"].value
    assert found.candidates[0].above_noise is True


def test_schemes_are_ranked_by_kl(folder):
    """Fewer bits are further away, with the wider intervals of a family; all are on the front."""
    found = compare(folder, *(f"{folder}@{scheme}" for scheme in ("int2-g32", "int8", "int4-g32")))
    names = [row.name.rpartition("@")[2] for row in found.ranked]
    assert names == ["int8", "int4-g32", "int2-g32"]
    assert all(row.on_pareto_front and row.dominated_by is None for row in found.ranked)
    alone = found.measures["kl"].interval
    family = found.ranked[-1].kl.interval
    assert family[0] < alone[0] < alone[1] < family[1]


def test_a_saved_quantisation_is_the_one_on_the_way_in(folder, tmp_path):
    """``FOLDER@int4-g32`` and what ``kullback quantise`` saves are the same model."""
    saved = tmp_path / "saved"
    size = save_quantised(folder, Scheme.parse("int4-g32"), saved).bytes_saved
    assert size == sum(file.stat().st_size for file in saved.iterdir())
    on_the_way, from_disk = compare(folder + "@int4-g32", str(saved)), load_sized(str(saved))
    assert on_the_way.measures["kl"].value < 1e-10
    assert from_disk.size_bytes < load_sized(folder).size_bytes


def test_different_tokenizers_are_refused(folder, tmp_path):
    """Models that read the text as different tokens cannot be compared by token."""
    from transformers import AutoTokenizer

    other = tiny_llama(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    first, second = (tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
    data = json.loads((other / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = second, first
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InvalidValueError, match="as different tokens"):
        compare(folder, str(other))


def test_no_candidate_is_an_error(folder):
    """Without a candidate there is nothing to compare, and the error says what to give."""
    with pytest.raises(InvalidValueError, match="name a model, or schemes"):
        compare(folder)


def test_worst_tokens_stand_in_their_context(folder):
    """The worst token is the one with the largest KL, and its context is the text around it."""
    found = compare(folder, folder + "@int2-g32", task=Task(passages=True))
    worst = found.candidates[0].worst_tokens[0]
    assert worst.kl == found.candidates[0].kl_quantiles["maximum"]
    text = next(each.text for each in DOCUMENTS if each.name == worst.document)
    assert worst.before + worst.token + worst.after in text
    assert found.candidates[0].passages[0].tokens[0].kl >= 0
    classes = {"word begins", "word continues", "number", "whitespace"}
    assert set(found.candidates[0].kl_by_token_class) >= classes
    assert len(found.worst_tokens) == len(found.candidates[0].worst_tokens)
    assert Path(folder).exists()


def measured(result: Comparison) -> dict:
    """What was measured, without the names, the times and what says which file it was."""
    document = result.to_dict()
    for name in ("title", "created", "reference", "notes", "seconds"):
        del document[name]
    for row in (*document["ranked"], *(each["operand"] for each in document["candidates"])):
        del row["name"]
    return document


def test_one_quantised_candidate_has_its_size(folder):
    """A single scheme has its size and share of the original; equal models are identical."""
    found = compare(folder, f"{folder}@int8")
    (only,) = found.ranked
    weights = load_sized(folder).size_bytes
    assert found.reference.size_bytes == weights
    assert 0 < only.size_bytes < weights
    assert only.share_of_original == only.size_bytes / weights
    assert not found.candidates[0].identical
    same = compare(folder, folder)
    assert same.candidates[0].identical
    assert same.candidates[0].worst_tokens == ()


def test_the_smallest_candidate_within_the_tolerance_is_chosen(folder):
    """With a wide tolerance it is the smallest of all, with none there is no choice."""
    names = [f"{folder}@int8", f"{folder}@int2-g32"]
    wide = compare(folder, *names, task=Task(tolerance=100.0))
    assert wide.choice == names[1]
    narrow = compare(folder, *names, task=Task(tolerance=-100.0))
    assert narrow.choice is None
    assert [row.within_tolerance for row in narrow.ranked] == [False, False]


def test_each_model_reads_the_text_once(folder, monkeypatch):
    """Two candidates and the noise floor take one pass of the reference: five passes, not eight."""
    passes: list[str] = []
    original = ModelOperand.predictions

    def count(operand: ModelOperand, batch: Batch) -> Predictions:
        passes.append(operand.name)
        return original(operand, batch)

    monkeypatch.setattr(ModelOperand, "predictions", count)
    load = partial(load_text_model, folder, torch.bfloat16)
    names = (f"{folder}@int8", f"{folder}@int4-g32")
    result = compare(folder, *names, task=Task(noise=True, noise_dtype=[load]))
    windows = len(passes) // 3
    assert len(passes) == 3 * windows
    assert passes.count(result.reference.name) == windows


def test_weights_of_the_protocol_count_everywhere(folder):
    """Under hf-stride the ranked KL, its curves and the headline are weighted alike."""
    candidates = [Candidate("int4", partial(side, f"{folder}@int4-g32"))]
    protocol = Protocol("hf-stride", window=32, stride=16)
    result = compare_models(side(folder), candidates, DOCUMENTS, protocol)
    (row,), (candidate,) = result.ranked, result.candidates
    kl = candidate.measures["kl"].value
    assert row.kl.value == kl
    classes = candidate.kl_by_token_class.values()
    unweighted = sum(c.value * c.n for c in classes) / sum(c.n for c in classes)
    assert unweighted != pytest.approx(kl, rel=1e-6)  # tokens of overlapping windows count less


def test_a_recording_in_the_place_of_a_model_gives_all_that_the_model_does(folder, tmp_path):
    """With an exact recording on either side every number and token is that of the live models."""
    other = folder + "@int4-g32"
    task = Task(passages=True)
    live = measured(compare(folder, other, task=task))
    reference, candidate = record(folder, tmp_path / "one.rec"), record(other, tmp_path / "two.rec")
    for found in (
        compare(reference, other, task=task),
        compare(folder, candidate, task=task),
    ):
        assert found.candidates[0].worst_tokens
        assert found.candidates[0].passages
        assert any("is a recording of" in note for note in found.notes)
        assert measured(found) == live


def test_recordings_and_models_are_ranked_together(folder, tmp_path):
    """A recorded candidate has its model's size and place; the text is read by the second, then."""
    names = [f"{folder}@{scheme}" for scheme in ("int8", "int4-g32", "int2-g32")]
    live = compare(folder, *names).ranked
    reference, first = record(folder, tmp_path / "a.rec"), record(names[0], tmp_path / "b.rec")
    ranked = compare(reference, first, *names[1:]).ranked
    assert [row.name for row in ranked] == [first, *names[1:]]
    for row, expected in zip(ranked, live, strict=True):
        assert replace(row, name="") == replace(expected, name="")


def test_a_recording_that_does_not_say_its_size_is_on_no_front(folder, tmp_path):
    """A candidate whose size is unknown is ranked by its KL and takes no place on the front."""
    path = tmp_path / "a.rec"
    record_text(load_sized(folder).model, DOCUMENTS, PROTOCOL, path)
    nearest, other = compare(folder, folder + "@int8", str(path)).ranked
    assert (nearest.size_bytes, nearest.on_pareto_front) == (None, False)
    assert nearest.kl.value == 0.0
    assert other.on_pareto_front


def test_each_candidate_is_compared_with_the_noise(folder):
    """The model itself does not rise above the noise floor, two bits do; unmeasured is None."""
    names = (folder, folder + "@int2-g32")
    found = compare(folder, *names, task=Task(noise=True))
    assert [row.above_noise for row in found.ranked] == [False, True]
    assert {row.above_noise for row in compare(folder, *names).ranked} == {None}


def test_what_needs_the_model_is_refused_of_a_recording(folder, tmp_path):
    """Noise and sensitivity of a recorded reference, and recordings alone, say what to give."""
    path = record(folder, tmp_path / "a.rec")
    with pytest.raises(InvalidValueError, match="the noise floor needs the model itself"):
        compare(path, folder, task=Task(noise=True))
    with pytest.raises(InvalidValueError, match="the sensitivity of layers needs the model"):
        compare(path, folder, task=Task(sensitivity=Scheme.parse("int8")))
    with pytest.raises(InvalidValueError, match="all operands are recordings"):
        compare(path, path)


def test_a_recording_of_another_reading_is_refused(folder, tmp_path):
    """A recorded candidate of another protocol is named, with what differs and who reads."""
    path = record(folder, tmp_path / "a.rec")
    with pytest.raises(
        InvalidValueError, match=r"window is 32 in .*a\.rec and 16 in the reading of"
    ):
        compare_models(
            side(folder), [Candidate("a", partial(side, path))], DOCUMENTS, Protocol(window=16)
        )


def test_one_candidate_is_in_memory_at_a_time(folder: str) -> None:
    """The model of each has gone before the next is loaded."""
    models: list[weakref.ref[object]] = []

    def opened(name: str) -> ModelOperand:
        gc.collect()
        assert not any(model() for model in models)
        operand = ModelOperand(load_sized(name))
        models.append(weakref.ref(operand.model))
        return operand

    names = [f"{folder}@{scheme}" for scheme in ("int8", "int4-g32", "fp8")]
    candidates = [Candidate(name, partial(opened, name)) for name in names]
    compare_models(side(folder), candidates, DOCUMENTS, PROTOCOL)
    assert len(models) == len(names)


def test_a_candidate_that_begins_texts_otherwise_is_noted_once(folder):
    """Of models of transformers, too: one note a candidate, none where --bos decides it."""
    sized = load_sized(folder)
    with_bos = copy.copy(sized.model.tokenizer)
    with_bos.bos_id, with_bos.adds_bos = 7, True
    begun = dataclasses.replace(
        sized, model=dataclasses.replace(sized.model, tokenizer=with_bos, name="begun")
    )
    candidates = [
        Candidate("same", lambda: ModelOperand(sized)),
        Candidate("begun", lambda: ModelOperand(begun)),
    ]

    def notes(**settings: str) -> list[str]:
        result = compare_models(
            ModelOperand(sized), candidates, DOCUMENTS, Protocol(window=32, **settings)
        )
        return [note for note in result.notes if "begins a text with" in note]

    (note,) = notes()
    assert "begun begins a text with the BOS" in note
    assert "--bos always or never" in note
    assert not notes(bos="never")


def test_a_second_type_that_does_not_fit_is_noted(folder):
    """The comparison and the floor of the batch shape are given without it."""

    def fail():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    result = compare(folder, folder, task=Task(noise=True, noise_dtype=[fail]))
    assert [*result.noise_floor] == ["batch shape"]
    assert any("noise floor" in note and "memory" in note for note in result.notes)
