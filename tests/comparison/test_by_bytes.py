"""Comparing models whose tokenizers differ."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kullback.comparison.by_bytes import compare_by_bytes
from kullback.evaluation.on_text import evaluate_text
from kullback.models.load import load_text_model
from kullback.scoring.token_statistics import concatenate_statistics
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document(f"part {i}", TEXT[i:]) for i in range(4)]
PROTOCOL = Protocol(window=32)


def test_different_tokenizers_are_compared_by_bytes(tiny_llama, other_tiny_llama_folder, tmp_path):
    """ΔCE by byte is the difference of the models' surprisals of the bytes that both score."""
    other = Path(shutil.copytree(other_tiny_llama_folder, tmp_path / "other"))
    tokenizer = Tokenizer.from_file(str(other / "tokenizer.json"))
    data = tokenizer.to_str()
    # Merge two pairs of letters: fewer, longer tokens, in place of two unused bytes.
    data = data.replace('"merges":[]', '"merges":[["q","u"],["o","x"]]')
    changed = json.loads(data)
    vocabulary = changed["model"]["vocab"]
    unused = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    for letter, pair in zip(unused, ("qu", "ox"), strict=True):
        vocabulary[pair] = vocabulary.pop(letter)
    (other / "tokenizer.json").write_text(json.dumps(changed))
    models = tiny_llama, load_text_model(str(other))
    # Whose first tokens are one byte in both, and so are not scored by either.
    documents = DOCUMENTS[:2]
    found = compare_by_bytes(*models, documents, PROTOCOL)
    totals, counts = [], []
    for model in models:
        one = evaluate_text(model, documents, PROTOCOL)
        totals.append(one.measures["cross_entropy"].value * one.scored_tokens)
        counts.append(one.scored_tokens)
    assert counts[1] < counts[0]
    scored = sum(each.n_bytes - 1 for each in documents)
    per_byte = found.measures["delta_cross_entropy_per_byte"].value
    assert per_byte == pytest.approx((totals[1] - totals[0]) / scored, rel=1e-6)
    spelt = "".join(document.text for document in documents)
    assert all(span.text in spelt for span in found.candidates[0].spans)
    for model, operand in zip(models, (found.reference, found.candidates[0].operand), strict=True):
        alone = evaluate_text(model, documents, PROTOCOL)
        assert operand.fingerprint == alone.fingerprint


def test_every_token_counts_once(tiny_llama, other_tiny_llama_folder):
    """Windows that overlap have no weights here, and the note says so."""
    other = load_text_model(str(other_tiny_llama_folder))
    protocol = Protocol("hf-stride", window=32, stride=16)
    found = compare_by_bytes(tiny_llama, other, DOCUMENTS, protocol)
    assert any(note.startswith("every token counts once here") for note in found.notes)
    assert not any("count a little less than 1" in note for note in found.notes)


def test_excluded_tokens_are_scored(tiny_llama, other_tiny_llama_folder, monkeypatch):
    """A token whose surprisal is infinite is one of those that were scored."""

    def with_infinity(parts):
        whole = concatenate_statistics(parts)
        whole.nll[3] = math.inf
        return whole

    other = load_text_model(str(other_tiny_llama_folder))
    expected = compare_by_bytes(tiny_llama, other, DOCUMENTS, PROTOCOL).scored_tokens
    monkeypatch.setattr("kullback.comparison.by_bytes.concatenate_statistics", with_infinity)
    assert compare_by_bytes(tiny_llama, other, DOCUMENTS, PROTOCOL).scored_tokens == expected
