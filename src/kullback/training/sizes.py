"""Sizes of models by name, and how long a run of each is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import Range
from kullback.runtime.wording import suggestion
from kullback.training.config import TrainingConfig

__all__ = [
    "MINUTES",
    "NAMED_SIZES",
    "TOKENS_PER_PARAMETER",
    "NamedSize",
    "Recipe",
    "chinchilla_steps",
    "named",
    "recipe_of",
]

#: Hoffmann et al. 2022, "Training compute-optimal large language models", table 3: about 20.
TOKENS_PER_PARAMETER = 20
#: Of a run that ends after a time.
MINUTES = Range(0, 1e6, whole=False, above=True)


@dataclass(frozen=True)
class Recipe:
    """Fields of `TrainingConfig` whose defaults depend on the size; here those of a source."""

    muon_lr: float = TrainingConfig.muon_lr
    adamw_lr: float = TrainingConfig.adamw_lr
    muon_rows: int = TrainingConfig.muon_rows
    warmup_steps: int = TrainingConfig.warmup_steps
    decay_fraction: float = TrainingConfig.decay_fraction
    weight_decay: float = TrainingConfig.weight_decay


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
    recipe: Recipe = Recipe(weight_decay=0.1)
    """On a text."""
    few_tokens: int = 0
    recipe_of_few: Recipe = Recipe(weight_decay=0.1)
    """Of a batch of at most `few_tokens`, whose model costs little more than whole matrices do."""


#: nano is the default; micro and mini have the shapes of nanoGPT's recipes for a CPU and for
#: characters on one GPU, small that of GPT-2, base is twice as deep and wider.
#: The recipes of nano, micro and small batches of mini are measured (``docs/log.md``); the others
#: have that of nano.
NAMED_SIZES = {
    "nano": NamedSize(2, 2, 64, 64, 1024, 48),
    "micro": NamedSize(
        4, 4, 128, 64, 2048, 16, Recipe(0.01, 0.006, muon_rows=32, weight_decay=0.1)
    ),
    "mini": NamedSize(
        *(6, 6, 384, 256, 8192, 32),
        few_tokens=12 * 256,
        recipe_of_few=Recipe(0.014, muon_rows=128, weight_decay=0.1),
    ),
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


def recipe_of(size: str | None, tokens: float | None, *given: float | None) -> Recipe:
    """The recipe of a name on batches of so many tokens of a text, or that of a source for None.

    `given` are values in the order of its fields, which replace the defaults unless they
    are None.
    """
    default = Recipe()
    if tokens is not None:
        sizes = named(size)
        default = sizes.recipe_of_few if tokens <= sizes.few_tokens else sizes.recipe
    pairs = zip(fields(Recipe), given, strict=True)
    values: dict[str, Any] = {field.name: value for field, value in pairs if value is not None}
    return replace(default, **values)


def chinchilla_steps(parameters: int, tokens_per_batch: int) -> int:
    """Steps after which a model has seen `TOKENS_PER_PARAMETER` tokens a parameter.

    >>> chinchilla_steps(1000, 512)
    40
    """
    return -(-TOKENS_PER_PARAMETER * parameters // tokens_per_batch)
