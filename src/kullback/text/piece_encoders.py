"""Fast tokenizers of pieces of a corpus: ids only, the same as those of the library.

A byte-level BPE with GPT-2's pre-tokenizer has no token across a place where whitespace follows
another character.  So the text is cut there into parts (a word with its punctuation, hence one or
more pre-tokens), each distinct part is encoded once, and the parts'
ids are looked up: in Python about eight times as fast as the library, which encodes every
occurrence, more in C (`kullback.text.word_table`).  A tokenizer of
characters is a table.  Other tokenizers are left to `kullback.text.encoded_documents`.

Without torch, so that processes that only encode begin at once.

Axes: n tokens, K texts or parts, P parts that are not in a table.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int
from numpy.typing import DTypeLike
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.text.byte_spans import ALPHABET
from kullback.text.word_table import WordTable, word_library

__all__ = [
    "CHARACTERS",
    "CharacterEncoder",
    "PieceEncoder",
    "TableEncoder",
    "WordEncoder",
    "piece_encoder",
    "table_encoder",
]

#: The pre-tokenizer of a tokenizer of characters: each is a word.
CHARACTERS = r"[\s\S]"
# Whitespace, other characters, and on beyond whitespace that only Unicode knows; or the end.
_PART = re.compile(r"\s*\S+(?:[^\S \t\n\r]\s*\S*)*|\s+")
# Entries that are kept, about 150 bytes each in each of several processes, and their longest.
_KEPT = 130_000
_LONGEST = 40
# Bytes, or characters, that the library encodes at a time: it takes about 250 bytes of memory for
# each.
_AT_ONCE = 1 << 15


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
        self._tokenizer = _reading_all(tokenizer)
        self._dtype = np.dtype(dtype)
        self._kept = _Kept()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text, as an array's bytes."""
        parts = [_PART.findall(text) for text in texts]
        new = [*set().union(*parts).difference(self._kept)]
        others: dict[str, bytes] = {}
        self._kept.others = others
        for begin, end in _portions([len(part) for part in new]):
            some = new[begin:end]
            encodings = self._tokenizer.encode_batch_fast(some, add_special_tokens=False)
            for part, encoding in zip(some, encodings, strict=True):
                keep = len(part) <= _LONGEST and len(self._kept) < _KEPT
                ids = np.array(encoding.ids, self._dtype).tobytes()
                (self._kept if keep else others)[part] = ids
        ids_of = self._kept.__getitem__
        return [b"".join(map(ids_of, of_text)) for of_text in parts]


class TableEncoder:
    """As `WordEncoder`, by a table in C; several threads may encode at once.

    A table that is full is replaced by an empty one, so that the words of another language are
    kept, too.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: DTypeLike, library: ctypes.CDLL) -> None:
        self._tokenizer = _reading_all(tokenizer)
        self._dtype, self._library = np.dtype(dtype), library
        self._table = WordTable(library, dtype)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text, as an array's bytes."""
        contents = [text.encode() for text in texts]
        content = b"".join(contents)
        ends_K = np.cumsum([len(text) for text in contents], dtype=np.int64)
        ids_n, counts_K, missing_P4 = self._table.find(content, ends_K)
        if len(missing_P4):
            begins_P, ends_P, before_P, text_P = missing_P4.T
            parts = [
                content[begin:end]
                for begin, end in zip(begins_P.tolist(), ends_P.tolist(), strict=True)
            ]
            new_ids, counts_P = self._ids_of(parts)
            ids_n = np.insert(ids_n, np.repeat(before_P, counts_P), new_ids)
            np.add.at(counts_K, text_P, counts_P)
        stored = ids_n.tobytes()
        bytes_K = np.cumsum(counts_K) * self._dtype.itemsize
        edges = [0, *bytes_K.tolist()]
        return [stored[begin:end] for begin, end in pairwise(edges)]

    def _ids_of(self, parts: Sequence[bytes]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "P"]]:
        """The ids of parts by the library, and how many each has; they are kept."""
        places = {part: place for place, part in enumerate(dict.fromkeys(parts))}
        distinct = [*places]
        some_ids, some_counts = [], []
        for begin, end in _portions([len(part) for part in distinct]):
            encodings = self._tokenizer.encode_batch_fast(
                [part.decode() for part in distinct[begin:end]], add_special_tokens=False
            )
            ids = [encoding.ids for encoding in encodings]
            some_counts.append(np.fromiter(map(len, ids), np.int64, len(ids)))
            total = int(some_counts[-1].sum())
            some_ids.append(np.fromiter(chain.from_iterable(ids), self._dtype, total))
        ids_n, counts_K = np.concatenate(some_ids), np.concatenate(some_counts)
        table = self._table
        if not table.add(distinct, ids_n, counts_K) and table is self._table:
            self._table = WordTable(self._library, self._dtype)
        place_P = np.fromiter(map(places.__getitem__, parts), np.int64, len(parts))
        counts_P = counts_K[place_P]
        first_P = (np.cumsum(counts_K) - counts_K)[place_P]
        shift_P = first_P - (np.cumsum(counts_P) - counts_P)
        return ids_n[np.repeat(shift_P, counts_P) + np.arange(counts_P.sum())], counts_P


def _portions(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and end of consecutive parts of these sizes that the library encodes together."""
    total_K = np.cumsum(sizes)
    cuts = (1 + np.flatnonzero(np.diff(total_K // _AT_ONCE))).tolist()
    return pairwise([0, *cuts, len(sizes)])


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


def table_encoder(tokenizer: Tokenizer, dtype: DTypeLike) -> TableEncoder | None:
    """The encoder in C; None where it is not for this tokenizer, or cannot be compiled."""
    if not _has_gpt2_words(json.loads(tokenizer.to_str()), tokenizer):
        return None
    library = word_library()
    if library is None:
        return None
    try:
        return TableEncoder(tokenizer, dtype, library)
    except MemoryError:
        return None


def is_of_characters(description: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` is of characters, as `character_tokenizer` makes it."""
    words = description["pre_tokenizer"] or {}
    return (
        description["normalizer"] is None
        and description["model"]["type"] == "WordLevel"
        and words.get("pattern") == {"Regex": CHARACTERS}
    )


def _reading_all(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that reads all of a text, and the spelling of a special token as its characters."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    return copy


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
