"""Tokenizers and text: from what people write to token ids, and back.

A source's vocabulary becomes a word-level tokenizer whose ids are the source's; a text gets a
byte-level BPE trained on it (Sennrich et al. 2016), which can encode anything.  Both are Hugging
Face `tokenizers`, saved as ``tokenizer.json``, so every tool that reads those reads ours.

:class:`TextTokenizer` is how a model reads text that is to be measured: ids, and for each the bytes
of the text that it stands for.  The text is data: "<|endoftext|>" written in it is read as those 13
characters, never as the special token, which no author typed and whose surprisal is not theirs.

Axes: n tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kullback.errors import InvalidValueError
from kullback.text.byte_spans import ALPHABET, bytes_of_token, spans_from_offsets, spans_from_pieces
from kullback.text.special_tokens import BOS, EOS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Encoding",
    "TextTokenizer",
    "read_texts",
    "tokenizer_config",
    "train_tokenizer",
    "word_tokenizer",
]


@dataclass(frozen=True, eq=False)
class Encoding:
    """A text as a model reads it."""

    ids: Int[np.ndarray, "n"]
    byte_spans: Int[np.ndarray, "n 2"]
    """Where each token begins and ends in the text's UTF-8 bytes: a partition, in order."""

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A tokenizer that knows which bytes of the text each token stands for.

    Build it with `load` or `from_transformers`, or from a `tokenizers.Tokenizer` and the names of
    its special tokens, where it has them.

    >>> vocabulary = [BOS, EOS, "ayer", "comió"]
    >>> tokenizer = TextTokenizer(word_tokenizer(vocabulary), BOS, EOS)
    >>> encoding = tokenizer.encode("ayer comió")
    >>> encoding.ids.tolist(), encoding.byte_spans.tolist(), tokenizer.adds_bos
    ([2, 3], [[0, 4], [4, 11]], True)
    """

    bos_id: int | None
    """The token that begins a text, or None."""
    eos_id: int | None
    """The token that ends a text, or None."""
    adds_bos: bool
    """Whether the tokenizer's own configuration puts `bos_id` in front of a text."""
    vocabulary_size: int
    """1 + the largest id, special and added tokens included."""
    fingerprint: str
    """SHA-256 of the serialised tokenizer and its special tokens, in hexadecimal."""
    special_strings: tuple[str, ...]
    """How the special tokens are written; in a text they are read as plain characters."""

    def __init__(
        self, tokenizer: Tokenizer, bos_token: str | None = None, eos_token: str | None = None
    ) -> None:
        # A copy: these settings are not for the caller's.
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        serialised = tokenizer.to_str()
        tokenizer.encode_special_tokens = True
        description = json.loads(serialised)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self.special_strings = tuple(token.content for token in added.values() if token.special)
        self._take(vocabulary, serialised, bos_token, eos_token)
        self._byte_level = '"ByteLevel"' in json.dumps(
            [description[part] for part in ("normalizer", "pre_tokenizer", "decoder")]
        )
        self._unknown_id = _unknown_id(description["model"], vocabulary)
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self._knows_all = _knows_all(description["model"], vocabulary, self._byte_level)
        self._tokenizer: Tokenizer | None = tokenizer
        # Without the offsets in characters, which take as long again as the ids.
        self._ids: Callable[[str], list[int]] = lambda text: (
            tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        )
        probe = _readable(
            tokenizer, set(vocabulary) - {bos_token, eos_token, *self.special_strings}
        )
        self._find_bos(
            tokenizer.encode(probe, add_special_tokens=True).ids,
            tokenizer.encode(probe, add_special_tokens=False).ids,
        )

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """The tokenizer of a model folder: tokenizer.json and, where there is one, its config.

        Whether BOS is put in front is what tokenizer.json does, as for transformers 5.  Raises
        `InvalidValueError` where a file is missing or damaged.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidValueError(
                f"{folder} has no tokenizer.json: a text cannot be read without it; copy it from "
                "the model that this one was made of"
            )
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        # What is wrong with the JSON reaches Python as a bare Exception.
        except Exception as error:
            raise InvalidValueError(f"{path} is damaged: {error}; download it again") from None
        config = _read_object(folder / "tokenizer_config.json")
        special = _read_object(folder / "special_tokens_map.json") | config
        bos, eos = (_content(special.get(key)) for key in ("bos_token", "eos_token"))
        return cls(tokenizer, bos, eos)

    @classmethod
    def from_transformers(cls, tokenizer: PreTrainedTokenizerBase) -> TextTokenizer:
        """The tokenizer of a model that transformers loaded.

        One without a fast implementation is read through its own `encode`; it has no offsets, so
        that its tokens must spell the text byte for byte: `encode` says where they do not.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            return cls(backend, tokenizer.bos_token, tokenizer.eos_token)
        made = cls.__new__(cls)
        vocabulary = {str(token): int(id_) for token, id_ in tokenizer.get_vocab().items()}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        made.special_strings = tuple(token.content for token in added.values() if token.special)
        made._take(
            vocabulary,
            json.dumps([type(tokenizer).__name__, sorted(vocabulary.items())]),
            tokenizer.bos_token,
            tokenizer.eos_token,
        )
        made._byte_level = "Ġ" in vocabulary
        made._unknown_id = tokenizer.unk_token_id
        made._added = {id_: token.content.encode() for id_, token in added.items()}
        made._knows_all = False
        made._tokenizer = None
        made._ids = lambda text: list(
            tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )
        made._find_bos(list(tokenizer.encode("a")), made._ids("a"))
        return made

    def encode(self, text: str) -> Encoding:
        """The ids of a text and the bytes of each; no special token is added.

        Raises `InvalidValueError` where the tokens leave out, or do not tell, a part of the text
        that is not blank, naming the byte and the characters.
        """
        try:
            ids = self._ids(text)
        # A bare Exception, when there is neither a token nor an unknown-word token.
        except Exception as error:
            raise InvalidValueError(f"the tokenizer cannot read the text: {error}") from error
        source = text.encode()
        spans = spans_from_pieces(source, [self._pieces[i] for i in ids])
        if spans is None:
            ids, spans = self._by_offsets(text, ids)
        return Encoding(np.array(ids, dtype=np.int64), spans)

    def token_text(self, token: int) -> str:
        """What people read for a token; "▒" for bytes that are only part of a character."""
        if not 0 <= token < len(self._pieces):
            return ""  # a word that only pads the vocabulary
        return self._pieces[token].decode(errors="replace").replace("\ufffd", "▒")

    def special_strings_in(self, text: str) -> dict[str, int]:
        """How often each special token is written out in the text, where it is."""
        counts = {string: text.count(string) for string in self.special_strings if string}
        return {string: count for string, count in counts.items() if count}

    def _by_offsets(self, text: str, ids: list[int]) -> tuple[list[int], Int[np.ndarray, "n 2"]]:
        if self._tokenizer is None or not self._knows_all:
            read = b"".join(self._pieces[i] for i in ids)
            source = text.encode()
            same = zip(read, source, strict=False)
            at = next((i for i, (a, b) in enumerate(same) if a != b), min(len(read), len(source)))
            raise InvalidValueError(
                f"the tokenizer does not spell the text: at byte {at} it reads "
                f"{read[at : at + 12]!r} for {source[at : at + 12]!r}; remove that from the text, "
                "or use the model's fast tokenizer (tokenizer.json) with a complete vocabulary"
            )
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if self._unknown_id is not None and self._unknown_id in ids:
            start, end = offsets[ids.index(self._unknown_id)]
            raise InvalidValueError(
                f"the tokenizer has no token for {text[start:end][:20]!r} at byte "
                f"{len(text[:start].encode())} of the text: its surprisal cannot be measured; "
                "remove it from the text, or choose a model whose tokenizer knows it (byte-level "
                "ones know all)"
            )
        return ids, spans_from_offsets(text, offsets, [self._pieces[i] for i in ids])

    def _take(
        self, vocabulary: dict[str, int], serialised: str, bos: str | None, eos: str | None
    ) -> None:
        self._vocabulary = vocabulary
        self.vocabulary_size = 1 + max(vocabulary.values(), default=-1)
        self.bos_id, self.eos_id = (
            None if token is None else vocabulary.get(token) for token in (bos, eos)
        )
        parts = json.dumps([serialised, bos, eos], ensure_ascii=False)
        self.fingerprint = hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()

    def _find_bos(self, with_special: list[int], plain: list[int]) -> None:
        n_front = len(with_special) - len(plain)
        adds = n_front > 0 and with_special[:1] != plain[:1]
        if adds and self.bos_id is None:
            # Nobody says what it is called, but it is what texts begin with.
            self.bos_id = with_special[0]
        self.adds_bos = adds and with_special[0] == self.bos_id

    @cached_property
    def _pieces(self) -> list[bytes]:
        pieces = [b""] * self.vocabulary_size
        for token, id_ in self._vocabulary.items():
            pieces[id_] = bytes_of_token(token, self._byte_level)
        for id_, piece in self._added.items():
            pieces[id_] = piece
        return pieces


def _readable(tokenizer: Tokenizer, words: set[str]) -> str:
    """A text that the tokenizer can read: an "a", or where that is no word of it, a word."""
    for probe in ("a", *sorted(words)):
        try:
            if tokenizer.encode(probe, add_special_tokens=False).ids:
                return probe
        # A bare Exception, when there is neither a token nor an unknown-word token.
        except Exception:
            continue
    return ""


def _knows_all(model: dict[str, object], vocabulary: dict[str, int], byte_level: bool) -> bool:
    """Whether no character is left out without a word, after which offsets are wrong.

    A byte-pair model with neither an unknown-word token nor tokens for all bytes does that.
    """
    if model.get("type") != "BPE" or model.get("unk_token") or model.get("byte_fallback"):
        return True
    return byte_level and all(character in vocabulary for character in ALPHABET)


def _unknown_id(model: dict[str, object], vocabulary: dict[str, int]) -> int | None:
    unknown = model.get("unk_id", model.get("unk_token"))
    return vocabulary.get(unknown) if isinstance(unknown, str) else _int_or_none(unknown)


def _int_or_none(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _content(token: object) -> str | None:
    """How a special token is written: configurations hold strings, or objects around them."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read_object(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"{path} is damaged: {error}; download it again") from None
    if not isinstance(data, dict):
        raise InvalidValueError(f"{path} is damaged: it must hold a JSON object")
    return data


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """The tokenizer of a source: words at blanks, ids as in `vocabulary`, `BOS` put in front.

    >>> word_tokenizer([BOS, EOS, "ayer", "comió"]).encode("ayer comió").ids
    [0, 2, 3]
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    _put_bos_in_front(tokenizer)
    return tokenizer


def train_tokenizer(texts: Sequence[str], vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE of `vocabulary_size` entries trained on `texts`, with `BOS` and `EOS`.

    Raises `InvalidValueError` where the size has no room for the 256 bytes and the two specials.
    """
    if vocabulary_size < 258:
        raise InvalidValueError(
            f"vocabulary_size is {vocabulary_size}: a byte-level BPE needs at least 258 "
            "(256 bytes and two special tokens)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    _put_bos_in_front(tokenizer)
    return tokenizer


def tokenizer_config() -> str:
    """The ``tokenizer_config.json`` that tells transformers what the special tokens are."""
    return json.dumps(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "clean_up_tokenization_spaces": False,
        },
        indent=2,
    )


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The documents in `paths`, one a file; unreadable, empty or non-UTF-8 is an error."""
    texts = []
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise InvalidValueError(f"the text {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InvalidValueError(
                f"the text {path} is not UTF-8: byte {error.start} is "
                f"0x{error.object[error.start]:02x}; convert it first (iconv -t utf-8)"
            ) from None
        if not text.strip():
            raise InvalidValueError(f"the text {path} is empty")
        texts.append(text)
    return texts


def _put_bos_in_front(tokenizer: Tokenizer) -> None:
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
