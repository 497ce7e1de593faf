"""Recordings read back: what they contain is what was written."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from kullback.errors import InvalidValueError
from kullback.models.huggingface import find_head
from kullback.predictions.base import (
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
)
from kullback.predictions.recording import Kind, Recording
from kullback.predictions.recording_writer import RecordingWriter
from kullback.predictions.truncated import TruncatedPredictions
from kullback.scoring.divergence import divergence_statistics
from tiny_recordings import METADATA, T, V, dense, gpt, targets, write


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
    head, why = find_head(model, inputs[:1], model(inputs[:1]).logits[0].float())
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


def test_a_head_multiplies_in_the_type_of_the_live_model(tmp_path: Path) -> None:
    """Of 16-bit hidden states it is known again, so that no copy of the head is widened."""
    for name, make in PAIRS.items():
        live = make()[0]
        head = write(tmp_path / name.replace(" ", "-"), live).head
        assert head is not None
        assert head.product_dtype == live.head.product_dtype


@pytest.mark.parametrize("name", PAIRS)
def test_a_kl_from_exact_recordings_is_the_live_one(name: str, tmp_path: Path) -> None:
    """All statistics of two models from their recordings are those of the models themselves."""
    live = PAIRS[name]()
    M = len(live[0])
    tokens = torch.from_numpy(targets(M))
    recordings = [write(tmp_path / f"{i}", model) for i, model in enumerate(live)]
    read = [recording.predictions(slice(0, M)) for recording in recordings]
    statistics = divergence_statistics(*read, tokens)
    expected = divergence_statistics(*live, tokens)
    assert expected.kl.mean() > 0.01
    np.testing.assert_allclose(statistics.kl, expected.kl, rtol=1e-6)
    np.testing.assert_array_equal(statistics.candidate.nll, expected.candidate.nll)
    itself = divergence_statistics(read[0], live[0], tokens)
    assert not itself.kl.any()


def test_a_head_comes_back_with_bias_scale_and_softcap(tmp_path: Path) -> None:
    """What an architecture does after its last matrix is in the recording."""
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 7, generator=generator) for n in (V, 20))
    head = Head(weight, torch.randn(V, generator=generator), scale=0.3, softcap=2.0)
    live = FactoredPredictions(hidden, head)
    read = write(tmp_path / "x", live).predictions(slice(0, 20))
    assert torch.equal(read.logits(slice(0, 20)), live.logits(slice(0, 20)))


def test_a_head_left_out_must_be_given_and_be_the_same(tmp_path: Path) -> None:
    """Without a stored head the model's own is needed, and another is refused."""
    live = gpt(1)
    assert isinstance(live, FactoredPredictions)
    with pytest.raises(InvalidValueError, match="without the model's head"):
        write(tmp_path / "x", live, head=False)
    assert not any(name.startswith("head") for name in load_file(tmp_path / "x"))
    read = Recording.open(tmp_path / "x", live.head).predictions(slice(0, len(live)))
    assert torch.equal(read.logits(slice(0, 3)), live.logits(slice(0, 3)))
    other = gpt(2)
    assert isinstance(other, FactoredPredictions)
    for wrong in (other.head, Head(live.head.weight_VD, scale=2.0)):
        with pytest.raises(InvalidValueError, match="not that of the model"):
            Recording.open(tmp_path / "x", wrong)


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
    expected, tokens = log_p.topk(k)
    torch.testing.assert_close(read.top_log_probabilities_MK, expected, rtol=0, atol=1e-12)
    assert torch.equal(read.top_tokens_MK, tokens)
    target = torch.from_numpy(targets(30))[5:23]
    assert torch.equal(read.targets_M, target)
    own = log_p.gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(read.target_log_probability_M, own, rtol=0, atol=1e-12)
    outside = (tokens != target[:, None]).all(dim=1)
    mass = expected.exp().sum(1) + own.exp() * outside + read.log_rest_M.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-12)


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
        "read = Recording.open(Path(sys.argv[1])).predictions(slice(39_000, 39_100))\n"
        "assert float(read.hidden_MD[0, 0]) == 36_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "x").stat().st_size > 80e6
    assert int(answer.stdout) < 20_000


def damaged_header(content: bytes, **changes: object) -> bytes:
    """Return the file with some entries of its description changed, and without checksums."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["kullback_recording"])
    header["__metadata__"].pop("kullback_checksums")
    header["__metadata__"]["kullback_recording"] = json.dumps({**about, **changes})
    return content[:8] + json.dumps(header).encode().ljust(size) + content[8 + size :]


def nested(depth: int) -> dict[str, object]:
    """Return objects within each other."""
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"": value}
    return value


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content[:40], "not a recording.*truncated"),
        (lambda content: b"", "not a recording"),
        (lambda content: b"GGUF" * 50, "not a recording"),
        (lambda content: damaged_header(content, format=3), "another version"),
        (lambda content: damaged_header(content, vocabulary_size=5), r"targets.*\[0, 5\)"),
        (lambda content: damaged_header(content, kind="exact"), "damaged"),
        (lambda content: damaged_header(content, vocabulary_size=10**30), "damaged"),
        (lambda content: damaged_header(content, vocabulary_size="61"), "damaged"),
        (lambda content: damaged_header(content, arithmetic="I32"), "damaged"),
        (lambda content: damaged_header(content, metadata=[1]), "damaged"),
        (lambda content: damaged_header(content, metadata=nested(500)), "nested"),
        (lambda content: content[:-9] + b"x" + content[-8:], "checksum of its"),
        (lambda content: content.replace(b"tiny", b"tidy"), "checksum of its metadata"),
    ],
)
def test_damaged_files_are_refused_by_name(damage: Any, message: str, tmp_path: Path) -> None:
    """Truncated files, files of another format and newer ones have different messages."""
    write(tmp_path / "x", dense(), "top-k", k=3)
    (tmp_path / "y").write_bytes(damage((tmp_path / "x").read_bytes()))
    with pytest.raises(InvalidValueError, match=message) as error:
        Recording.open(tmp_path / "y")
    assert str(tmp_path / "y") in str(error.value)


def test_format_1_is_read(tmp_path: Path) -> None:
    """A top-k recording of format 1, whose column of tokens has another name, is read."""
    recording = write(tmp_path / "x", dense(), "top-k", k=3)
    content = damaged_header((tmp_path / "x").read_bytes(), format=1)
    assert content.count(b'"top_tokens":') == 1
    # The header keeps its length: safetensors allows spaces in it.
    (tmp_path / "y").write_bytes(content.replace(b'"top_tokens":', b'"top_words": '))
    old = Recording.open(tmp_path / "y").predictions(slice(0, 30))
    new = recording.predictions(slice(0, 30))
    assert isinstance(old, TruncatedPredictions)
    assert isinstance(new, TruncatedPredictions)
    assert torch.equal(old.top_tokens_MK, new.top_tokens_MK)


def test_files_that_are_not_recordings_are_refused(tmp_path: Path) -> None:
    """A model's weights, a folder and a missing file are not recordings."""
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidValueError, match="not a recording"):
        Recording.open(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InvalidValueError, match="recording"):
            Recording.open(path)


@pytest.mark.parametrize(
    "change",
    [
        {"targets": torch.zeros(29, dtype=torch.int32)},
        {"targets": torch.zeros(30)},
        {"targets": torch.zeros(30, 1, dtype=torch.int32)},
        {"positions": torch.full((30,), -1, dtype=torch.int32)},
        {"logits": torch.zeros(30, V + 1)},
        {"logits": torch.zeros(30, V, dtype=torch.int32)},
        {"logits": torch.zeros(30)},
        {"head.weight": torch.zeros(V, 3)},
        {name: torch.zeros(0, dtype=torch.int32) for name in ("targets", "documents", "positions")},
    ],
)
def test_columns_that_are_none_of_a_recording_are_refused(
    change: dict[str, Tensor], tmp_path: Path
) -> None:
    """Whatever shape or type a foreign file has, the error names it."""
    write(tmp_path / "x", dense())
    tensors = load_file(tmp_path / "x") | change
    with safe_open(tmp_path / "x", framework="pt") as file:
        metadata = {"kullback_recording": file.metadata()["kullback_recording"]}
    save_file(tensors, tmp_path / "y", metadata)
    if "head.weight" in change:  # it is of no use here, and harmless
        assert len(Recording.open(tmp_path / "y")) == 30
        return
    with pytest.raises(InvalidValueError, match="damaged"):
        Recording.open(tmp_path / "y")


@pytest.mark.parametrize("flips", [30, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["exact", "top-k"])
def test_no_flipped_bit_is_accepted(kind: Kind, flips: int, tmp_path: Path) -> None:
    """In the header, where every bit counts as much as the many of the numbers, and anywhere."""
    rng = np.random.default_rng(flips)
    write(tmp_path / "x", gpt(1) if kind == "exact" else dense(), kind, k=5)
    content = (tmp_path / "x").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    key = content.index(b"kullback_checksums")
    places = [int(rng.integers(end)) for end in (header, len(content)) for _ in range(flips // 2)]
    for place in (*places, *range(key, key + len("kullback_checksums"), 6)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / "y").write_bytes(damaged)
        with pytest.raises(InvalidValueError, match="recording"):
            Recording.open(tmp_path / "y")


def test_a_named_pipe_is_no_recording(tmp_path: Path) -> None:
    """It is refused without waiting for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidValueError, match="named pipe"):
        Recording.open(tmp_path / "pipe")
