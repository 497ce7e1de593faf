"""A tiny Llama with one token a byte, and a text: what the tests of readings share."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kullback.text.tokenizer import TextTokenizer

TEXT = "A quick brown fox; naïve façade, 42 times.\nNo more. " * 8


def tiny_llama(folder: Path, seed: int = 0, context: int = 64) -> Path:
    """Save a random Llama of 256 words into `folder`, and return it."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


def byte_tokenizer() -> TextTokenizer:
    """Return a tokenizer of the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TextTokenizer(tokenizer)


def llama_and_gguf(folder: Path, seed: int = 0, context: int = 512) -> Path:
    """Save a random Llama with some merges into `folder`, and tiny.gguf of the same weights."""
    from gguf_files import gguf_of

    torch.manual_seed(seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "b"), ("q", "u"), ("m", "e"), ("o", "r")]  # llama.cpp wants at least one
    tokens = [*alphabet, *map("".join, merges)]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=context, initializer_range=0.2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    gguf_of(folder / "tiny.gguf", model, tokenizer)
    return folder


def gguf_header(path: Path, architecture: str) -> Path:
    """Write a file with the first entry of llama.cpp's header and nothing more, and return it."""
    key, value = b"general.architecture", architecture.encode()
    path.write_bytes(
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
        + struct.pack("<Q", len(key)) + key
        + struct.pack("<IQ", 8, len(value)) + value
    )  # fmt: skip
    return path
