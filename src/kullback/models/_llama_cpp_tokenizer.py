"""The tokenizer that llama.cpp has for a file: its own code, on the vocabulary in the file."""

from __future__ import annotations

import ctypes
import hashlib
import json
from ctypes import c_int32
from typing import Any

from kullback.errors import InvalidValueError
from kullback.models._llama_cpp_library import Library
from kullback.models.gguf_file import GGUFFile
from kullback.text.special_spellings import Spelled
from kullback.text.tokenizer import TextTokenizer

__all__ = ["tokenizer_of"]

# llama.h: LLAMA_VOCAB_TYPE_NONE and _BPE, LLAMA_TOKEN_ATTR_CONTROL.
NO_VOCABULARY, BYTE_PAIRS = 0, 2
CONTROL = 1 << 3
# Metadata on which the ids of a text depend, beside the tokens themselves.
KEYS = ("model", "pre", "add_space_prefix", "remove_extra_whitespaces", "add_bos_token")
# Arrays of the header on which they depend, too.
ARRAYS = ("merges", "scores", "precompiled_charsmap")
LONGEST_PIECE = 1 << 16


def tokenizer_of(library: Library, model: Any, header: GGUFFile, owner: object) -> TextTokenizer:
    """llama.cpp's tokenizer of a model; `owner` is kept so that the model is not freed.

    `header` is that of the model's file.

    Raises `InvalidValueError` where the file has no vocabulary.
    """
    c = library.c
    vocabulary = c.llama_model_get_vocab(model)
    kind, size = c.llama_vocab_type(vocabulary), c.llama_vocab_n_tokens(vocabulary)
    if kind == NO_VOCABULARY or size == 0:
        raise InvalidValueError(
            f"the model {header.name} has no tokenizer: choose a file that was converted with one"
        )
    pieces = [_piece(library, vocabulary, token) for token in range(size)]
    attributes = [c.llama_vocab_get_attr(vocabulary, token) for token in range(size)]
    special = {
        token: pieces[token].decode(errors="replace")
        for token in range(size)
        if attributes[token] & CONTROL
    }

    def ids(text: str, special_tokens: Spelled, owner: object = owner) -> list[int]:
        source, parsed = text.encode(), special_tokens == "tokens"
        # Never more tokens than bytes, but for a space that some put before the text.
        buffer = (c_int32 * (len(source) + 2))()
        count = c.llama_tokenize(
            vocabulary, source, len(source), buffer, len(buffer), False, parsed
        )
        if count < 0:  # the size that it needs
            buffer = (c_int32 * -count)()
            count = c.llama_tokenize(
                vocabulary, source, len(source), buffer, len(buffer), False, parsed
            )
        if count < 0:
            raise ValueError(f"llama.cpp gives {-count:,} tokens for {len(source):,} bytes")
        return buffer[:count]

    def special_id(key: str, token: int) -> int | None:
        """Of a byte-pair vocabulary llama.cpp makes up a token where the file names none."""
        named = meta(library, model, f"tokenizer.ggml.{key}_token_id") is not None
        return token if 0 <= token < size and (named or kind != BYTE_PAIRS) else None

    bos_id = special_id("bos", c.llama_vocab_bos(vocabulary))
    adds_bos = bool(c.llama_vocab_get_add_bos(vocabulary))
    eos_id = special_id("eos", c.llama_vocab_eos(vocabulary))
    digest = hashlib.sha256()
    settings = [meta(library, model, f"tokenizer.ggml.{key}") for key in KEYS]
    digest.update(json.dumps(["llama.cpp", kind, settings, bos_id, adds_bos, eos_id]).encode())
    for key in ARRAYS:
        values = header.metadata.get(f"tokenizer.ggml.{key}", ())
        digest.update(f"{key} {values}".encode(errors="surrogateescape"))
    for piece, attribute in zip(pieces, attributes, strict=True):
        digest.update(b"%d %d %b" % (len(piece), attribute, piece))
    return TextTokenizer.from_pieces(
        pieces, ids, special, (bos_id, adds_bos), eos_id, digest.hexdigest()
    )


def meta(library: Library, model: Any, key: str) -> str | None:
    """A scalar of the file's header as text; None where there is none of this name."""
    buffer = ctypes.create_string_buffer(1024)
    size = library.c.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return None if size < 0 else buffer.value.decode(errors="replace")


def _piece(library: Library, vocabulary: Any, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(64)
    size = library.c.llama_token_to_piece(vocabulary, token, buffer, len(buffer), 0, True)
    if size < 0:  # the size that it needs
        buffer = ctypes.create_string_buffer(min(-size, LONGEST_PIECE))
        size = library.c.llama_token_to_piece(vocabulary, token, buffer, len(buffer), 0, True)
    return buffer.raw[: max(size, 0)]
