"""Comparing what is on disk, and models with different tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from kullback.cli import main
from kullback.documents import Document
from kullback.errors import InvalidValueError
from kullback.evaluate.protocol import Protocol
from kullback.model_comparison import Candidate, compare_models
from kullback.models.base import TextModel
from kullback.models.llama_cpp_logits import write_llama_cpp_logits
from kullback.models.load import load_text_model
from kullback.models.quantised import load_named
from kullback.models.recording import Recording
from kullback.stored_comparison import (
    compare_by_bytes,
    compare_logits_files,
    compare_recorded,
    record_text,
)
from kullback.text_evaluation import evaluate_text
from tiny_models import TEXT, tiny_llama

DOCUMENTS = [Document(f"part {i}", TEXT[i:]) for i in range(4)]
PROTOCOL = Protocol(window=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[TextModel, TextModel]:
    """The model, and one that is quantised."""
    return load_text_model(str(folder)), load_named(f"{folder}@int4-g32").model


@pytest.fixture(scope="module")
def live_kl(folder: Path) -> float:
    """The KL of the two, read now."""
    reference = load_text_model(str(folder))
    candidate = Candidate("int4", lambda: load_named(f"{folder}@int4-g32"))
    found = compare_models(reference, [candidate], DOCUMENTS, PROTOCOL)
    return found["measures"]["kl"]["value"]


@pytest.fixture(scope="module")
def recorded(pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Recording]:
    """Exact recordings of both."""
    made = []
    for name, model in zip(("reference", "candidate"), pair, strict=True):
        path = tmp_path_factory.mktemp("recordings") / name
        tokens = record_text(model, DOCUMENTS, PROTOCOL, path)
        made.append(Recording.open(path))
        assert len(made[-1]) == tokens
    return made[0], made[1]


def test_exact_recordings_give_the_live_kl(recorded, pair, live_kl):
    """From two recordings, or one and a model on either side, the KL is the live one to 1e-6."""
    both = compare_recorded(*recorded)
    first = compare_recorded(recorded[0], pair[1], DOCUMENTS, PROTOCOL)
    second = compare_recorded(pair[0], recorded[1], DOCUMENTS, PROTOCOL)
    for found in (both, first, second):
        assert found["measures"]["kl"]["value"] == pytest.approx(live_kl, rel=1e-6)


def test_top_k_recordings_bound_the_kl(recorded, pair, live_kl, tmp_path):
    """From a top-k recording the KL is bounded below, and above, and the measures are called so."""
    record_text(pair[0], DOCUMENTS, PROTOCOL, tmp_path / "top", "top-k", k=16)
    found = compare_recorded(Recording.open(tmp_path / "top"), pair[1], DOCUMENTS, PROTOCOL)
    assert set(found["measures"]) == {"kl_lower_bound", "kl_upper_bound"}
    low, high = (one["value"] for one in found["measures"].values())
    assert 0 < low < live_kl < high
    assert any("lower bound" in note for note in found["notes"])


def test_recordings_of_other_texts_are_refused(recorded, pair, tmp_path):
    """A recording of another text or protocol is refused by name."""
    with pytest.raises(InvalidValueError, match="text"):
        compare_recorded(recorded[0], pair[1], DOCUMENTS[:2], PROTOCOL)
    with pytest.raises(InvalidValueError, match="protocol"):
        compare_recorded(recorded[0], pair[1], DOCUMENTS, Protocol(window=16))


def test_logits_files_are_compared(tmp_path):
    """Two files of llama.cpp give the KL of their logits to the files' rounding."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 40, (8, 16))
    p = rng.normal(size=(8 * 7, 40))
    q = p + 0.3 * rng.normal(size=p.shape)
    for name, logits in (("base", p), ("other", q)):
        write_llama_cpp_logits(tmp_path / name, tokens, logits)
    found, printed = compare_logits_files(tmp_path / "base", tmp_path / "other")
    log_p, log_q = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (p, q))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    assert found["measures"]["kl"]["value"] == pytest.approx(kl, abs=1e-4)
    assert "KLD" in printed


def test_different_tokenizers_are_compared_by_bytes(folder, tmp_path):
    """ΔCE by byte is the difference of the models' surprisals of the bytes that both score."""
    other = tiny_llama(tmp_path / "other", seed=1)
    tokenizer = Tokenizer.from_file(str(other / "tokenizer.json"))
    data = tokenizer.to_str()
    # Merge two pairs of letters: fewer, longer tokens, in place of two unused bytes.
    data = data.replace('"merges":[]', '"merges":[["q","u"],["o","x"]]')
    import json

    changed = json.loads(data)
    vocabulary = changed["model"]["vocab"]
    unused = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    for letter, pair in zip(unused, ("qu", "ox"), strict=True):
        vocabulary[pair] = vocabulary.pop(letter)
    (other / "tokenizer.json").write_text(json.dumps(changed))
    models = load_text_model(str(folder)), load_text_model(str(other))
    # Whose first tokens are one byte in both, and so are not scored by either.
    documents = DOCUMENTS[:2]
    found = compare_by_bytes(*models, documents, PROTOCOL)
    totals, counts = [], []
    for model in models:
        one = evaluate_text(model, documents, PROTOCOL)
        assert one is not None
        totals.append(one["measures"]["cross_entropy"]["value"] * one["scored_tokens"])
        counts.append(one["scored_tokens"])
    assert counts[1] < counts[0]
    scored = sum(each.n_bytes - 1 for each in documents)
    per_byte = found["measures"]["delta_cross_entropy_per_byte"]["value"]
    assert per_byte == pytest.approx((totals[1] - totals[0]) / scored, rel=1e-6)
    spelt = "".join(document.text for document in documents)
    assert all(span["text"] in spelt for span in found["spans"])


def test_the_commands(folder, tmp_path, capsys):
    """``record`` writes a file that ``compare`` takes in the place of a model."""
    text, file = tmp_path / "text.txt", tmp_path / "text.rec"
    text.write_text(TEXT, encoding="utf-8")
    on_text = ["--text", str(text), "--window", "32"]
    assert main(["record", str(folder), *on_text, "-o", str(file)]) == 0
    assert main(["compare", str(file), str(folder), *on_text]) == 0
    assert "KL(reference‖candidate)" in capsys.readouterr().out
    assert main(["compare", str(file), str(file), "--json"]) == 0
    assert '"kl"' in capsys.readouterr().out
    assert main(["compare", str(file), str(folder)]) == 2
    assert "--text FILE is missing" in capsys.readouterr().err
    assert main(["compare", str(folder), str(folder), "--by-bytes", *on_text]) == 0
    assert "nats/byte" in capsys.readouterr().out
    assert main(["compare", str(file), str(file), "--schemes", "int8"]) == 2
    assert "need the models themselves" in capsys.readouterr().err
