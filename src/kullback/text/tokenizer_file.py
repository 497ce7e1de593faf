"""Reading of a ``tokenizer.json``, which may be anybody's, and what its model does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer
from tokenizers.models import BPE

from kullback.errors import InvalidValueError
from kullback.runtime.decoding import read_bounded
from kullback.text.byte_spans import ALPHABET

__all__ = [
    "HARD_STRINGS",
    "MOST_TOKENS",
    "copied",
    "described",
    "encodable_text",
    "fingerprint_of",
    "knows_all",
    "read_tokenizer",
    "remove_dropout",
    "unknown_id",
    "word_without_token",
]

MOST_TOKENS = 10_000_000
"""Ids are below it: tables of all tokens are kept in memory, and the largest known vocabularies
have about a million tokens."""
MOST_BYTES = 1 << 30
#: Texts in which tokenizers differ: each is about another choice of theirs.
HARD_STRINGS = (
    "a", "the", " the", "  the", "The quick brown fox jumps over the lazy dog.", "\n", "\n\n",
    "one\ntwo\n\nthree\n\n\n  four\n", "tab\tand\t\ttabs", "ends in spaces   ", "   ", " \n \n",
    "line\r\nline\r\n", "if x:\n        return y\n\n\n", "int main() { return a[0]->b; }",
    "I'm, you'RE, we'll, it's, they'd, don't, O'Neill", "0", "7 77 777 7777 77777 650841823",
    "1,234,567.89 and 3.14159e-26", "In 1990, 12345678 people; 37   1369 rows.", "a1b22c333",
    "$9.99 (50% off)!!!", "... --- === *** ### ///", "camelCase snake_case UPPERCASE Title",
    "http://example.org/a?b=c&d=e#f", "don\u2019t \u201cquote\u201d \u2013 dash \u2014 \u2026",
    "naïve café Ångström", "e\u0301 a\u030a n\u0303", "\ufb01ne \ufb02ow ½ ² \u338f \uff21\uff42",
    "Straße \u0130stanbul", "\u0391\u0392\u0393 \u0430\u0431\u0432", "日本語の文章。中文没有",
    "한국어 문장", "العربية והעברית", "हिन्दी ภาษาไทย", "😀 ok \U0001f469\u200d\U0001f467",
    "a\u00a0b\u2003c\u200bd\u3000e", "\u2581under\u2581score", "<b>bold</b> <|x|> [y] {z}",
    "\x00\x01\x7f", "\ufeffbom", "don 't s 's  's", "word" * 40, "z" * 100, "=" * 70, " " * 70,
)  # fmt: skip


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises `OSError` where the file cannot be read, `ValueError` with the reason where it is no
    tokenizer or has ids from `MOST_TOKENS` on.
    """
    content = read_bounded(path, MOST_BYTES).decode("utf-8")
    try:
        tokenizer = Tokenizer.from_str(content)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # The library raises a bare Exception for damaged JSON, and where its Rust code panics a
    # PanicException, which is no Exception.
    except BaseException as error:
        raise ValueError(str(error)) from None
    token, largest = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if largest >= MOST_TOKENS:
        raise ValueError(
            f"the token {token!r} has the id {largest}, and ids must be below {MOST_TOKENS:,}"
        )
    return tokenizer


def remove_dropout(tokenizer: Tokenizer) -> float:
    """Turn BPE dropout off, which makes tokens random; returns its probability, 0 for none."""
    model = tokenizer.model
    dropout = model.dropout if isinstance(model, BPE) else None
    if not dropout:
        return 0.0
    model.dropout = None
    return float(dropout)


def described(serialised: str) -> dict[str, Any]:
    """What a serialised tokenizer says, without its vocabulary and merges.

    These are nearly all of it, and take most of a second as Python's objects.
    """
    parts = msgspec.json.decode(serialised, type=dict[str, msgspec.Raw])
    model = msgspec.json.decode(parts["model"], type=dict[str, msgspec.Raw])
    about = {key: raw for key, raw in model.items() if key not in ("vocab", "merges")}
    shown = ("normalizer", "pre_tokenizer", "decoder")
    return {
        **{part: msgspec.json.decode(parts[part]) for part in shown},
        "model": {key: msgspec.json.decode(raw) for key, raw in about.items()},
    }


def fingerprint_of(serialised: str, bos: str | None, eos: str | None) -> str:
    """SHA-256 of a serialised tokenizer and its special tokens, in hexadecimal."""
    parts = json.dumps([serialised, bos, eos], ensure_ascii=False)
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()


def copied(tokenizer: Tokenizer) -> Tokenizer:
    """A copy, so that the caller's settings stay; raises where parts are written in Python."""
    try:
        return Tokenizer.from_str(tokenizer.to_str())
    # The library raises a bare Exception.
    except Exception as error:
        raise InvalidValueError(
            f"the tokenizer cannot be copied ({error}): give one without parts of your own"
        ) from error


def encodable_text(tokenizer: Tokenizer, tokens: set[str]) -> str:
    """A text that the tokenizer can encode: "a", or the first of its tokens that it can."""
    for probe in ("a", *sorted(tokens)):
        try:
            if tokenizer.encode(probe, add_special_tokens=False).ids:
                return probe
        # See `TextTokenizer.encode`.
        except Exception:
            continue
    return ""


def knows_all(model: dict[str, object], vocabulary: dict[str, int], byte_level: bool) -> bool:
    """Whether the tokenizer never drops characters silently, after which offsets are wrong.

    A byte-pair model with neither an unknown token nor tokens for all bytes drops them.
    """
    if model.get("type") != "BPE" or model.get("unk_token") or model.get("byte_fallback"):
        return True
    return byte_level and all(character in vocabulary for character in ALPHABET)


def unknown_id(model: dict[str, object], vocabulary: dict[str, int]) -> int | None:
    """The id of the token for what the vocabulary lacks; None where there is none."""
    unknown = model.get("unk_id", model.get("unk_token"))
    return vocabulary.get(unknown) if isinstance(unknown, str) else _int_or_none(unknown)


def _int_or_none(value: object) -> int | None:
    return value if isinstance(value, int) else None


def word_without_token(tokenizer: Tokenizer, text: str) -> str | None:
    """The first word of a text that has no token, at most 20 characters of it.

    None where every word has one.

    >>> from kullback.text.tokenizer_training import word_tokenizer
    >>> word_without_token(word_tokenizer(["a", "b"], bos=False), "a b año")
    'año'
    """
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    splitter = tokenizer.pre_tokenizer
    words = [text] if splitter is None else (w for w, _ in splitter.pre_tokenize_str(text))
    for word in words:
        try:
            tokenizer.model.tokenize(word)
        except Exception:  # the library's bare one: "Missing [UNK] token from the vocabulary"
            return word[:20]
    return None
