"""Ranges of numbers, and their sentence."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import SEEDS, Range

WHOLE, REAL = Range(2, 10), Range(0, 1.5, whole=False, above=True)


@pytest.mark.parametrize("value", [2, 10, np.int64(2), np.uint8(10)])
def test_whole_numbers_inside(value: object) -> None:
    """Both ends are inside, as integers of Python and of NumPy."""
    WHOLE.check("n", value)


@pytest.mark.parametrize("value", [1, 11, 2.0, True, "3", None, math.nan, 10**400, -(10**400)])
def test_whole_numbers_outside(value: object) -> None:
    """What is beyond an end, and what is no whole number, is refused with its value."""
    with pytest.raises(InvalidValueError, match=r"^n is .{1,40}: .* at least 2 and at most 10$"):
        WHOLE.check("n", value)


@pytest.mark.parametrize("value", [1e-300, 1, 1.5, np.float32(0.5), Fraction(1, 3)])
def test_real_numbers_inside(value: object) -> None:
    """Every real type is a number, and an integer is one, too."""
    REAL.check("rate", value)


@pytest.mark.parametrize(
    "value", [0, 0.0, -1, 1.6, math.nan, math.inf, -math.inf, 10**400, "1", 1j, Decimal(1), False]
)
def test_real_numbers_outside(value: object) -> None:
    """A low end that is excluded, NaN and infinity are outside."""
    with pytest.raises(InvalidValueError, match=r"^rate is .*: .* above 0 and at most 1\.5$"):
        REAL.check("rate", value)


def test_the_largest_seed() -> None:
    """The largest seed is the largest integer of 64 bits, exactly."""
    SEEDS.check("seed", 2**63 - 1)
    with pytest.raises(InvalidValueError, match=re.escape("at most 2^63 - 1")):
        SEEDS.check("seed", 2**63)
