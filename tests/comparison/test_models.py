"""Comparing models on text, whole."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.comparison.models import Candidate, Job, compare_models
from kullback.comparison.operands import ModelOperand, RecordingOperand
from kullback.comparison.recordings import record_text
from kullback.errors import InvalidValueError
from kullback.models.load import load_sized, load_text_model
from kullback.models.quantization import Scheme
from kullback.models.quantized_folder import save_quantised
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT, tiny_llama

DOCUMENTS = [Document(f"part {i}", TEXT[i:]) for i in range(6)]
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


def compare(folder: str, *names: str, job: Job | None = None):
    """Compare the model in `folder` with others."""
    candidates = [Candidate(name, partial(side, name)) for name in names]
    return compare_models(side(folder), candidates, DOCUMENTS, PROTOCOL, job)


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
    value = {name: one["value"] for name, one in found["measures"].items()}
    assert value["kl"] == pytest.approx(np.concatenate(kl).mean(), rel=1e-5)
    assert value["delta_cross_entropy"] == pytest.approx(
        np.concatenate(difference).mean(), rel=1e-4
    )
    assert found["kl_quantiles"]["maximum"] == pytest.approx(np.concatenate(kl).max(), rel=1e-4)
    assert json.loads(json.dumps(found))["candidate"] == other


def test_a_model_against_itself_is_exactly_zero(folder):
    """The same model, loaded twice, is 0 away in every measure, and not above the noise."""
    found = compare(folder, folder, job=Job(noise=True))
    for name in ("kl", "reverse_kl", "jensen_shannon", "delta_cross_entropy", "delta_p_rms"):
        assert found["measures"][name]["value"] == 0.0, name
    assert found["measures"]["top1_agreement"]["value"] == 1.0
    assert found["kl_quantiles"]["maximum"] == 0.0
    assert found["above_noise"] is False


def test_noise_floor_in_another_type(folder):
    """In bfloat16 the reference is further from itself than in another batch shape."""
    load = partial(load_text_model, folder, torch.bfloat16)
    found = compare(folder, folder + "@int4", job=Job(noise=True, noise_dtype=load))
    floor = found["noise_floor"]
    assert floor["batch shape"]["value"] < 1e-9 < floor["bfloat16"]["value"]
    assert found["above_noise"] is True


def test_schemes_are_ranked_by_kl(folder):
    """Fewer bits are further away, with the wider intervals of a family; all are on the front."""
    found = compare(folder, *(f"{folder}@{scheme}" for scheme in ("int2-g32", "int8", "int4-g32")))
    names = [one["name"].rpartition("@")[2] for one in found["schemes"]]
    assert names == ["int8", "int4-g32", "int2-g32"]
    assert all(one["on_pareto_front"] for one in found["schemes"])
    alone = found["measures"]["kl"]["interval"]
    family = found["schemes"][-1]["kl"]["interval"]
    assert family[0] < alone[0] < alone[1] < family[1]


def test_a_saved_quantisation_is_the_one_on_the_way_in(folder, tmp_path):
    """``FOLDER@int4-g32`` and what ``kullback quantise`` saves are the same model."""
    saved = tmp_path / "saved"
    size = save_quantised(folder, Scheme.parse("int4-g32"), saved).bytes_saved
    assert size == sum(file.stat().st_size for file in saved.iterdir())
    on_the_way, from_disk = compare(folder + "@int4-g32", str(saved)), load_sized(str(saved))
    assert on_the_way["measures"]["kl"]["value"] < 1e-10
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
    found = compare(folder, folder + "@int2-g32", job=Job(with_passages=True))
    worst = found["worst"][0]
    assert worst["kl"] == found["kl_quantiles"]["maximum"]
    text = next(each.text for each in DOCUMENTS if each.name == worst["document"])
    assert worst["before"] + worst["token"] + worst["after"] in text
    assert found["passages"][0]["tokens"][0]["kl"] >= 0
    assert set(found["kl_by_token_class"]) >= {"word begins", "word goes on", "number", "blank"}
    assert Path(folder).exists()


def measured(found: dict) -> dict:
    """What was measured, without the names, the times and what says which file it was."""
    apart = {"title", "created", "reference", "candidate", "notes", "seconds"}
    schemes = [{**one, "name": ""} for one in found["schemes"]]
    return {name: value for name, value in found.items() if name not in apart} | {
        "schemes": schemes
    }


def test_one_quantised_candidate_has_its_size(folder):
    """A single scheme stands in the table with its size; a twin of the reference needs none."""
    found = compare(folder, f"{folder}@int8")
    (only,) = found["schemes"]
    weights = load_sized(folder).size_bytes
    assert 0 < only["bytes"] < weights
    assert any(f"take {weights:,} bytes" in note for note in found["notes"])
    assert compare(folder, folder)["schemes"] == []


def test_a_recording_in_the_place_of_a_model_gives_all_that_the_model_does(folder, tmp_path):
    """With an exact recording on either side every number and token is that of the live models."""
    other = folder + "@int4-g32"
    job = Job(with_passages=True)
    live = measured(compare(folder, other, job=job))
    reference, candidate = record(folder, tmp_path / "one.rec"), record(other, tmp_path / "two.rec")
    for found in (
        compare(reference, other, job=job),
        compare(folder, candidate, job=job),
    ):
        assert found["worst"]
        assert found["passages"]
        assert any("is a recording of" in note for note in found["notes"])
        assert measured(found) == live


def test_recordings_and_models_are_ranked_together(folder, tmp_path):
    """A recorded candidate has its model's size and place; the text is read by the second, then."""
    names = [f"{folder}@{scheme}" for scheme in ("int8", "int4-g32", "int2-g32")]
    live = compare(folder, *names)["schemes"]
    reference, first = record(folder, tmp_path / "a.rec"), record(names[0], tmp_path / "b.rec")
    found = compare(reference, first, *names[1:])["schemes"]
    assert [one["name"] for one in found] == [first, *names[1:]]
    for one, expected in zip(found, live, strict=True):
        assert {**one, "name": ""} == {**expected, "name": ""}


def test_a_recording_that_does_not_say_its_size_is_on_no_front(folder, tmp_path):
    """A candidate whose size is unknown is ranked by its KL and takes no place on the front."""
    path = tmp_path / "a.rec"
    record_text(load_sized(folder).model, DOCUMENTS, PROTOCOL, path)
    nearest, other = compare(folder, folder + "@int8", str(path))["schemes"]
    assert (nearest["bytes"], nearest["on_pareto_front"]) == (None, False)
    assert nearest["kl"]["value"] == 0.0
    assert other["on_pareto_front"] is True


def test_each_candidate_is_compared_with_the_noise(folder):
    """The model itself does not rise above the noise floor, two bits do; unmeasured is None."""
    names = (folder, folder + "@int2-g32")
    found = compare(folder, *names, job=Job(noise=True))
    assert [one["above_noise"] for one in found["schemes"]] == [False, True]
    assert {one["above_noise"] for one in compare(folder, *names)["schemes"]} == {None}


def test_what_needs_the_model_is_refused_of_a_recording(folder, tmp_path):
    """Noise and sensitivity of a recorded reference, and recordings alone, say what to give."""
    path = record(folder, tmp_path / "a.rec")
    with pytest.raises(InvalidValueError, match="the noise floor needs the model itself"):
        compare(path, folder, job=Job(noise=True))
    with pytest.raises(InvalidValueError, match="the sensitivity of layers needs the model"):
        compare(path, folder, job=Job(sensitivity=Scheme.parse("int8")))
    with pytest.raises(InvalidValueError, match="all sides are recordings"):
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
