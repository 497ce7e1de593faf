"""Tokenizers for text that is measured: ids, and the bytes of the text that each token covers.

The text is data: by default "<|endoftext|>" in it is read as those 13 characters, not as the
special token, which no author typed.  `special_tokens="tokens"` reads it as the token, as most
libraries do.  Nothing is random: BPE dropout (Provilkov et al. 2020), which a tokenizer.json may
leave on, is turned off.

Axes: n tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.text.byte_spans import bytes_of_token, spans_from_offsets, spans_from_pieces
from kullback.text.special_spellings import Spelled
from kullback.text.tokenizer_file import (
    HARD_STRINGS,
    MOST_TOKENS,
    copied,
    described,
    encodable_text,
    fingerprint_of,
    knows_all,
    read_tokenizer,
    remove_dropout,
    unknown_id,
    word_without_token,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoding", "TextTokenizer"]


@dataclass(frozen=True, eq=False)
class Encoding:
    """The tokens of a text."""

    ids: Int[np.ndarray, "n"]
    byte_spans: Int[np.ndarray, "n 2"]
    """The first byte of each token in the text's UTF-8, and one after its last: in order, a
    partition of the text."""

    def __len__(self) -> int:
        return len(self.ids)

    def spans(self, begin: int, end: int) -> Int[np.ndarray, "m 2"]:
        """The spans of the tokens from `begin` to before `end`."""
        return self.byte_spans[begin:end]

    def ends_of(self, tokens: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
        """The byte after each of these tokens; 0 for token -1."""
        ends: Int[np.ndarray, "m"] = np.concatenate([self.byte_spans[:, 1], [0]])[tokens]
        return ends


class TextTokenizer:
    """A tokenizer that gives the bytes of the text that each token covers.

    Create it with `load` or `from_transformers`, or from a `tokenizers.Tokenizer` and the names of
    its special tokens, if it has any.

    >>> from kullback.text.special_tokens import BOS, EOS
    >>> from kullback.text.tokenizer_training import word_tokenizer
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
    """Whether the tokenizer's own configuration begins a text with `bos_id`."""
    vocabulary_size: int
    """1 + the largest id, special and added tokens included."""
    fingerprint: str
    """SHA-256 of the serialised tokenizer and its special tokens, in hexadecimal."""
    special_strings: tuple[str, ...]
    """The special tokens as text."""
    notes: tuple[str, ...] = ()
    """Sentences that the user should read."""
    rows: int | None = None
    """The ids that the model has a row for are those below it; None where it has all."""
    normalizer: Any = None
    """Of `tokenizers`: what changes a text before it is cut, or None."""

    def __init__(
        self, tokenizer: Tokenizer, bos_token: str | None = None, eos_token: str | None = None
    ) -> None:
        tokenizer = copied(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if dropout := remove_dropout(tokenizer):
            self.notes = (
                f"the tokenizer has a BPE dropout of {dropout:g}, which is for training and makes "
                "tokens random: the text was read without it",
            )
        serialised = tokenizer.to_str()
        tokenizer.encode_special_tokens = True
        description = described(serialised)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self.special_strings = tuple(token.content for token in added.values() if token.special)
        self._set_vocabulary(vocabulary, serialised, bos_token, eos_token)
        self._byte_level = '"ByteLevel"' in json.dumps(
            [description[part] for part in ("normalizer", "pre_tokenizer", "decoder")]
        )
        self._unknown_id = unknown_id(description["model"], vocabulary)
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self._knows_all = knows_all(description["model"], vocabulary, self._byte_level)
        self._tokenizers: dict[Spelled, Tokenizer] = {"text": tokenizer}
        self.normalizer = tokenizer.normalizer
        self._lock = Lock()
        self._slow: Callable[[str, Spelled], list[int]] | None = None
        special = {bos_token, eos_token, *self.special_strings}
        probe = encodable_text(tokenizer, set(vocabulary) - special)
        self._find_bos(
            tokenizer.encode(probe, add_special_tokens=True).ids,
            tokenizer.encode(probe, add_special_tokens=False).ids,
        )

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """The tokenizer of a model folder: tokenizer.json and, where there is one, its config.

        Whether a text begins with BOS is what tokenizer.json does, as in transformers 5.  Raises
        `InvalidValueError` where a file is missing or damaged.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise InvalidValueError(
                f"{folder} has no tokenizer.json, which reading a text needs: copy it from the "
                "model that this one is derived from"
            )
        try:
            tokenizer = read_tokenizer(path)
        except OSError as error:
            raise InvalidValueError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise InvalidValueError(f"{path} is damaged: {error}; download it again") from None
        config = _read_object(folder / "tokenizer_config.json")
        special = _read_object(folder / "special_tokens_map.json") | config
        bos, eos = (_content(special.get(key)) for key in ("bos_token", "eos_token"))
        return cls(tokenizer, bos, eos)

    @classmethod
    def from_transformers(cls, tokenizer: PreTrainedTokenizerBase) -> TextTokenizer:
        """The tokenizer of a model that transformers loaded.

        A tokenizer without a fast implementation has no offsets, so its tokens must spell the text
        byte for byte: `encode` raises an error where they do not.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            return cls(backend, tokenizer.bos_token, tokenizer.eos_token)
        wrapped = cls.__new__(cls)
        vocabulary = {str(token): int(id_) for token, id_ in tokenizer.get_vocab().items()}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        wrapped.special_strings = tuple(token.content for token in added.values() if token.special)
        wrapped._set_vocabulary(
            vocabulary,
            json.dumps([type(tokenizer).__name__, sorted(vocabulary.items())]),
            tokenizer.bos_token,
            tokenizer.eos_token,
        )
        wrapped._byte_level = "Ġ" in vocabulary
        wrapped._unknown_id = tokenizer.unk_token_id
        wrapped._added = {id_: token.content.encode() for id_, token in added.items()}
        wrapped._knows_all = False
        wrapped._tokenizers, wrapped._lock = {}, Lock()
        wrapped._slow = lambda text, special_tokens: list(
            tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=special_tokens == "text"
            )
        )
        wrapped._find_bos(list(tokenizer.encode("a")), wrapped.ids("a"))
        wrapped._check_repeatable(type(tokenizer).__name__)
        return wrapped

    @classmethod
    def from_pieces(
        cls,
        pieces: list[bytes],
        ids: Callable[[str, Spelled], list[int]],
        special: dict[int, str],
        bos: tuple[int | None, bool],
        eos_id: int | None,
        fingerprint: str,
    ) -> TextTokenizer:
        """A tokenizer that another library runs: `ids` of a text, and the bytes of each token.

        `special` are the special tokens, `bos` the token that begins a text and whether texts begin
        with it.  The pieces must spell the text: `encode` raises an error where they do not.
        """
        wrapped = cls.__new__(cls)
        wrapped.special_strings = tuple(special.values())
        wrapped.vocabulary_size = len(pieces)
        wrapped.bos_id, wrapped.adds_bos = bos[0], bos[0] is not None and bos[1]
        wrapped.eos_id = eos_id
        wrapped.fingerprint = fingerprint
        wrapped._knows_all = False
        wrapped._tokenizers, wrapped._lock = {}, Lock()
        wrapped._slow = ids
        wrapped.__dict__["_pieces"] = pieces  # what the cached property would compute
        return wrapped

    def with_notes(self, *notes: str) -> TextTokenizer:
        """The same with more notes."""
        changed = copy.copy(self)
        changed.notes = (*self.notes, *notes)
        return changed

    def with_rows(self, rows: int) -> TextTokenizer:
        """A tokenizer for a model that has rows only for the ids below `rows`: others are errors.

        BOS and EOS are None where they are among the others.
        """
        changed = copy.copy(self)
        changed.rows = rows
        changed.bos_id, changed.eos_id = (
            None if id_ is None or id_ >= rows else id_ for id_ in (self.bos_id, self.eos_id)
        )
        return changed

    def ids(self, text: str, special_tokens: Spelled = "text") -> list[int]:
        """The ids of a text; no special token is added."""
        if self._slow is not None:
            return self._slow(text, special_tokens)
        # Without offsets in characters, which would double the time.
        tokenizer = self._reader(special_tokens)
        ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def encode(self, text: str, first_byte: int = 0, special_tokens: Spelled = "text") -> Encoding:
        """The ids of a text and the bytes of each; no special token is added.

        `first_byte` is added to the numbers of bytes in errors, for a text that is part of another;
        `special_tokens` says how the spelling of a special token is read.
        Raises `InvalidValueError` naming the byte and the characters where the tokens leave out, or
        do not determine, a part of the text other than whitespace, and where the model has no row
        for a token.
        """
        try:
            ids = self.ids(text, special_tokens)
        # The library raises a bare Exception where a word has no token and none for unknown words.
        except Exception as error:
            why, word = f"cannot read the text: {error}", None
            if self._slow is None:
                word = word_without_token(self._reader(special_tokens), text)
            if word is not None:
                why = f"has no token for {word!r}, and none for unknown words"
            raise InvalidValueError(
                f"the tokenizer {why}; give a text that its vocabulary can spell, a tokenizer that "
                "knows all (byte-level ones do), or measure a model of a source on that (--source)"
            ) from error
        source = text.encode()
        spans = spans_from_pieces(source, [self._pieces[i] for i in ids])
        if spans is None:
            ids, spans = self._by_offsets(text, ids, first_byte, special_tokens)
        encoding = Encoding(np.array(ids, dtype=np.int64), spans)
        self._check_rows(encoding, first_byte)
        return encoding

    def token_text(self, token: int) -> str:
        """The text of a token; "▒" for bytes that are only part of a character."""
        if not 0 <= token < len(self._pieces):
            return ""  # a token that only pads the vocabulary
        return self._pieces[token].decode(errors="replace").replace("\ufffd", "▒")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; bytes that are only part of a character are left out."""
        known = (token for token in ids if 0 <= token < len(self._pieces))
        return b"".join(self._pieces[token] for token in known).decode(errors="ignore")

    def _reader(self, special_tokens: Spelled) -> Tokenizer:
        """The tokenizer that reads the spelling of a special token as text, or as the token.

        Two, because the setting is one of the whole object, which threads share.
        """
        with self._lock:
            if special_tokens not in self._tokenizers:
                tokenizer = copied(self._tokenizers["text"])
                tokenizer.encode_special_tokens = False
                self._tokenizers[special_tokens] = tokenizer
            return self._tokenizers[special_tokens]

    def _check_repeatable(self, name: str) -> None:
        """Raise `InvalidValueError` where a text is not always read as the same tokens."""
        for text in HARD_STRINGS:
            if self.ids(text) != self.ids(text):
                raise InvalidValueError(
                    f"the tokenizer ({name}) is random: it reads {text!r} as other tokens a second "
                    "time; turn its sampling off (enable_sampling in tokenizer_config.json)"
                )

    def _check_rows(self, encoding: Encoding, first_byte: int) -> None:
        """Raise `InvalidValueError` for a token that the model has no row for."""
        if self.rows is None or not len(encoding) or encoding.ids.max() < self.rows:
            return
        first = int(np.argmax(encoding.ids >= self.rows))
        token, begin = int(encoding.ids[first]), int(encoding.byte_spans[first, 0])
        raise InvalidValueError(
            f"the tokenizer reads {self.token_text(token)!r} at byte {first_byte + begin} of the "
            f"text as the token {token}, and the model has {self.rows} of them: they do not belong "
            "together; give the model's own tokenizer, or remove that from the text"
        )

    def _by_offsets(
        self, text: str, ids: list[int], first_byte: int, special_tokens: Spelled
    ) -> tuple[list[int], Int[np.ndarray, "n 2"]]:
        if self._slow is not None or not self._knows_all:
            read = b"".join(self._pieces[i] for i in ids)
            source = text.encode()
            pairs = zip(read, source, strict=False)
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(read), len(source)))
            raise InvalidValueError(
                f"the tokenizer does not spell the text: at byte {first_byte + at} it reads "
                f"{read[at : at + 12]!r} for {source[at : at + 12]!r}; remove that from the text, "
                "or use the model's fast tokenizer (tokenizer.json) with a complete vocabulary"
            )
        encoding = self._reader(special_tokens).encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if self._unknown_id is not None and self._unknown_id in ids:
            start, end = offsets[ids.index(self._unknown_id)]
            raise InvalidValueError(
                f"the tokenizer has no token for {text[start:end][:20]!r} at byte "
                f"{first_byte + len(text[:start].encode())} of the text: its surprisal cannot be "
                "measured; remove it from the text, or choose a tokenizer (or a model with one) "
                "that knows it (byte-level ones know all)"
            )
        pieces = [self._pieces[i] for i in ids]
        return ids, spans_from_offsets(text, offsets, pieces, first_byte)

    def _set_vocabulary(
        self, vocabulary: dict[str, int], serialised: str, bos: str | None, eos: str | None
    ) -> None:
        self._vocabulary = vocabulary
        self.vocabulary_size = 1 + max(vocabulary.values(), default=-1)
        if self.vocabulary_size > MOST_TOKENS:
            raise InvalidValueError(
                f"the tokenizer has a token of the id {self.vocabulary_size - 1:,}: ids must be "
                f"below {MOST_TOKENS:,}; its files are damaged"
            )
        self.bos_id, self.eos_id = (
            None if token is None else vocabulary.get(token) for token in (bos, eos)
        )
        self.fingerprint = fingerprint_of(serialised, bos, eos)

    def _find_bos(self, with_special: list[int], without: list[int]) -> None:
        """Set `adds_bos`, from the ids of a text encoded with and without special tokens."""
        adds = len(with_special) > len(without) and with_special[:1] != without[:1]
        if adds and self.bos_id is None:
            # No configuration names it, but texts begin with it.
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


def _content(token: object) -> str | None:
    """The text of a special token: configurations have strings, or objects that contain them."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read_object(path: Path) -> dict[str, object]:
    try:
        return decode_json(read_bounded(path), dict[str, Any])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidValueError(f"{path} is damaged: {error}; download it again") from None
