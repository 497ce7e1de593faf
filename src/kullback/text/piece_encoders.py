"""Fast tokenizers of pieces of a corpus: ids only, the same as those of the library.

A byte-level BPE with GPT-2's pre-tokenizer has no token across a place where whitespace follows
another character.  So the text is cut there, each distinct part is encoded once, and the parts'
ids are looked up: about eight times as fast as the library, which encodes every occurrence.  A
tokenizer of characters is a table.  Other tokenizers are left to
`kullback.text.encoded_documents`.

Without torch, so that processes that only encode begin at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.text.byte_spans import ALPHABET

__all__ = ["CHARACTERS", "CharacterEncoder", "PieceEncoder", "WordEncoder", "piece_encoder"]

#: The pre-tokenizer of a tokenizer of characters: each is a word.
CHARACTERS = r"[\s\S]"
# Whitespace, other characters, and on beyond whitespace that only Unicode knows; or the end.
_PART = re.compile(r"\s*\S+(?:[^\S \t\n\r]\s*\S*)*|\s+")
# Entries that are kept, about 200 bytes each, and their longest.
_KEPT = 200_000
_LONGEST = 40


class PieceEncoder(Protocol):
    """Encodes pieces of a corpus that end before whitespace."""

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text, as an array's bytes."""


class _Kept(dict[str, bytes]):
    """Ids of the parts that are kept, and of the other parts of one call."""

    others: dict[str, bytes]

    def __missing__(self, part: str) -> bytes:
        return self.others[part]


class WordEncoder:
    """A byte-level BPE with GPT-2's pre-tokenizer.

    The spelling of a special token is read as its characters.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: DTypeLike) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._dtype = np.dtype(dtype)
        self._kept = _Kept()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text, as an array's bytes."""
        parts = [_PART.findall(text) for text in texts]
        new = [*set().union(*parts).difference(self._kept)]
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        others: dict[str, bytes] = {}
        self._kept.others = others
        for part, encoding in zip(new, encodings, strict=True):
            keep = len(part) <= _LONGEST and len(self._kept) < _KEPT
            (self._kept if keep else others)[part] = np.array(encoding.ids, self._dtype).tobytes()
        ids = self._kept.__getitem__
        return [b"".join(map(ids, of_text)) for of_text in parts]


class CharacterEncoder:
    """A tokenizer whose tokens are single characters."""

    def __init__(self, tokenizer: Tokenizer, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._ids = np.full(0x110000, -1, np.int32)
        for token, id_ in tokenizer.get_vocab(with_added_tokens=True).items():
            if len(token) == 1:
                self._ids[ord(token)] = id_

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text, as an array's bytes.

        Raises `InvalidValueError` naming a character that is not in the vocabulary.
        """
        encoded = []
        for text in texts:
            ids = self._ids[np.frombuffer(text.encode("utf-32-le"), "<u4")]
            if len(ids) and ids.min() < 0:
                unknown = text[int(np.argmax(ids < 0))]
                raise InvalidValueError(
                    f"the tokenizer has no token for {unknown!r} (U+{ord(unknown):04X}), which is "
                    "in the text: remove it from the text, or choose another tokenizer "
                    "(byte-level ones know all)"
                )
            encoded.append(ids.astype(self._dtype).tobytes())
        return encoded


def piece_encoder(tokenizer: Tokenizer, dtype: DTypeLike) -> PieceEncoder | None:
    """The fast encoder of this tokenizer, or None where it has none."""
    description = json.loads(tokenizer.to_str())
    if is_of_characters(description):
        return CharacterEncoder(tokenizer, dtype)
    return WordEncoder(tokenizer, dtype) if _has_gpt2_words(description, tokenizer) else None


def is_of_characters(description: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` is of characters, as `character_tokenizer` makes it."""
    words = description["pre_tokenizer"] or {}
    return (
        description["normalizer"] is None
        and description["model"]["type"] == "WordLevel"
        and words.get("pattern") == {"Regex": CHARACTERS}
    )


def _has_gpt2_words(description: dict[str, Any], tokenizer: Tokenizer) -> bool:
    model, words = description["model"], description["pre_tokenizer"] or {}
    return (
        description["normalizer"] is None
        and words.get("type") == "ByteLevel"
        and not words.get("add_prefix_space")
        and words.get("use_regex", True)
        and model["type"] == "BPE"
        and not model.get("dropout")
        and not any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        and all(character in model["vocab"] for character in ALPHABET)
        # Others are looked for in the whole text.
        and all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    )
