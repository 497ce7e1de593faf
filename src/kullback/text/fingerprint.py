"""Fingerprints of everything that a number depends on, and comparison of what two were computed on.

A fingerprint is the SHA-256 of canonical JSON (sorted keys, no whitespace, UTF-8) of these parts:

==============  ===================================================================
text            SHA-256 of all documents: the length and the bytes of each, in order
tokenizer       of the serialised tokenizer
weights         of the names, types, shapes and bytes of all weights
protocol        its fields, after `Protocol.resolve`
dtype, device   of the model's arithmetic
versions        of Python's packages that compute something
backend         the library that runs a GGUF file, its version and options
==============  ===================================================================

File names are not a part: the same text under another name gives the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from kullback.errors import InvalidValueError
from kullback.runtime.background import in_background
from kullback.text.documents import Document
from kullback.text.protocol import Protocol

__all__ = ["Fingerprint", "Part", "check_same_text", "fingerprint", "text_fingerprint"]

Part = str | int | None | dict[str, str | int | None]
PACKAGES = ("kullback", "numpy", "torch", "tokenizers", "transformers", "torchao")
# 64 bits: among a billion fingerprints two are equal with probability 0.03.
SHORT = 16
# The parts that must be equal for two models' rows to be about the same tokens.
MUST_AGREE = {
    "text": "the texts are not the same",
    "tokenizer": "the tokenizers are not the same (compare models at byte boundaries: --by-bytes)",
    "protocol": "the protocols are not the same",
}
# The options of the command line that set the fields of a protocol.
OPTIONS = {"preset": "protocol"}


@dataclass(frozen=True)
class Fingerprint:
    """The parts, as plain data, and their hash.

    >>> print(Fingerprint({"dtype": "float32"}))
    4215d14182951442
    """

    parts: Mapping[str, Part]

    @property
    def full(self) -> str:
        """SHA-256 in hexadecimal."""
        canonical = json.dumps(
            dict(self.parts), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def wait(self) -> None:
        """Let the parts that a thread computes be known."""
        dict(self.parts)

    def __str__(self) -> str:
        return self.full[:SHORT]

    def differences(self, other: Fingerprint) -> list[str]:
        """The names of the parts that differ; the fields of a part follow it after a dot.

        >>> Fingerprint({"a": {"b": 1}, "c": 2}).differences(Fingerprint({"a": {"b": 3}, "c": 2}))
        ['a.b']
        """
        ours, theirs = _flat(self.parts), _flat(other.parts)
        return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))


def fingerprint(
    documents: Sequence[Document],
    tokenizer: str,
    weights: str | Callable[[], str],
    protocol: Protocol,
    dtype: str,
    device: str,
    backend: str | None = None,
) -> Fingerprint:
    """The fingerprint of an evaluation.

    `tokenizer` and `weights` are fingerprints in hexadecimal (`weights` may be a function, which is
    called when the part is asked for; a thread hashes the text), `protocol` is resolved (see
    `Protocol.resolve`), `dtype` is as torch names it without "torch.", `device` a type such as
    "cpu" or the name of the accelerator, `backend` what computes where that is not torch.
    """
    return Fingerprint(
        _Parts(
            {
                **({} if backend is None else {"backend": backend}),
                "text": in_background(partial(text_fingerprint, documents)),
                "tokenizer": tokenizer,
                "weights": weights,
                "protocol": asdict(protocol),
                "dtype": dtype,
                "device": device,
                "versions": {package: _version(package) for package in PACKAGES},
            }
        )
    )


class _Parts(Mapping[str, Part]):
    """Parts of which functions give some, when they are asked for."""

    def __init__(self, parts: Mapping[str, Part | Callable[[], Part]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Part:
        part = self._parts[name]
        return part() if callable(part) else part

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def text_fingerprint(documents: Sequence[Document]) -> str:
    """SHA-256 over the documents: the number of bytes of each, then the bytes.

    The numbers make the boundaries of documents count:

    >>> joined, separate = [Document("", "ab")], [Document("", "a"), Document("", "b")]
    >>> text_fingerprint(joined) == text_fingerprint(separate)
    False
    """
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.n_bytes.to_bytes(8, "little"))
        for piece in document.pieces():
            digest.update(piece.encode())
    return digest.hexdigest()


def check_same_text(
    first: Mapping[str, object],
    second: Mapping[str, object],
    names: tuple[str, str] = ("the first", "the second"),
) -> None:
    """Raise `InvalidValueError` unless two results, called `names`, are about the same tokens.

    Both are the parts of fingerprints; `text`, `tokenizer` and `protocol` must be in both and be
    equal.  Weights, types and versions may differ.

    >>> check_same_text({"text": "a"}, {"text": "b"})
    Traceback (most recent call last):
    kullback.errors.InvalidValueError: the texts are not the same: text is 'a' in the first ...
    """
    for part, reason in MUST_AGREE.items():
        values = (_completed(part, first.get(part)), _completed(part, second.get(part)))
        if values[0] != values[1]:
            fix = _same_protocol(*values) if part == "protocol" else f"use the same {part} for both"
            raise InvalidValueError(f"{reason}: {_difference(part, values, names)}; {fix}")
        missing = [
            name for name, parts in zip(names, (first, second), strict=True) if part not in parts
        ]
        if missing:
            raise InvalidValueError(
                f"the metadata of {' and '.join(missing)} do not contain the {part}: it is unknown "
                "whether the rows are about the same tokens; record it again"
            )


def _completed(part: str, value: object) -> object:
    """A part with the fields that files of earlier versions lack: special tokens were text."""
    if part == "protocol" and isinstance(value, dict):
        return {"special_tokens": "text", **value}
    return value


def _difference(part: str, values: tuple[object, object], names: tuple[str, str]) -> str:
    """What differs, field by field where the part has fields."""
    first, second = values
    if isinstance(first, dict) and isinstance(second, dict):
        fields = sorted(f for f in first.keys() | second.keys() if first.get(f) != second.get(f))
        return ", ".join(
            _difference(f"{part}.{field}", (first.get(field), second.get(field)), names)
            for field in fields
        )
    return f"{part} is {_shortened(first)} in {names[0]} and {_shortened(second)} in {names[1]}"


def _same_protocol(first: object, second: object) -> str:
    """The options of either protocol, where the other's text can be read by them, too."""
    options = filter(None, (_options(first, second), _options(second, first)))
    choices = [f"both with {choice}" for choice in options]
    return f"read {', or '.join(choices)}" if choices else "use the same protocol for both"


def _options(first: object, second: object) -> str:
    """The options of the command line that read a text by the first of two protocols."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return ""
    options = []
    for field, value in first.items():
        option = f"--{str(OPTIONS.get(field, field)).replace('_', '-')}"
        if value == second.get(field):
            continue
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
        elif value is not None:
            options.append(f"{option} {value}")
    return " ".join(options)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:17]}…{text[-1]}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _flat(parts: Mapping[str, Part]) -> dict[str, str | int | None]:
    flat: dict[str, str | int | None] = {}
    for name, part in parts.items():
        if isinstance(part, dict):
            flat |= {f"{name}.{inner}": value for inner, value in part.items()}
        else:
            flat[name] = part
    return flat
