"""GGUF files through transformers: the same predictions as the folder with the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from gguf_files import Value, gguf_of
from kullback.errors import InvalidValueError
from kullback.models.gguf_in_transformers import loading_options
from kullback.models.load import load_text_model
from llama_cpp_oracle import needs_llama_cpp

IDS = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(3))
SIZES = {
    "vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
THETA = 10_000.0


def tiny(kind: str, **changes: Any) -> transformers.PreTrainedModel:
    """A random model of `kind`, such as "Llama"."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:  # which are all ones or zeros
            torch.nn.init.normal_(weight, mean=weight.mean().item(), std=0.1)
    return model


def byte_tokenizer() -> Tokenizer:
    """A token a byte, and one of two."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def written(
    path: Path,
    model: transformers.PreTrainedModel,
    architecture: str = "llama",
    entries: Mapping[str, Value | None] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """The model in a file."""
    return gguf_of(path, model, byte_tokenizer(), architecture, entries, tensors)


def difference(
    path: Path, model: transformers.PreTrainedModel, backend: str = "transformers"
) -> float:
    """The largest between the logits of the file and those of the model, over the largest logit."""
    with torch.inference_mode():
        right = model(IDS).logits[0]
        ours = load_text_model(f"{path}@{backend}").predict(IDS).logits(slice(None))
    return float((ours - right).abs().max() / right.abs().max())


def message_of(path: Path) -> str:
    """The one sentence about a file that is refused."""
    with pytest.raises(InvalidValueError) as caught:
        load_text_model(f"{path}@transformers")
    message = str(caught.value)
    assert "\n" not in message
    assert "pip install 'kullback[gguf]'" in message
    return message


def llama3_factors(width: int, factor: float, low: float, high: float, context: int) -> np.ndarray:
    """What the frequencies of Llama 3.1 are divided by."""
    factors = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * THETA ** (i / width)
        smooth = min(max((context / wavelength - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


SCALING: dict[str, tuple[dict[str, Any], dict[str, Value], dict[str, np.ndarray]]] = {
    "none": ({"rope_type": "default"}, {}, {}),
    "base": ({"rope_type": "default", "rope_theta": 500.0}, {}, {}),
    "linear": (
        {"rope_type": "linear", "factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {},
    ),
    "old linear": ({"rope_type": "linear", "factor": 4.0}, {"rope.scale_linear": 4.0}, {}),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
        },
        {},
    ),
    "llama3": (
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {},
        {"rope_freqs.weight": llama3_factors(8, 8.0, 1.0, 4.0, 32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("scaling", SCALING)
def test_every_kind_of_rope_scaling_is_applied(tmp_path: Path, scaling: str) -> None:
    """By its type, its old name, and a tensor of factors."""
    parameters, entries, tensors = SCALING[scaling]
    model = tiny("Llama", rope_parameters={"rope_theta": THETA, **parameters})
    path = written(tmp_path / "m.gguf", model, entries=entries, tensors=tensors)
    assert difference(path, model) < 1e-5
    if scaling not in ("none", "base"):
        bare = tiny("Llama", rope_parameters={"rope_theta": THETA, "rope_type": "default"})
        assert difference(path, bare) > 1e-3


@needs_llama_cpp
@pytest.mark.parametrize("scaling", SCALING)
def test_llama_cpp_rotates_alike(tmp_path: Path, scaling: str) -> None:
    """The independent program on the same file, but for its cache of 16-bit keys and values."""
    parameters, entries, tensors = SCALING[scaling]
    model = tiny("Llama", rope_parameters={"rope_theta": THETA, **parameters})
    path = written(tmp_path / "m.gguf", model, entries=entries, tensors=tensors)
    assert difference(path, model, "llama.cpp") < 5e-3


def test_longrope_takes_the_short_factors_up_to_the_original_length(tmp_path: Path) -> None:
    """Phi-3's, with llama.cpp's attention factor."""
    short, long = [1.0, 1.5, 2.0, 3.0], [1.0, 3.0, 5.0, 9.0]
    for original in (16, 48):
        model = tiny(
            "Phi3",
            rope_parameters={
                "rope_type": "longrope", "rope_theta": THETA, "short_factor": short,
                "long_factor": long, "original_max_position_embeddings": original,
                "attention_factor": 1.25,
            },
            original_max_position_embeddings=original,
        )  # fmt: skip
        path = written(
            tmp_path / "m.gguf",
            model,
            "phi3",
            {
                "rope.scaling.attn_factor": 1.25,
                "rope.scaling.original_context_length": original,
            },
            {
                "rope_factors_short.weight": np.array(short, np.float32),
                "rope_factors_long.weight": np.array(long, np.float32),
            },
        )
        assert difference(path, model) < 1e-5


@pytest.mark.parametrize(
    ("kind", "architecture", "changes", "entries"),
    [
        ("Llama", "llama", {"rms_norm_eps": 0.1}, {}),
        ("Qwen3", "qwen3", {"head_dim": 16},
         {"attention.key_length": 16, "attention.value_length": 16}),
        ("Qwen3", "qwen3", {"head_dim": 8}, {}),
        ("Qwen2", "qwen2", {}, {}),
        (
            "Gemma2", "gemma2",
            {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5,
             "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
            {"attention.key_length": 16, "attention.value_length": 16,
             "attention.sliding_window": 5, "attn_logit_softcapping": 2.0,
             "final_logit_softcapping": 3.0},
        ),
        ("StableLm", "stablelm", {"layer_norm_eps": 0.1, "use_qkv_bias": True}, {
            "attention.layer_norm_epsilon": 0.1, "use_parallel_residual": False,
            "rope.dimension_count": 2, "rope.freq_base": 10_000.0}),
        ("Starcoder2", "starcoder2", {"norm_epsilon": 0.1}, {"attention.layer_norm_epsilon": 0.1}),
        ("Nemotron", "nemotron", {"norm_eps": 0.1}, {
            "attention.layer_norm_epsilon": 0.1, "rope.dimension_count": 4}),
    ],
)  # fmt: skip
def test_other_entries_reach_the_model(
    tmp_path: Path,
    kind: str,
    architecture: str,
    changes: dict[str, Any],
    entries: dict[str, Value],
) -> None:
    """Norm epsilon, widths of heads, soft-caps, windows, parts of a head that are rotated."""
    model = tiny(kind, **changes)
    assert difference(written(tmp_path / "m.gguf", model, architecture, entries), model) < 1e-5


#: By kind, beyond the sizes: as many key heads as heads, which the default is not.
MANY_KEY_HEADS: dict[str, tuple[str, dict[str, Any], dict[str, Value | None]]] = {
    "Llama": ("llama", {}, {}),
    "Mistral": ("llama", {}, {}),
    "Qwen2": ("qwen2", {}, {}),
    "Qwen3": ("qwen3", {"head_dim": 8}, {}),
    "Phi3": ("phi3", {}, {}),
    "Gemma2": (
        "gemma2",
        {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5},
        {"attention.sliding_window": 5},
    ),
    "StableLm": (
        "stablelm",
        {"use_qkv_bias": True},
        {"attention.layer_norm_epsilon": 1e-5, "rope.dimension_count": 2},
    ),
    "Starcoder2": ("starcoder2", {}, {"attention.layer_norm_epsilon": 1e-5}),
    "Nemotron": (
        "nemotron", {}, {"attention.layer_norm_epsilon": 1e-5, "rope.dimension_count": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("Llama", "Qwen2") else pytest.mark.slow)
        for kind in MANY_KEY_HEADS
    ],
)
def test_without_a_number_of_key_heads_there_are_as_many_as_heads(
    tmp_path: Path, kind: str
) -> None:
    """As in files of Llama 1, whose keys and queries are stored in another order."""
    architecture, changes, entries = MANY_KEY_HEADS[kind]
    model = tiny(kind, num_key_value_heads=4, **changes)
    without = {**entries, "attention.head_count_kv": None}
    path = written(tmp_path / "m.gguf", model, architecture, without)
    assert difference(path, model) < 1e-5


@pytest.mark.parametrize(
    ("kind", "architecture", "key"),
    [
        *(("Llama", "llama", key) for key in (
            "attention.layer_norm_rms_epsilon", "attention.head_count", "context_length",
            "embedding_length", "block_count")),
        ("Starcoder2", "starcoder2", "attention.layer_norm_epsilon"),
    ],
)  # fmt: skip
def test_an_entry_that_llama_cpp_needs_is_missed(
    tmp_path: Path, kind: str, architecture: str, key: str
) -> None:
    """It is not silently that of another model."""
    path = written(tmp_path / "m.gguf", tiny(kind), architecture, {key: None})
    with pytest.raises(InvalidValueError, match=f"lacks {architecture}.{key}"):
        load_text_model(f"{path}@transformers")


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"attention.scale": 0.5}, "attention.scale = 0.5"),
        ({"logit_scale": 8.0}, "logit_scale = 8.0"),
        ({"embedding_scale": 12.0}, "embedding_scale"),
        ({"residual_scale": 0.2}, "residual_scale"),
        ({"attention.sliding_window": 8}, "attention.sliding_window = 8"),
        ({"expert_count": 8, "expert_used_count": 2}, "expert_count"),
        ({"expert_weights_norm": True}, "expert_weights_norm"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ({"attention.key_length": 16}, "rope.dimension_count = 8"),
        ({"attention.value_length": 4}, "attention.value_length"),
        ({"attention.causal": False}, "attention.causal"),
        ({"rope.dimension_count": 4}, "rope.dimension_count"),
        ({"rope.scaling.type": "zork"}, "rope.scaling.type = 'zork'"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": "4"}, "rope.scaling.factor"),
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.yarn_log_multiplier": 0.1},
            "rope.scaling.yarn_log_multiplier = 0.1",
        ),
        ({"rope.zork": 1}, "rope.zork"),
        ({"rope.freq_base_swa": 1.0}, "rope.freq_base_swa"),
        ({"zork": 1.0}, "llama.zork = 1.0"),
        ({"block_count": "2"}, "block_count"),
        ({"feed_forward_length": [48, 40]}, "feed_forward_length = (48, 40)"),
    ],
)
def test_an_entry_that_transformers_does_not_apply_is_refused(
    tmp_path: Path, entries: dict[str, Value], word: str
) -> None:
    """By its name and value, with what applies it."""
    model = tiny("Llama")
    path = written(tmp_path / "m.gguf", model, entries=entries)
    assert word in message_of(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"attention.scale": 1 / math.sqrt(8), "logit_scale": 1.0, "expert_count": 0},
        {"attention.sliding_window": 64, "attention.causal": True, "rope.scaling.finetuned": True},
        {"tensor_data_layout": "Meta AI original pth", "pooling_type": 0},
        {"general.zork": 1, "quantize.imatrix.file": "x"},
    ],
)
def test_entries_that_change_nothing_are_read_over(
    tmp_path: Path, entries: dict[str, Value]
) -> None:
    """Neutral values, and what does not describe the model."""
    model = tiny("Llama")
    assert difference(written(tmp_path / "m.gguf", model, entries=entries), model) < 1e-5


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "zork.weight"])
def test_a_tensor_without_a_place_is_refused(tmp_path: Path, name: str) -> None:
    """It is not dropped."""
    path = written(
        tmp_path / "m.gguf", tiny("Llama"), tensors={name: np.ones(32, dtype=np.float32)}
    )
    assert name in message_of(path)
    ours = tmp_path / "factors.gguf"
    written(ours, tiny("Llama"), tensors={"rope_freqs.weight": np.ones(4, dtype=np.float16)})
    assert "rope.scaling.type" in message_of(ours)


def test_a_split_file_is_refused_and_a_file_that_is_no_model(tmp_path: Path) -> None:
    """transformers reads one part; an adapter has a general.type of its own."""
    path = gguf_of(tmp_path / "m.gguf", tiny("Llama"), byte_tokenizer(), split_max_tensors=9)
    message = message_of(path)
    assert "parts" in message
    assert "llama-gguf-split --merge" in message
    adapter = written(tmp_path / "adapter.gguf", tiny("Llama"), entries={"general.type": "adapter"})
    with pytest.raises(InvalidValueError, match="adapter"):
        load_text_model(f"{adapter}@transformers")


def test_a_name_that_transformers_takes_for_an_architecture_is_refused(tmp_path: Path) -> None:
    """It has no tensors of that one."""
    path = written(tmp_path / "m.gguf", tiny("Llama"), entries={"general.name": "mistral"})
    assert "general.name = 'mistral'" in message_of(path)


def test_weights_are_dequantised_where_kernels_are_there(tmp_path: Path) -> None:
    """Transformers would leave them packed where the package kernels is installed."""
    assert loading_options("m.gguf")["quantization_config"].dequantize is True
    model = tiny("Llama", intermediate_size=64)
    path = gguf_of(tmp_path / "m.gguf", model, byte_tokenizer(), quantised=True)
    assert 1e-4 < difference(path, model) < 0.1
