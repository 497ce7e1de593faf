"""A run folder is a Hugging Face folder, and a Llama of Hugging Face is a mini-GPT."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from kullback.errors import RunError
from kullback.training.config import TrainingConfig
from kullback.training.loop import train
from kullback.training.run_folder import load_model
from tiny_runs import sizes, text, trained, weather

FEW = TrainingConfig(steps=2, shards=1)


@pytest.fixture(scope="module")
def source_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on the tiny language."""
    run = tmp_path_factory.mktemp("source") / "run"
    trained(run, steps=60)
    return run


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on a text, for two steps."""
    run = tmp_path_factory.mktemp("text") / "run"
    batches = text(run.parent)
    train(run, batches, sizes(batches), FEW)
    return run


def test_transformers_computes_the_same_logits(source_run: Path):
    """`AutoModelForCausalLM` loads a run folder and gives our logits to 1e-5."""
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(
        source_run, output_loading_info=True
    )
    assert type(theirs) is transformers.LlamaForCausalLM
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    ours = load_model(source_run)
    tokens = torch.from_numpy(weather(source_run.parent).shards(0, 1)[0].inputs_M.numpy())
    tokens = tokens[: len(tokens) // 8 * 8].view(-1, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)
        assert ours(tokens).std() > 0.5


def test_transformers_reads_the_tokens_of_a_source(source_run: Path):
    """`AutoTokenizer` gives a sentence the ids of the source, with the beginning token in front."""
    language = weather(source_run.parent).source.training
    theirs = transformers.AutoTokenizer.from_pretrained(source_run)
    sentence = "ayer nevó mucho"
    assert theirs(sentence).input_ids == [0, *language.encode(sentence)]
    assert theirs.decode(language.encode(sentence)) == sentence
    assert (theirs.bos_token_id, theirs.eos_token_id) == (0, 1)
    assert len(theirs) == len(language.vocabulary)


def test_transformers_reads_a_text_as_we_do(text_run: Path):
    """`AutoTokenizer` gives any text the ids of our tokenizer, and gives the text back."""
    ours = Tokenizer.from_file(str(text_run / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(text_run)
    for line in ("today it rains\nayer llovió", "¿qué?  naïve 東京 🙂", " two  blanks ", "<x>"):
        ids = theirs(line).input_ids
        assert ids == ours.encode(line).ids
        assert theirs.decode(ids, skip_special_tokens=True) == line


def test_transformers_generates_what_we_generate(source_run: Path):
    """Greedy generation by transformers is ours at temperature 0."""
    import numpy as np

    from kullback.training.sampling import generate

    theirs = transformers.AutoModelForCausalLM.from_pretrained(source_run)
    begun = torch.tensor([[0]])
    generated = theirs.generate(begun, do_sample=False, max_length=16, attention_mask=begun + 1)[0]
    ours = generate(load_model(source_run), [], 1, np.random.default_rng(0), temperature=0)
    assert generated.tolist() == [0, *ours[0], 1]


def their_llama(**changes: object) -> transformers.LlamaForCausalLM:
    """Return a random Llama of transformers' making."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 31,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    }
    config = transformers.LlamaConfig(**(settings | changes))
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_we_load_what_transformers_saves(tied: bool, tmp_path: Path):
    """`load_model` loads a Llama that `save_pretrained` wrote, with the same logits."""
    theirs = their_llama(tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config.rope_theta == 300.0
    tokens = torch.randint(31, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1: a mini-GPT has 2"),
        ({"head_dim": 16}, "head_dim is 16: a mini-GPT has 8"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu': a mini-GPT has 'silu'"),
        ({"mlp_bias": True}, "mlp_bias is True: a mini-GPT has False"),
        ({"attention_bias": True}, "attention_bias is True: a mini-GPT has False"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0}},
            "rope_type is 'linear': a mini-GPT has 'default'",
        ),
    ],
    ids=str,
)
def test_llamas_of_another_kind(changes: dict[str, object], message: str, tmp_path: Path):
    """A Llama that ours cannot be is refused with the field that differs, not computed wrongly."""
    their_llama(**changes).save_pretrained(tmp_path)
    with pytest.raises(RunError, match=re.escape(message)):
        load_model(tmp_path)


def test_the_configuration_says_what_the_tokens_are(source_run: Path):
    """`config.json` names the special tokens, whose ids the tokenizer agrees with."""
    config = json.loads((source_run / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(source_run / "tokenizer.json"))
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    special = json.loads((source_run / "tokenizer_config.json").read_text())
    assert tokenizer.token_to_id(special["bos_token"]) == config["bos_token_id"]
    assert tokenizer.token_to_id(special["eos_token"]) == config["eos_token_id"]
