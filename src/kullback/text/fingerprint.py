"""What does a number depend on?  All of it, and one short string that changes when any of it does.

SHA-256 over canonical JSON (sorted keys, no blanks, UTF-8) of these parts:

==============  ===================================================================
text            SHA-256 of all documents: the length and the bytes of each, in order
tokenizer       of the serialised tokenizer
weights         of the names, types, shapes and bytes of all weights
protocol        its fields, with nothing left open
dtype, device   of the model's arithmetic
versions        of Python's packages that compute something
==============  ===================================================================

The names of files are no part of it: the same text under another name gives the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from kullback.text.documents import Document
from kullback.text.protocol import Protocol

__all__ = ["Fingerprint", "Part", "fingerprint", "text_fingerprint"]

Part = str | int | None | dict[str, str | int | None]
PACKAGES = ("kullback", "numpy", "torch", "tokenizers", "transformers", "torchao")
# Enough that two of a billion differ: 16 hexadecimal digits are 64 bits.
SHORT = 16


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

    def __str__(self) -> str:
        return self.full[:SHORT]

    def differences(self, other: Fingerprint) -> list[str]:
        """The names of the parts that differ, with a dot before the part of a part.

        >>> Fingerprint({"a": {"b": 1}, "c": 2}).differences(Fingerprint({"a": {"b": 3}, "c": 2}))
        ['a.b']
        """
        ours, theirs = _flat(self.parts), _flat(other.parts)
        return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))


def fingerprint(
    documents: Sequence[Document],
    tokenizer: str,
    weights: str,
    protocol: Protocol,
    dtype: str,
    device: str,
) -> Fingerprint:
    """The fingerprint of an evaluation.

    `tokenizer` and `weights` are fingerprints in hexadecimal, `protocol` is resolved (see
    `Protocol.resolve`), `dtype` is as torch names it without "torch.", `device` a type such as
    "cpu" or the name of the accelerator.
    """
    return Fingerprint(
        {
            "text": text_fingerprint(documents),
            "tokenizer": tokenizer,
            "weights": weights,
            "protocol": asdict(protocol),
            "dtype": dtype,
            "device": device,
            "versions": {package: _version(package) for package in PACKAGES},
        }
    )


def text_fingerprint(documents: Sequence[Document]) -> str:
    """SHA-256 over the documents' bytes, each after its length, so that borders count.

    >>> whole, halves = [Document("", "ab")], [Document("", "a"), Document("", "b")]
    >>> text_fingerprint(whole) == text_fingerprint(halves)
    False
    """
    digest = hashlib.sha256()
    for document in documents:
        content = document.text.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


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
