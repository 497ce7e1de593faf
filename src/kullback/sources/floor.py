"""``floor.json``: the exact entropies of an export, and the source that it is of.

A model folder belongs to an export whose tokenizer has the same vocabulary; where sources share
theirs (the binary processes do), the tokenizer's configuration names the fingerprint of the source.

Units are nats/token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kullback.errors import InvalidValueError
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.sources.catalogue import AnySource, source_from_spec
from kullback.sources.facts import bounds
from kullback.sources.language import Language
from kullback.sources.process import Process
from kullback.sources.stored import load_source

__all__ = [
    "FLOOR",
    "SCHEMA",
    "SOURCE",
    "SOURCE_KEY",
    "Floor",
    "floor_of",
    "read_floor",
    "vocabulary_fingerprint",
    "vocabulary_of",
]

FLOOR, SOURCE = "floor.json", "source.safetensors"
SCHEMA = "kullback.floor/1"
SOURCE_KEY = "kullback_source"
"""In ``tokenizer_config.json``: the fingerprint of the source."""
# Positions of a sentence that are listed, at most, as in an evaluation: the sentences of an endless
# language have no last one.
POSITIONS = 1024


class Floor(msgspec.Struct):
    """What is read of a ``floor.json``; the rest is for people and other programs."""

    schema: str
    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    nats_per_token: float
    window: int | None = None
    conjugation: dict[str, Any] | None = None
    path: Path = Path(FLOOR)

    def open(self) -> AnySource:
        """The source; `InvalidValueError` where its file is missing or is another one."""
        if self.conjugation is not None:
            source: AnySource = source_from_spec(self.conjugation)
        else:
            source = load_source(self.path.with_name(SOURCE))
        if source.fingerprint() != self.fingerprint:
            raise InvalidValueError(
                f"{self.path} is of another source than {self.path.with_name(SOURCE)}, or of "
                "another version of kullback: export it again"
            )
        return source


def vocabulary_fingerprint(vocabulary: Sequence[str]) -> str:
    """SHA-256 of the words in the order of their ids, in hexadecimal."""
    return hashlib.sha256("\0".join(vocabulary).encode()).hexdigest()


def floor_of(source: AnySource, window: int, seed: int) -> dict[str, object]:
    """The exact entropies of `source` and what identifies it, as a document for JSON."""
    vocabulary = _vocabulary(source)
    facts: dict[str, object] = {
        "schema": SCHEMA,
        "name": source.name,
        "unit": "nats/token",
        "fingerprint": source.fingerprint(),
        "tokenizer_fingerprint": vocabulary_fingerprint(vocabulary),
        "vocabulary_size": len(vocabulary),
        "seed": seed,
    }
    if isinstance(source, Process):
        return facts | _process_floor(source, window)
    if source.conjugation is not None:
        facts["conjugation"] = dict(source.spec)
    return facts | _language_floor(source.training)


def _vocabulary(source: AnySource) -> tuple[str, ...]:
    return source.vocabulary if isinstance(source, Process) else source.training.vocabulary


def _language_floor(language: Language) -> dict[str, object]:
    positions = language.entropy_by_position(POSITIONS)
    return {
        "nats_per_token": language.entropy_per_token,
        "error": 0.0,
        "scored": "every token but <s>, which is given; </s> is predicted",
        # Of all rows as one stream in which <s> is predicted, too, from the </s> before it.
        "stream_nats_per_token": language.entropy_per_sentence / (language.tokens_per_sentence + 1),
        "nats_per_sentence": language.entropy_per_sentence,
        "tokens_per_sentence": language.tokens_per_sentence,
        "per_position": [
            {"tokens_before": t, "nats": float(nats)} for t, nats in enumerate(positions)
        ],
        "per_slot": {
            name: {"tokens_per_sentence": slot.tokens_per_sentence, "nats": slot.entropy}
            for name, slot in language.entropy_by_slot().items()
        },
    }


def _process_floor(process: Process, window: int) -> dict[str, object]:
    floor = process.window_entropy(window)
    return {
        "nats_per_token": floor.value,
        "error": floor.error,
        "scored": "every token of a window but the first, which is given",
        "window": window,
        "entropy_rate": bounds(process.entropy_rate),
        "per_position": [
            {"tokens_before": n, **bounds(entropy)}
            for n, entropy in enumerate(process.conditional_entropies(window))
        ],
        "block_entropies": [bounds(entropy) for entropy in process.block_entropies(window)],
        "per_slot": {
            symbol: {"share": share, **bounds(entropy)}
            for symbol, (share, entropy) in process.window_entropy_by_symbol(window).items()
        },
    }


def read_floor(path: Path) -> Floor:
    """The ``floor.json`` at `path`, or in the folder `path`.

    Raises `InvalidValueError` where it cannot be read or is none.
    """
    file = path / FLOOR if path.is_dir() else path
    try:
        floor = decode_json(read_bounded(file), Floor)
    except OSError as error:
        raise InvalidValueError(
            f"the floor {file} cannot be read: {error.strerror or error}; give the folder of an "
            "export or its floor.json"
        ) from None
    except ValueError as error:
        raise InvalidValueError(
            f"{file} is no floor.json of kullback source export: {error}; export it again"
        ) from None
    if floor.schema != SCHEMA:
        raise InvalidValueError(
            f"{file} has the schema {floor.schema!r}, and this version reads {SCHEMA!r}: export it "
            "again"
        )
    floor.path = file
    return floor


class _Model(msgspec.Struct):
    vocab: dict[str, int] = {}


class _Tokenizer(msgspec.Struct):
    """What is read of a ``tokenizer.json``: a word-level vocabulary."""

    model: _Model


def vocabulary_of(folder: Path) -> tuple[tuple[str, ...], str | None] | None:
    """The vocabulary of a model folder's tokenizer by id, and the source that it names.

    None where the folder has no ``tokenizer.json`` with words of ids 0, 1, 2, ...
    """
    try:
        vocab = decode_json(read_bounded(folder / "tokenizer.json"), _Tokenizer).model.vocab
        words = sorted(vocab, key=vocab.__getitem__)
    except (OSError, ValueError):  # a foreign tokenizer, or none
        return None
    if not words or [vocab[word] for word in words] != list(range(len(words))):
        return None
    try:
        config = decode_json(read_bounded(folder / "tokenizer_config.json"), dict[str, Any])
    except (OSError, ValueError):
        config = {}
    named = config.get(SOURCE_KEY)
    return tuple(words), named if isinstance(named, str) else None
