"""Sizes by name."""

from __future__ import annotations

import pytest

from kullback.errors import InvalidValueError
from kullback.training.gpt_config import GPTConfig
from kullback.training.sizes import NAMED_SIZES, Recipe, chinchilla_steps, named, recipe_of


def test_names_are_in_the_order_of_their_parameters() -> None:
    """Every name is a model that can be made, each with more parameters than the one before."""
    counts = [
        GPTConfig(
            size.vocabulary_size, size.context, size.width, size.layers, size.heads
        ).parameters
        for size in NAMED_SIZES.values()
    ]
    assert counts == sorted(set(counts))
    default = GPTConfig(1, 1)
    nano = named(None)
    assert (nano.width, nano.layers, nano.heads) == (default.width, default.layers, default.heads)


def test_unknown_names() -> None:
    """A name that is none is refused with the one that was meant, or with all."""
    with pytest.raises(InvalidValueError, match="did you mean small"):
        named("smal")
    with pytest.raises(InvalidValueError, match="nano, micro, mini, small, base"):
        named("x")


def test_small_batches_of_mini_have_a_recipe_of_their_own() -> None:
    """Blocks of 128 rows up to 3,072 tokens of a text; what is given comes first."""
    none = (None,) * 6
    assert recipe_of("mini", 3072, *none) == Recipe(0.014, muon_rows=128, weight_decay=0.1)
    assert recipe_of("mini", 3073, *none) == Recipe(weight_decay=0.1)
    assert recipe_of("mini", None, *none) == Recipe()
    assert recipe_of("small", 1, *none) == recipe_of(None, 1, *none) == Recipe(weight_decay=0.1)
    given = recipe_of("mini", 256, 0.02, None, 0, None, None, 0.0)
    assert given == Recipe(0.02)


def test_chinchilla_steps() -> None:
    """The steps see at least twenty tokens a parameter, and no batch more."""
    for parameters in (999, 1000, 1001):
        steps = chinchilla_steps(parameters, 7)
        assert (steps - 1) * 7 < 20 * parameters <= steps * 7
