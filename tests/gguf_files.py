"""Small GGUF files: of models that transformers made, of vocabularies alone, and split ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedModel

Value = bool | int | float | str | Sequence[str] | Sequence[float] | Sequence[int]

CONTROL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL


def gguf_of(
    path: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    architecture: str = "llama",
    entries: Mapping[str, Value | None] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    split_max_tensors: int = 0,
    quantised: bool = False,
) -> Path:
    """Write `model` with a byte-level `tokenizer`, and return the path.

    In float32, or its matrices in Q8_0 if `quantised`.
    Its tensors have the names that `gguf` maps those of transformers to; those of Llama are
    permuted, and the norms of Gemma and Nemotron are raised by 1, as llama.cpp's converter does.
    `entries` without a dot before the first name are the architecture's own ("rope.scaling.type");
    None leaves one out.
    With `split_max_tensors` the file is split, and the path is that of the first part.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_max_tensors)
    if "general.name" not in (entries or {}):
        writer.add_name("tiny")
    for key, value in {**sizes_of(model), **(entries or {})}.items():
        if value is None:
            continue
        general = key.startswith(("general.", "tokenizer.", "quantize.", f"{architecture}."))
        add_entry(writer, key if general else f"{architecture}.{key}", value)
    add_byte_level(writer, tokenizer, model.config.vocab_size, {*(entries or ())})
    for name, values in (tensors_of(model, architecture) | dict(tensors or {})).items():
        if quantised and values.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    return write_file(writer, path)


def gguf_vocabulary(
    path: Path, tokens: Sequence[str], entries: Mapping[str, Value], architecture: str = "llama"
) -> Path:
    """Write a file with a vocabulary and without tensors, and return the path.

    llama.cpp opens it with `vocab_only`.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(list(tokens))
    for key, value in entries.items():
        add_entry(writer, key, value)
    return write_file(writer, path)


def add_entry(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    """Add an entry of the type that llama.cpp's converter uses for such a value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def add_byte_level(
    writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int, given: set[str]
) -> None:
    """Add the vocabulary and the merges of a byte-level tokenizer, padded to `size` tokens."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    types = [CONTROL if token in special else NORMAL for token in tokens]
    padding = range(len(tokens), size)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_list([*tokens, *(f"[PAD{i}]" for i in padding)])
    writer.add_token_types([*types, *(gguf.TokenType.UNUSED for _ in padding)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for key, value in (("model", "gpt2"), ("pre", "gpt-2")):
        if f"tokenizer.ggml.{key}" not in given:
            add_entry(writer, f"tokenizer.ggml.{key}", value)


def sizes_of(model: PreTrainedModel) -> dict[str, Value]:
    """The entries that say the sizes of a model."""
    config = model.config
    # Of Gemma 3 those of the layers that attend to everything.
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    entries: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    if hasattr(config, "rms_norm_eps"):
        entries["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return entries | {"rope.dimension_count": head_dim}


def tensors_of(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """The weights by their names in the file."""
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    heads = {
        "q": model.config.num_attention_heads,
        "k": model.config.num_key_value_heads,
    }
    tensors = {}
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        if architecture == "llama" and ".attn_q" in stored:
            values = _permuted(values, heads["q"])
        elif architecture == "llama" and ".attn_k" in stored:
            values = _permuted(values, heads["k"])
        elif architecture.startswith(("gemma", "nemotron")) and stored.endswith("norm.weight"):
            values = values + 1
        tensors[stored] = values
    return tensors


def _permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key matrix in the order that llama.cpp rotates them."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def write_file(writer: gguf.GGUFWriter, path: Path) -> Path:
    """Write what was added, and return the path of the file or of its first part."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # The writer names the parts of a split file itself.
    return next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))), path)
