"""Any causal language model of transformers as hidden states and a head."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from kullback.errors import InvalidValueError
from kullback.models.huggingface import HuggingFaceModel
from kullback.predictions.base import DensePredictions, FactoredPredictions
from kullback.text.tokenizer import TextTokenizer
from tiny_models import tiny_llama

V = 96
LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
ARCHITECTURES = {
    "Llama": LLAMA,
    "Llama tied": LLAMA | {"tie_word_embeddings": True},
    "Mistral": LLAMA | {"sliding_window": 6},
    "Qwen2": LLAMA,
    "Qwen3": LLAMA | {"head_dim": 16},
    "GPT2": GPT2,
    "GPTNeoX": NEOX,
    "GPTJ": GPT2 | {"rotary_dim": 4},
    "Phi": LLAMA,
    "Gemma2": LLAMA | {"head_dim": 8, "final_logit_softcapping": 5.0},
    "Gemma3": LLAMA | {"head_dim": 8, "sliding_window": 6},
    "Granite": LLAMA | {"logits_scaling": 8.0, "embedding_multiplier": 12.0},
    "Cohere": LLAMA | {"logit_scale": 0.25},
    "OPT": {
        "vocab_size": V,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 64,
    },
    "Bloom": {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mamba": {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Olmo2": LLAMA,
    "StableLm": LLAMA,
    "Falcon": NEOX,
    "FalconH1": LLAMA
    | {"lm_head_multiplier": 0.5, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
}


def tokenizer(size: int = V) -> SimpleNamespace:
    """All that the adapter asks of a tokenizer: how many ids it has, and notes."""
    return SimpleNamespace(vocabulary_size=size, notes=())


def random_model(name: str, dtype: torch.dtype = torch.float32, **changes: object):
    """A tiny model of an architecture, with weights large enough that logits are no noise."""
    class_name = name.split()[0]
    suffix = "LMHeadModel" if class_name == "GPT2" else "ForCausalLM"
    model_class = getattr(transformers, class_name + suffix)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**(ARCHITECTURES[name] | changes)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model.to(dtype).eval()


def own_logits(model, inputs: torch.Tensor) -> torch.Tensor:
    """The logits of transformers, from a copy that is not wrapped."""
    with torch.inference_mode():
        return model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_factored_logits_are_the_models_own(name: str) -> None:
    """Hidden states and head give the model's logits, whatever it does after its last matrix."""
    model = random_model(name)
    inputs = torch.randint(V, (2, 20), generator=torch.Generator().manual_seed(1))
    expected = own_logits(copy.deepcopy(model), inputs)
    adapter = HuggingFaceModel.wrap(model, tokenizer(), name)
    predictions = adapter.predict(inputs)
    assert isinstance(predictions, FactoredPredictions), adapter.notes
    assert adapter.factored
    assert adapter.notes == ()
    logits = predictions.logits(slice(None))
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
    block = predictions.logits(slice(3, 7), slice(5, 9))
    assert (block - expected[3:7, 5:9]).abs().max() < 2e-5 * expected.abs().max()


def test_heads_are_found_for_16_bit_models() -> None:
    """In bfloat16 scale and cap are found too, and the logits are float32, not rounded."""
    adapter = HuggingFaceModel.wrap(random_model("Gemma2", torch.bfloat16), tokenizer(), "Gemma2")
    assert adapter.head is not None
    assert adapter.head.softcap == 5.0
    assert adapter.dtype == torch.bfloat16
    logits = adapter.predict(torch.arange(9)[None]).logits(slice(None))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_weak_soft_cap_is_not_missed() -> None:
    """A cap that bends the probe's own logits by less than float32 rounding is still found."""
    model = random_model("Gemma2", final_logit_softcapping=4000.0)
    adapter = HuggingFaceModel.wrap(model, tokenizer(), "Gemma2")
    assert adapter.head is not None
    assert adapter.head.softcap == 4000.0


class Squared(LlamaForCausalLM):
    """Adds to each logit its square: no head does that."""

    def forward(self, *args, **kwargs):
        """Llama's answer, bent."""
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + 0.1 * output.logits.square()
        return output


def llama(model_class=LlamaForCausalLM, **changes: object):
    """A tiny Llama."""
    torch.manual_seed(0)
    model = model_class(LlamaConfig(**(LLAMA | changes)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def test_a_model_without_a_head_falls_back_to_its_own_logits() -> None:
    """Where no head gives the model's logits they are used whole, and a note says so."""
    model = llama(Squared).eval()
    inputs = torch.arange(20).view(2, 10)
    expected = own_logits(copy.deepcopy(model), inputs)
    adapter = HuggingFaceModel.wrap(model, tokenizer(), "odd")
    predictions = adapter.predict(inputs)
    assert isinstance(predictions, DensePredictions)
    assert not adapter.factored
    assert len(adapter.notes) == 1
    assert "odd cannot be split into hidden states and a head" in adapter.notes[0]
    assert "384 bytes a token" in adapter.notes[0]
    assert torch.allclose(predictions.logits(slice(None)), expected, rtol=1e-5, atol=1e-5)


class Cut(LlamaForCausalLM):
    """Predicts only the first 90 of 96 rows: the rest pad the vocabulary."""

    def forward(self, *args, **kwargs):
        """Llama's answer, shorter."""
        output = super().forward(*args, **kwargs)
        output.logits = output.logits[..., :90]
        return output


def test_rows_that_pad_the_vocabulary_count_as_the_model_counts_them() -> None:
    """V is the width of the model's own logits, whether or not these include the padding."""
    cut = HuggingFaceModel.wrap(llama(Cut), tokenizer(90), "cut")
    assert cut.vocabulary_size == 90
    assert len(cut.predict(torch.arange(4)[None])) == 4
    assert cut.predict(torch.arange(4)[None]).vocabulary_size == 90
    assert HuggingFaceModel.wrap(llama(), tokenizer(90), "padded").vocabulary_size == V


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("without_amx")
def test_tokens_that_a_model_rules_out_do_not_change_what_it_is(dtype: torch.dtype) -> None:
    """A bias of -inf, which no other token after it changes, leaves the model causal and factored.

    In bfloat16 the faster attention is used too.
    """
    model = random_model("Phi")
    with torch.no_grad():
        model.lm_head.bias[80:] = -torch.inf
    expected = own_logits(copy.deepcopy(model), torch.arange(20)[None])
    adapter = HuggingFaceModel.wrap(model.to(dtype), tokenizer(), "phi")
    assert adapter.factored, adapter.notes
    if dtype == torch.bfloat16:
        assert adapter.layers.has_attention
    logits = adapter.predict(torch.arange(20)[None]).logits(slice(None))
    assert (logits[:, 80:] == -torch.inf).all()
    difference = (logits - expected)[:, :80].abs().max()
    assert difference < (2e-5 if dtype == torch.float32 else 5e-2) * expected[:, :80].abs().max()


class Masked(LlamaForCausalLM):
    """Rules out the last 16 tokens after its output matrix: no head does that."""

    def forward(self, *args, **kwargs):
        """Llama's answer, with -inf."""
        output = super().forward(*args, **kwargs)
        output.logits[..., 80:] = -torch.inf
        return output


def test_a_head_without_the_models_infinities_is_not_taken() -> None:
    """Where the model says -inf and the head a number, they are infinitely far apart."""
    adapter = HuggingFaceModel.wrap(llama(Masked), tokenizer(), "masked")
    assert not adapter.factored
    assert "off by inf of the largest logit" in adapter.notes[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("weight", "place"),
    # The last norm, and the embedding of a token in the second half of the probe.
    [("model.norm.weight", (3,)), ("model.embed_tokens.weight", (64, 3))],
)
def test_predictions_that_are_no_numbers_are_not_said_to_see_the_future(
    weight: str, place: tuple[int, ...], value: float
) -> None:
    """With NaN or an infinity in a weight a model is wrapped; its predictions say what is wrong."""
    model = llama()
    with torch.no_grad():
        model.get_parameter(weight)[place] = value
    adapter = HuggingFaceModel.wrap(model, tokenizer(), "damaged")
    assert adapter.factored, adapter.notes
    logits = adapter.predict(torch.arange(60, 70)[None]).logits(slice(None))
    assert not logits.isfinite().all()


def test_a_model_that_sees_the_future_is_refused_though_a_token_is_ruled_out() -> None:
    """Equal infinities and NaN hide no other change."""
    model = tiny_bert()
    with torch.no_grad():
        model.get_output_embeddings().bias[3] = -torch.inf
        model.get_output_embeddings().bias[4] = torch.nan
    with pytest.raises(InvalidValueError, match=r"is not a causal .* \(by [0-9.]+e[+-][0-9]+ of"):
        HuggingFaceModel.wrap(model, tokenizer(), "bert")


def test_a_tokenizer_of_few_ids_is_doubted() -> None:
    """One with less than half of the model's ids gets a note, one with half of them none."""
    (note,) = HuggingFaceModel.wrap(llama(), tokenizer(47), "tiny").notes
    assert all(name in note for name in ("tiny", "47 ids", "predicts 96"))
    assert HuggingFaceModel.wrap(llama(), tokenizer(48), "tiny").notes == ()
    assert len(HuggingFaceModel.wrap(llama(), tokenizer(1), "tiny").notes) == 1


def test_a_tokenizer_without_ids_is_refused() -> None:
    """There is nothing to read with."""
    with pytest.raises(InvalidValueError, match="the tokenizer of tiny has no tokens"):
        HuggingFaceModel.wrap(llama(), tokenizer(0), "tiny")


def test_a_tokenizer_that_begins_texts_with_an_id_of_no_row_is_refused() -> None:
    """The message names the token and the rows."""
    pieces = [bytes([i]) for i in range(97)]
    other = TextTokenizer.from_pieces(pieces, lambda text, how: [], {}, (96, True), None, "")
    with pytest.raises(InvalidValueError, match=r"the token 96 and the model has 96 of them"):
        HuggingFaceModel.wrap(llama(), other, "tiny")


def tiny_bert() -> BertLMHeadModel:
    """An encoder loaded as a language model."""
    config = BertConfig(
        vocab_size=V,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    torch.manual_seed(0)
    return BertLMHeadModel(config)


def test_a_model_that_sees_the_future_is_refused() -> None:
    """An encoder loaded as a language model (BERT) would be scored on tokens that it has read."""
    with pytest.raises(InvalidValueError, match="not a causal language model"):
        HuggingFaceModel.wrap(tiny_bert(), tokenizer(), "bert")


def test_the_context_is_a_limit_that_is_named() -> None:
    """Inputs longer than the context are refused; a model without one (Bloom) takes any length."""
    adapter = HuggingFaceModel.wrap(llama(), tokenizer(), "tiny")
    assert adapter.context == 64
    with pytest.raises(InvalidValueError, match=r"65 positions: tiny reads at most 64"):
        adapter.predict(torch.zeros(1, 65, dtype=torch.int64))
    assert HuggingFaceModel.wrap(random_model("Bloom"), tokenizer(), "b").context is None


def test_padding_on_the_right_changes_nothing() -> None:
    """Predictions at a position do not depend on what follows."""
    adapter = HuggingFaceModel.wrap(llama(), tokenizer(), "tiny")
    inputs = torch.arange(12)[None]
    padded = torch.cat([inputs, torch.zeros(1, 5, dtype=torch.int64)], dim=1)
    logits = adapter.predict(inputs).logits(slice(None))
    assert torch.allclose(adapter.predict(padded).logits(slice(0, 12)), logits, atol=1e-5)


def test_the_fingerprint_is_that_of_the_weights() -> None:
    """Equal weights agree, a changed one differs, and the digest is computed once."""
    adapter, twin = (HuggingFaceModel.wrap(llama(), tokenizer(), name) for name in "ab")
    assert adapter.weights_fingerprint() == twin.weights_fingerprint()
    assert len(adapter.weights_fingerprint()) == 64
    changed = llama()
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    other = HuggingFaceModel.wrap(changed, tokenizer(), "c")
    assert other.weights_fingerprint() != adapter.weights_fingerprint()


def test_a_copy_of_the_model_computes_with_its_own_weights() -> None:
    """The faster linear layers of a deep copy belong to the copy."""
    adapter = HuggingFaceModel.wrap(llama(), tokenizer(), "tiny")
    inputs = torch.arange(8)[None]
    before = adapter.predict(inputs).logits(slice(None))
    copied = copy.deepcopy(adapter.model)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.zero_()
    assert torch.equal(adapter.predict(inputs).logits(slice(None)), before)
    assert own_logits(copied, inputs).abs().max() == 0


@pytest.mark.usefixtures("without_amx")
def test_bfloat16_models_attend_faster_with_the_same_noise() -> None:
    """On a CPU the written-out attention is used, as close to float32 as the fused kernel."""
    model = random_model("Llama")
    inputs = torch.randint(V, (2, 60), generator=torch.Generator().manual_seed(1))
    exact = own_logits(model, inputs)
    model = model.to(torch.bfloat16)
    fused = (own_logits(model, inputs) - exact).abs().mean()
    adapter = HuggingFaceModel.wrap(model, tokenizer(), "tiny")
    assert adapter.layers.has_attention
    assert (adapter.predict(inputs).logits(slice(None)) - exact).abs().mean() < 1.1 * fused


@pytest.mark.usefixtures("without_amx")
def test_layers_with_a_mask_keep_torchs_attention() -> None:
    """A sliding window is honoured in bfloat16 too."""
    model = random_model("Mistral")
    inputs = torch.randint(V, (1, 40), generator=torch.Generator().manual_seed(1))
    exact = own_logits(model, inputs)
    adapter = HuggingFaceModel.wrap(model.to(torch.bfloat16), tokenizer(), "tiny")
    logits = adapter.predict(inputs).logits(slice(None))
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_random_model_is_refused(tmp_path):
    """Code of its own may leave dropout on, which evaluation mode does not turn off."""
    model, tokenizer = _pair(tmp_path)
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden: torch.nn.functional.dropout(forward(hidden), 0.1, training=True)
    with pytest.raises(InvalidValueError, match=r"is random: .* a second time"):
        HuggingFaceModel.wrap(model, tokenizer, "mine")


def test_dropout_of_training_reaches_no_number(tmp_path):
    """Whatever the configuration says, and in training mode as given: two runs, the same bits."""
    model, tokenizer = _pair(tmp_path, attention_dropout=0.5)
    model.train()
    logits = [
        HuggingFaceModel.wrap(model, tokenizer, "mine")
        .predict(torch.arange(9)[None])
        .logits(slice(0, 9))
        for _ in range(2)
    ]
    assert torch.equal(*logits)


def test_ids_without_a_row_that_no_text_uses_are_a_note(tmp_path):
    """A pad token beyond the embeddings, for example."""
    model, _ = _pair(tmp_path)
    stored = Tokenizer.from_file(str(tmp_path / "tiny" / "tokenizer.json"))
    stored.add_special_tokens(["<pad>"])
    wrapped = HuggingFaceModel.wrap(model, TextTokenizer(stored), "mine")
    (note,) = wrapped.notes
    assert "257 ids and the model 256" in note
    assert len(wrapped.tokenizer.encode("a<pad>")) == 6
    with pytest.raises(InvalidValueError, match=r"'<pad>' at byte 1 .* token 256"):
        wrapped.tokenizer.encode("a<pad>", special_tokens="tokens")


def _pair(folder, **changes):
    """A random Llama that reads bytes, with changes of its configuration, and its tokenizer."""
    source = tiny_llama(folder / "tiny")
    model = AutoModelForCausalLM.from_pretrained(source, **changes)
    return model, TextTokenizer.load(source)
