"""Predictions on disk: what is read back is what was written."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from kullback.errors import InvalidValueError, RunError
from kullback.models.huggingface import find_head
from kullback.models.mini_gpt import GPTModel
from kullback.predictions.base import (
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
)
from kullback.predictions.recording import (
    Recording,
    RecordingWriter,
    TruncatedPredictions,
    check_same_text,
)
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.token_statistics import token_statistics
from kullback.training.gpt import GPT, GPTConfig

V, T = 61, 24
METADATA: dict[str, object] = {
    "model": "tiny",
    "text": "a" * 64,
    "tokenizer": "b" * 64,
    "weights": "c" * 64,
    "protocol": {"preset": "sliding", "window": 24, "stride": 12},
}


def targets(rows: int) -> np.ndarray:
    """Words, the same every time."""
    return np.random.default_rng(1).integers(0, V, rows)


def write(
    path: Path, predictions: Predictions, kind: Any = "exact", pieces: int = 3, **options: Any
) -> Recording:
    """A recording of predictions, appended in pieces."""
    M = len(predictions)
    with RecordingWriter(path, kind, METADATA, V, **options) as writer:
        for rows in np.array_split(np.arange(M), pieces):
            some = predictions.select(torch.from_numpy(rows))
            writer.append(some, targets(M)[rows], rows // 10, rows % 10)
    return Recording.open(path)


def gpt(seed: int) -> Predictions:
    """What a mini-GPT says of some words."""
    model = GPT(GPTConfig(vocabulary_size=V, context=T, width=16, layers=1, heads=2), seed)
    model.requires_grad_(False)
    for weight in model.parameters():
        weight *= 1.5
    return GPTModel(model).predict(torch.arange(2 * T).reshape(2, T) % V)


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_damaged_numbers_are_not_recorded(kind, tmp_path):
    """A model that says NaN is refused when it is recorded, not when the recording is read."""
    hidden = torch.randn(4, 8)
    hidden[2, 3] = torch.nan
    head = Head(torch.randn(V, 8))
    said: Predictions = FactoredPredictions(hidden, head)
    if kind == "dense":
        said = DensePredictions(hidden @ head.weight_VD.T)
    with (
        pytest.raises(InvalidValueError, match=r"row 2 .* NaN"),
        RecordingWriter(tmp_path / "x.rec", "exact", {}, V, 8) as writer,
    ):
        writer.append(said, np.zeros(4, np.int64), np.zeros(4, np.int64), np.arange(4))
    assert not (tmp_path / "x.rec").exists()


def hugging_face(seed: int, dtype: torch.dtype, architecture: str) -> FactoredPredictions:
    """What a random model of `transformers` says, as the adapter hands it over."""
    torch.manual_seed(seed)
    if architecture == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                num_attention_heads=4, initializer_range=0.3,
            )
        )  # fmt: skip
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=V, n_embd=32, n_layer=1, n_head=4, initializer_range=0.3)
        )
    model = model.to(dtype).eval().requires_grad_(False)
    inputs = torch.arange(2 * T).reshape(2, T) % V
    head, why = find_head(model, inputs[:1])
    assert head is not None, why
    hidden = model.base_model(inputs, use_cache=False)[0].flatten(0, 1)
    return FactoredPredictions(hidden.float(), head)


PAIRS = {
    "mini-GPT": lambda: (gpt(1), gpt(2)),
    "Llama": lambda: tuple(hugging_face(seed, torch.float32, "llama") for seed in (1, 2)),
    "GPT-2": lambda: tuple(hugging_face(seed, torch.float32, "gpt2") for seed in (1, 2)),
    "Llama in bfloat16": lambda: tuple(
        hugging_face(seed, torch.bfloat16, "llama") for seed in (1, 2)
    ),
    "Llama in float16": lambda: tuple(
        hugging_face(seed, torch.float16, "llama") for seed in (1, 2)
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_kl_from_exact_recordings_is_the_live_one(name: str, tmp_path: Path) -> None:
    """All statistics of two models from their recordings are those of the models themselves."""
    live = PAIRS[name]()
    M = len(live[0])
    words = torch.from_numpy(targets(M))
    recorded = [write(tmp_path / f"{i}", each) for i, each in enumerate(live)]
    found = divergence_statistics(*(each.predictions(slice(0, M)) for each in recorded), words)
    expected = divergence_statistics(*live, words)
    assert expected.kl.mean() > 0.01
    np.testing.assert_allclose(found.kl, expected.kl, rtol=1e-6)
    np.testing.assert_array_equal(found.candidate.nll, expected.candidate.nll)
    itself = divergence_statistics(recorded[0].predictions(slice(0, M)), live[0], words)
    assert not itself.kl.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_hidden_states_are_kept_in_the_narrowest_type_without_loss(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """16-bit models take two bytes a number on disk, others what they have."""
    generator = torch.Generator().manual_seed(0)
    live = torch.float64 if dtype == torch.float64 else torch.float32
    hidden = torch.randn(30, 7, generator=generator).to(dtype)
    weight = torch.randn(V, 7, generator=generator).to(dtype)
    recording = write(tmp_path / "x", FactoredPredictions(hidden.to(live), Head(weight)))
    assert load_file(tmp_path / "x")["hidden"].dtype == dtype
    read = recording.predictions(slice(4, 30))
    assert isinstance(read, FactoredPredictions)
    assert read.hidden_MD.dtype == live
    torch.testing.assert_close(read.hidden_MD, hidden[4:].to(live), rtol=0, atol=0)
    assert all(each.data_ptr() % each.itemsize == 0 for each in recording.columns.values())


def test_a_head_comes_back_with_bias_scale_and_softcap(tmp_path: Path) -> None:
    """What an architecture does after its last matrix is in the recording."""
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 7, generator=generator) for n in (V, 20))
    head = Head(weight, torch.randn(V, generator=generator), scale=0.3, softcap=2.0)
    live = FactoredPredictions(hidden, head)
    read = write(tmp_path / "x", live).predictions(slice(0, 20))
    assert torch.equal(read.logits(slice(0, 20)), live.logits(slice(0, 20)))


def test_a_head_left_out_must_be_brought_and_be_the_same(tmp_path: Path) -> None:
    """Without a stored head the model's own is needed, and another is refused."""
    live = gpt(1)
    assert isinstance(live, FactoredPredictions)
    with pytest.raises(InvalidValueError, match="without the model's head"):
        write(tmp_path / "x", live, head=False)
    assert not any(name.startswith("head") for name in load_file(tmp_path / "x"))
    found = Recording.open(tmp_path / "x", live.head).predictions(slice(0, len(live)))
    assert torch.equal(found.logits(slice(0, 3)), live.logits(slice(0, 3)))
    other = gpt(2)
    assert isinstance(other, FactoredPredictions)
    for wrong in (other.head, Head(live.head.weight_VD, scale=2.0)):
        with pytest.raises(InvalidValueError, match="not that of the model"):
            Recording.open(tmp_path / "x", wrong)


def dense(rows: int = 30, seed: int = 0, scale: float = 3.0) -> DensePredictions:
    """Random logits."""
    generator = torch.Generator().manual_seed(seed)
    return DensePredictions(torch.randn(rows, V, generator=generator) * scale)


def test_a_model_without_a_head_is_recorded_by_its_logits(tmp_path: Path) -> None:
    """Dense and computed predictions come back to the bit."""
    live = dense()
    computed = ComputedPredictions(torch.arange(30), V, lambda rows: live.logits_MV[rows])
    for name, predictions in (("dense", live), ("computed", computed)):
        read = write(tmp_path / name, predictions).predictions(slice(2, 9))
        assert isinstance(read, DensePredictions)
        assert torch.equal(read.logits_MV, live.logits_MV[2:9])


def test_places_and_metadata_come_back(tmp_path: Path) -> None:
    """Targets, documents, positions, name and metadata are those that were written."""
    recording = write(tmp_path / "folder" / "x", dense(), pieces=4)
    assert (len(recording), recording.vocabulary_size, recording.name) == (30, V, "tiny")
    assert recording.metadata == METADATA
    np.testing.assert_array_equal(recording.targets, targets(30))
    np.testing.assert_array_equal(recording.documents, np.arange(30) // 10)
    np.testing.assert_array_equal(recording.positions, np.arange(30) % 10)


def test_how_rows_come_in_does_not_show_in_the_file(tmp_path: Path) -> None:
    """One append or many make the same bytes."""
    factored = gpt(1)
    # Made once: a matmul of fewer rows may round otherwise.
    dense = DensePredictions(factored.logits(slice(None)))
    for kind, said in (("exact", factored), ("top-k", dense)):
        write(tmp_path / "one", said, kind, pieces=1, k=5)
        write(tmp_path / "many", said, kind, pieces=7, k=5)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 7, V])
def test_a_top_k_recording_holds_the_largest_the_target_and_the_rest(
    k: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Log-probabilities are those of a float64 softmax, and all masses sum to one."""
    live = DensePredictions(dense().logits_MV.to(dtype))
    read = (
        write(tmp_path / "x", live, "top-k", k=k)
        .predictions(slice(3, 25))
        .select(torch.arange(2, 20))
    )
    assert isinstance(read, TruncatedPredictions)
    log_p = torch.log_softmax(live.logits_MV.double(), dim=1)[5:23]
    expected, words = log_p.topk(k)
    torch.testing.assert_close(read.top_log_probabilities_MK, expected, rtol=0, atol=1e-12)
    assert torch.equal(read.top_tokens_MK, words)
    target = torch.from_numpy(targets(30))[5:23]
    assert torch.equal(read.targets_M, target)
    own = log_p.gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(read.target_log_probability_M, own, rtol=0, atol=1e-12)
    outside = (words != target[:, None]).all(dim=1)
    mass = expected.exp().sum(1) + own.exp() * outside + read.log_rest_M.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-12)


def test_words_beyond_the_vocabulary_are_left_out_of_a_top_k_recording(tmp_path: Path) -> None:
    """Where the model has padding words, the distribution is that over the others."""
    padded = DensePredictions(torch.cat([dense().logits_MV, torch.full((30, 3), 9.0)], dim=1))
    found = write(tmp_path / "padded", padded, "top-k", k=4).predictions(slice(0, 30))
    plain = write(tmp_path / "plain", dense(), "top-k", k=4).predictions(slice(0, 30))
    assert isinstance(found, TruncatedPredictions)
    assert isinstance(plain, TruncatedPredictions)
    assert torch.equal(found.top_log_probabilities_MK, plain.top_log_probabilities_MK)
    with pytest.raises(InvalidValueError, match=r"vocabulary_size is 61.*64 words"):
        write(tmp_path / "x", padded)


def test_measures_of_whole_distributions_refuse_truncated_ones(tmp_path: Path) -> None:
    """Entropy and KL are not computed from the top k as if it were all."""
    read = write(tmp_path / "x", dense(), "top-k", k=4).predictions(slice(0, 30))
    words = torch.from_numpy(targets(30))
    with pytest.raises(InvalidValueError, match="the 4 most probable of 61 words"):
        token_statistics(read, words)
    for pair in ((read, dense()), (dense(), read)):
        with pytest.raises(InvalidValueError, match="needs the whole distribution"):
            divergence_statistics(*pair, words)


def test_reading_some_rows_does_not_read_the_file(tmp_path: Path) -> None:
    """Memory grows by what is asked for, not by the size of the recording."""
    rows, D = 40_000, 512
    head = Head(torch.ones(V, D))
    with RecordingWriter(tmp_path / "x", "exact", METADATA, V) as writer:
        for start in range(0, rows, 4000):
            some = FactoredPredictions(torch.full((4000, D), float(start)), head)
            places = np.arange(4000)
            writer.append(some, places % V, places, places)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from kullback.predictions.recording import Recording\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = Recording.open(Path(sys.argv[1])).predictions(slice(39_000, 39_100))\n"
        "assert float(found.hidden_MD[0, 0]) == 36_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "x").stat().st_size > 80e6
    assert int(answer.stdout) < 20_000


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """After an exception the old file stands, and nothing lies beside it."""
    (tmp_path / "x").write_text("before")

    def interrupted() -> None:
        with RecordingWriter(tmp_path / "x", "top-k", METADATA, V, k=3) as writer:
            writer.append(dense(), targets(30), targets(30), targets(30))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "before"


def test_a_killed_write_leaves_no_recording(tmp_path: Path) -> None:
    """A process that dies in the middle has put nothing under the name."""
    code = (
        "import os, sys, numpy as np, torch; from pathlib import Path\n"
        "from kullback.predictions.base import DensePredictions\n"
        "from kullback.predictions.recording import RecordingWriter\n"
        "n = np.arange(5)\n"
        "with RecordingWriter(Path(sys.argv[1]), 'exact', {}, 9) as writer:\n"
        "    writer.append(DensePredictions(torch.zeros(5, 9)), n, n, n)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    assert answer.returncode == -9
    assert not (tmp_path / "x").exists()


def damaged_header(content: bytes, **changes: object) -> bytes:
    """The file with other things said in its header."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["kullback_recording"])
    header["__metadata__"]["kullback_recording"] = json.dumps({**about, **changes})
    return content[:8] + json.dumps(header).encode().ljust(size) + content[8 + size :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "cut short"),
        (lambda content: content[:40], "no recording, or it was cut short"),
        (lambda content: b"", "no recording"),
        (lambda content: b"GGUF" * 50, "no recording"),
        (lambda content: damaged_header(content, format=2), "another version"),
        (lambda content: damaged_header(content, vocabulary_size=5), r"outside of \[0, 5\)"),
        (lambda content: damaged_header(content, kind="exact"), "damaged"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(damage: Any, message: str, tmp_path: Path) -> None:
    """Cut, foreign and newer files are each told apart."""
    write(tmp_path / "x", dense(), "top-k", k=3)
    (tmp_path / "y").write_bytes(damage((tmp_path / "x").read_bytes()))
    with pytest.raises(InvalidValueError, match=message) as error:
        Recording.open(tmp_path / "y")
    assert str(tmp_path / "y") in str(error.value)


def test_files_that_are_no_recordings_are_refused(tmp_path: Path) -> None:
    """A model's weights, a folder and nothing at all are no recordings."""
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidValueError, match="but no recording"):
        Recording.open(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InvalidValueError, match="recording"):
            Recording.open(path)
    with pytest.raises(InvalidValueError, match="is a folder"):
        RecordingWriter(tmp_path, "exact", METADATA, V)


def test_bad_rows_are_refused_where_they_are_appended(tmp_path: Path) -> None:
    """Lengths, words, kinds, NaN, another model's head and lost digits are each named."""
    n = np.arange(30)

    def attempt(*several: Predictions, places: np.ndarray = n, **options: Any) -> None:
        with RecordingWriter(
            tmp_path / "x", metadata=METADATA, vocabulary_size=V,
            **{"kind": "exact", **options},
        ) as writer:  # fmt: skip
            for each in several:
                writer.append(each, places, places, places)

    nan = dense()
    nan.logits_MV[17, 3] = torch.nan
    cases: list[tuple[str, Any]] = [
        (r"targets\[0\] is 61", lambda: attempt(dense(), places=n + V)),
        ("one integer for each", lambda: attempt(dense(), places=n[:4])),
        ("kind is 'all'", lambda: attempt(dense(), kind="all")),
        ("k is 0", lambda: attempt(dense(), kind="top-k", k=0)),
        ("row 47 .*NaN", lambda: attempt(dense(), nan, kind="top-k", k=3)),
        ("nothing was recorded", attempt),
        ("metadata cannot be", lambda: RecordingWriter(tmp_path / "x", "exact", {"a": n}, V)),
    ]
    rows = slice(0, 30)
    one, other = gpt(1).select(torch.arange(30)), gpt(2).select(torch.arange(30))
    cases.append(("head of these rows is not", lambda: attempt(one, other)))
    cases.append(("same number of rows", lambda: attempt(dense(), one)))
    assert isinstance(one, FactoredPredictions)
    head = Head(one.head.weight_VD.to(torch.bfloat16))
    rounded = FactoredPredictions(one.hidden_MD.bfloat16().float(), head)
    sharper = FactoredPredictions(one.hidden_MD, head)
    cases.append(("from row 30 on lose digits", lambda: attempt(rounded, sharper)))
    for message, case in cases:
        with pytest.raises(InvalidValueError, match=message):
            case()
    attempt(rounded, sharper, hidden_dtype=torch.float32)
    assert torch.equal(
        Recording.open(tmp_path / "x").predictions(slice(30, 60)).logits(rows), sharper.logits(rows)
    )


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Below a file there is no folder: a RunError names the recording."""
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file/x cannot be written"):
        write(tmp_path / "file" / "x", dense())


def other(**changes: object) -> dict[str, object]:
    """The metadata with some changed."""
    return {**METADATA, **changes}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (other(text="d" * 64), "the texts are not the same: text is 'aaaa"),
        (other(tokenizer="d" * 64), "byte boundaries"),
        (
            other(protocol={"preset": "sliding", "window": 48, "stride": 12}),
            "protocol.window is 24 in the first and 48 in the second; record both",
        ),
        ({"model": "x"}, "text is .* in the first and None in the second"),
    ],
)
def test_recordings_of_other_readings_are_refused(second: dict[str, object], message: str) -> None:
    """The part of the fingerprint that differs is named."""
    with pytest.raises(InvalidValueError, match=message):
        check_same_text(METADATA, second)


def test_recordings_of_one_reading_by_two_models_are_comparable() -> None:
    """Weights and versions may differ; a reading that nobody described is refused."""
    check_same_text(METADATA, other(weights="d" * 64, versions={"torch": "3"}, model="other"))
    with pytest.raises(InvalidValueError, match="first and the second do not say which text"):
        check_same_text({}, {})


def test_predictions_are_copies(tmp_path: Path) -> None:
    """Overwriting what was read does not change the recording."""
    recording = write(tmp_path / "x", gpt(1))
    first = recording.predictions(slice(0, 5))
    assert isinstance(first, FactoredPredictions)
    before: Tensor = first.hidden_MD.clone()
    first.hidden_MD.zero_()
    again = recording.predictions(slice(0, 5))
    assert isinstance(again, FactoredPredictions)
    assert torch.equal(again.hidden_MD, before)
