"""Windows as long as the model can read, of architectures with and without positions."""

from __future__ import annotations

import pytest
import torch
import transformers

import kullback
from kullback.models._context import context_of
from kullback.text.documents import Document
from tiny_folders import SIZES, VOCABULARY_SIZE, plain_nll, saved
from tiny_models import TEXT

SMALL = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "num_attention_heads": 4}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("architecture", "sizes", "context"),
    [
        ("Roberta", {"max_position_embeddings": 130, "is_decoder": True, "pad_token_id": 1}, 128),
        ("Roberta", {"max_position_embeddings": 130, "is_decoder": True, "pad_token_id": 0}, 129),
        ("OPT", {"max_position_embeddings": 128, **OPT}, 128),
        ("GPT2", {"n_positions": 96, "n_embd": 32, "n_head": 4, "n_layer": 2}, 96),
        ("Bloom", {"n_head": 4, "n_layer": 2}, None),
        ("Llama", {"max_position_embeddings": 64, "intermediate_size": 64}, 64),
    ],
)
def test_contexts_are_what_the_positions_allow(architecture, sizes, context):
    """And one token more is an error of the model itself, where its positions are weights."""
    config = getattr(transformers, f"{architecture}Config")(**{**SMALL, **sizes})
    names = (f"{architecture}ForCausalLM", f"{architecture}LMHeadModel")
    model = next(getattr(transformers, name) for name in names if hasattr(transformers, name))
    model = model(config).eval()
    assert context_of(model) == context
    if context is None or architecture == "Llama":
        return
    model(input_ids=torch.full((1, context), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, context + 1), 5))


def test_the_tokenizer_says_it_where_the_configuration_does_not():
    """But not where it only says that it knows no length."""
    config = transformers.BloomConfig(vocab_size=99, hidden_size=32, n_layer=1, n_head=4)
    model = transformers.BloomForCausalLM(config).eval()
    assert [context_of(model, length) for length in (512, 1e30, 0, None)] == [512, None, None, None]


def test_the_default_window_of_a_roberta_is_measured(tmp_path):
    """Its first position is row 2 of `max_position_embeddings`."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **SMALL, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=130,
        is_decoder=True, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    folder = saved(transformers.RobertaForCausalLM(config), tmp_path / "m")
    text = Document("text", TEXT)
    by_default, given = (kullback.evaluate(folder, text, **w) for w in ({}, {"window": 128}))
    assert by_default.protocol["protocol"]["window"] == 128
    assert by_default.fingerprint == given.fingerprint


def test_experts_are_measured_in_float64(tmp_path):
    """torch has no grouped product of that type."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, router_jitter_noise=0.5,
        attention_dropout=0.5,
    )  # fmt: skip
    folder = saved(transformers.MixtralForCausalLM(config), tmp_path / "m")
    nll = plain_nll(transformers.AutoModelForCausalLM.from_pretrained(folder))
    for dtype in ("float32", "float64"):
        result = kullback.evaluate(folder, Document("text", TEXT), dtype=dtype)
        assert result.measures["cross_entropy"].value == pytest.approx(nll, abs=1e-6)
