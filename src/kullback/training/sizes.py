"""Sizes of models by name, and how long a run of each is."""

from __future__ import annotations

from dataclasses import dataclass

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import Range
from kullback.runtime.wording import suggestion

__all__ = [
    "MINUTES",
    "NAMED_SIZES",
    "TOKENS_PER_PARAMETER",
    "NamedSize",
    "chinchilla_steps",
    "named",
]

#: Hoffmann et al. 2022, "Training compute-optimal large language models", table 3: about 20.
TOKENS_PER_PARAMETER = 20
#: Of a run that ends after a time.
MINUTES = Range(0, 1e6, whole=False, above=True)


@dataclass(frozen=True)
class NamedSize:
    """The sizes of a model, and what it is trained on."""

    layers: int
    heads: int
    width: int
    context: int
    vocabulary_size: int
    """Of the BPE that is trained on a text."""
    windows: int
    """Of a batch."""


#: nano is the default; micro and mini have the shapes of nanoGPT's recipes for a CPU and for
#: characters on one GPU, small that of GPT-2, base is twice as deep and wider.
NAMED_SIZES = {
    "nano": NamedSize(2, 2, 64, 64, 1024, 48),
    "micro": NamedSize(4, 4, 128, 64, 2048, 48),
    "mini": NamedSize(6, 6, 384, 256, 8192, 32),
    "small": NamedSize(12, 12, 768, 512, 16_384, 32),
    "base": NamedSize(24, 16, 1024, 1024, 32_768, 16),
}


def named(size: str | None) -> NamedSize:
    """The sizes of this name; those of nano for None.  `InvalidValueError` for another name."""
    if size is None:
        return NAMED_SIZES["nano"]
    if size not in NAMED_SIZES:
        meant = suggestion(str(size), NAMED_SIZES) or f": choose from {', '.join(NAMED_SIZES)}"
        raise InvalidValueError(f"size is {size!r}, which is no name of a size{meant}")
    return NAMED_SIZES[size]


def chinchilla_steps(parameters: int, tokens_per_batch: int) -> int:
    """Steps after which a model has seen `TOKENS_PER_PARAMETER` tokens a parameter.

    >>> chinchilla_steps(1000, 512)
    40
    """
    return -(-TOKENS_PER_PARAMETER * parameters // tokens_per_batch)
