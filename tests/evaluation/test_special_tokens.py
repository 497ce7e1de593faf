"""Texts that spell special tokens: presets read them as their tools do, and a note says so."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import kullback
from kullback.errors import InvalidValueError
from kullback.evaluation.record import record
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_sized
from kullback.text.documents import Document
from kullback.text.fingerprint import check_same_text
from tiny_models import TEXT
from tiny_tokenizers import trained

END = "<|endoftext|>"
TEXTS = Document("separated", END.join(TEXT[i : i + 90] for i in range(0, 360, 90)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama whose tokenizer has an end of text, which is its EOS."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = LlamaConfig(
        vocab_size=700, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=trained(), eos_token=END).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> HuggingFaceModel:
    """The same, loaded."""
    return load_sized(folder).model


def expected(model: HuggingFaceModel, preset: str, special_tokens: str) -> float:
    """Nats/token as plain transformers computes them, in one window."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(), eos_token=END)
    ids = tokenizer.encode(
        TEXTS.text, add_special_tokens=False, split_special_tokens=special_tokens == "text"
    )
    start = [tokenizer.eos_token_id]
    # The guide never scores the first token; sliding windows predict it from EOS alone.
    parts = {
        "hf-stride": [(ids[:-1], ids[1:])],
        "lm-eval": [([*start, *ids[:-1]], ids)],
        "sliding": [(start, ids[:1]), (ids[:-1], ids[1:])],
    }[preset]
    with torch.no_grad():
        nll_N = [
            torch.nn.functional.cross_entropy(
                model.model(torch.tensor([read])).logits[0].double(),
                torch.tensor(targets),
                reduction="none",
            )
            for read, targets in parts
        ]
    return float(torch.cat(nll_N).mean())


@pytest.mark.parametrize("special_tokens", [None, "text", "tokens"])
@pytest.mark.parametrize("preset", ["sliding", "hf-stride", "lm-eval"])
def test_presets_read_special_tokens_as_their_tools_do(model, preset, special_tokens):
    """The harness and the guide as tokens; by default everything else as characters."""
    result = kullback.evaluate(
        model, TEXTS, protocol=preset, window=512, special_tokens=special_tokens
    )
    by_default = "text" if preset == "sliding" else "tokens"
    read = special_tokens or by_default
    value = result.measures["cross_entropy"].value
    assert value == pytest.approx(expected(model, preset, read), abs=2e-6)
    assert result.protocol["protocol"]["special_tokens"] == read
    (note,) = [note for note in result.notes if END in note]
    assert "3 times" in note
    assert ("read as the tokens" in note) == (read == "tokens")


def test_the_fingerprint_says_how_special_tokens_were_read(model):
    """Also of a text without any: it is part of the protocol."""
    plain = Document("plain", TEXT)
    results = [
        kullback.evaluate(model, plain, special_tokens=how) for how in (None, "text", "tokens")
    ]
    assert results[0].fingerprint == results[1].fingerprint != results[2].fingerprint
    assert not any(END in note for result in results for note in result.notes)


def test_all_commands_say_it(model, folder, tmp_path):
    """A comparison, a record, and the comparison of a record."""
    text = tmp_path / "text.txt"
    text.write_text(TEXTS.text)
    compared = kullback.compare(folder, f"{folder}@int8", text)
    recorded = record(folder, text, tmp_path / "a.rec", distributions="exact")
    again = kullback.compare(tmp_path / "a.rec", f"{folder}@int8", text)
    by_bytes = kullback.compare(folder, f"{folder}@int8", text, by_bytes=True)
    for result in (compared, recorded, again, by_bytes):
        assert sum(END in note for note in result.notes) == 1


def test_records_of_earlier_versions_read_them_as_text():
    """Their protocol does not say how."""
    parts = {"text": "t", "tokenizer": "t"}
    old = {**parts, "protocol": {"preset": "lm-eval"}}
    new = {**parts, "protocol": {"preset": "lm-eval", "special_tokens": "text"}}
    check_same_text(old, new)
    other = {**parts, "protocol": {"preset": "lm-eval", "special_tokens": "tokens"}}
    with pytest.raises(InvalidValueError, match="--special-tokens text"):
        check_same_text(old, other)
