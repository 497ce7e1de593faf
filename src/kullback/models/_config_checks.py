"""Checks of the sizes in a config.json against the weights beside it, before anything is allocated.

The weights must be on the disk, at half a byte or more each.  So sizes that need far more weights
than the files can hold are damaged, whatever the machine: a vocabulary of 10⁹ tokens in the
configuration of a small model would otherwise be allocated first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["check_sizes"]

# Of the kinds of size, the names that the architectures of transformers give them.
VOCABULARY = ("vocab_size",)
WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "d_ff")
HEADS = ("num_attention_heads", "n_head")
HEAD_WIDTH = ("head_dim",)
COUNTS = (*LAYERS, *HEADS, "num_key_value_heads", "num_experts", "num_local_experts",
          "n_routed_experts")  # fmt: skip
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
# No model has more; the longest contexts are of ten million tokens.
MOST_COUNT, MOST_POSITIONS = 10_000, 1_000_000_000
# Weights a byte: two at four bits each, and as much again for layers that share them.
WEIGHTS_PER_BYTE = 4
# Of small files, whose headers are a large part.
SLACK = 1_000_000
MOST_TOKEN_ID = 10_000_000


def check_sizes(path: Path, config: Mapping[str, object], weight_files: Sequence[Path]) -> None:
    """Raise `InvalidValueError` for sizes in the configuration `path` that its weights cannot have.

    A lower bound on the number of weights is that of the embedding, of one matrix a layer (square,
    or as wide as all heads), and of one matrix of its inner width.  Also for zero heads or
    positions, and for a `pad_token_id` of no vocabulary.  Ids that are only beyond this one are not
    refused: a text need not use them, and GPT-2's default is beyond a small vocabulary.
    """
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        check_sizes(path, inner, weight_files)
    for names, most in ((COUNTS, MOST_COUNT), (POSITIONS, MOST_POSITIONS)):
        for name in names:
            value = config.get(name)
            if isinstance(value, int | float) and value > most:
                raise InvalidValueError(
                    f"{path} is damaged: {name} is {value}, more than {most:,}; download it again"
                )
    for name in (*HEADS, *POSITIONS):
        value = config.get(name)
        if isinstance(value, int | float) and value == 0:
            raise InvalidValueError(
                f"{path} is damaged: {name} is {value}, and must be at least 1; download it again"
            )
    vocabulary, width, layers, middle, heads, head_width = (
        _size(path, config, names)
        for names in (VOCABULARY, WIDTH, LAYERS, INNER, HEADS, HEAD_WIDTH)
    )
    padding = config.get("pad_token_id")
    if isinstance(padding, int) and abs(padding) > MOST_TOKEN_ID:
        raise InvalidValueError(
            f"{path} is damaged: pad_token_id is {padding}, and no vocabulary has more than "
            f"{MOST_TOKEN_ID:,} tokens; download it again, or set it to null"
        )
    weights = vocabulary * width + layers * width * (max(width, heads * head_width) + middle)
    stored = sum(file.stat().st_size for file in weight_files)
    of_heads = f", {heads:,} heads with a head_dim of {head_width:,}" if head_width else ""
    if weights > WEIGHTS_PER_BYTE * stored + SLACK:
        raise InvalidValueError(
            f"{path} asks for at least {weights:,} weights (a vocabulary of {vocabulary:,}, "
            f"{layers:,} layers of width {width:,}{of_heads}), and the files of the weights have "
            f"{stored:,} bytes: one of them is damaged or of another model; download it again"
        )


def _size(path: Path, config: Mapping[str, object], names: Sequence[str]) -> int:
    """The size that the configuration gives under one of the names; 0 where it gives none."""
    for name in names:
        value = config.get(name)
        if value is None or isinstance(value, list):  # some have a size for each layer
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidValueError(
                f"{path} is damaged: {name} is {value!r}, not a whole number of at least 0; "
                "download it again"
            )
        return value
    return 0
