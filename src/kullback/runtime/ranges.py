"""Ranges of numbers that users give: limits, and the sentence about a number outside them.

A range is defined next to the type whose number it limits; those that several packages share are
here.
The command line checks its options against the same ranges, so that it agrees with Python.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from kullback.errors import InvalidValueError

__all__ = [
    "EXPORTED_TOKENS",
    "HOLDOUTS",
    "LADDER_MINUTES",
    "LENGTHS",
    "PASSES",
    "RUNGS",
    "SEEDS",
    "SENTENCES",
    "TEMPERATURES",
    "TOLERANCES",
    "TOP_K",
    "TRAINED_VOCABULARIES",
    "Range",
]


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, whole ones or all real ones."""

    low: float
    high: float
    whole: bool = True
    above: bool = False
    """Whether `low` itself is outside."""

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value  # Integral and Real have no comparison with float
        return bool(self.low < number if self.above else self.low <= number) and (
            number <= self.high
        )

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        first = "above " if self.above else "of at least "
        return f"{kind} {first}{_shown(self.low)} and at most {_shown(self.high)}"

    def check(self, name: str, value: object, unit: str = "") -> None:
        """Raise `InvalidValueError` for a value outside, of another type, or NaN.

        >>> Range(1, 1000).check("steps", 2000)
        Traceback (most recent call last):
        kullback.errors.InvalidValueError: steps is 2000: it must be a whole number of at least 1 \
and at most 1,000
        """
        if value not in self:
            raise InvalidValueError(f"{name} is {_cut(repr(value))}: it must be {self}{unit}")

    def set(self, of: object, name: str, value: Any) -> None:
        """Check a field of a frozen dataclass, and make it a number that JSON has."""
        self.check(name, value)
        if not isinstance(value, int | float):  # of NumPy, say
            object.__setattr__(of, name, int(value) if self.whole else float(value))

    def parse(self, text: str) -> int | float:
        """The number that a text is; `ValueError` says what is wrong, but not of which name.

        Digits are those of ASCII, and nothing separates them: Python also reads "1_0" and "١٠".

        >>> Range(1, 1000).parse("10")
        10
        """
        value = None
        if text.isascii() and "_" not in text:
            with suppress(ValueError):  # no number, or one of more than 4,300 digits
                value = int(text) if self.whole else float(text)
        if value not in self:
            raise ValueError(f"it is {_cut(repr(text))} and must be {self}")
        assert value is not None
        return value


def _shown(limit: float) -> str:
    if limit == 2**63 - 1:
        return "2^63 - 1"
    return f"{limit:,.0f}" if limit == int(limit) else f"{limit:g}"


def _cut(text: str) -> str:
    """At most 40 characters of a number that may have thousands of digits."""
    return text if len(text) <= 40 else f"{text[:37]}..."


#: Of generators of random numbers: what a file of a run can hold.
SEEDS = Range(0, 2**63 - 1)
#: Of tokens that a model reads at once, or by which a window moves: no model has more.
LENGTHS = Range(1, 10**9)
#: Entries of a byte-level BPE that is trained: 256 bytes and two special tokens are the fewest.
TRAINED_VOCABULARIES = Range(258, 10**6)
#: Of sentences sampled at once.
SENTENCES = Range(1, 10**9)
#: How often a training run reads its data.
PASSES = Range(1e-6, 10_000, whole=False)
#: Of the training data that `source export` writes.
EXPORTED_TOKENS = Range(1, 10**11)
#: Cells of a conjugation table, which has fewer: the source says how many.
HOLDOUTS = Range(0, 10**6)
#: Of a softmax, where 0 takes the most probable token.
TEMPERATURES = Range(0, 1e6, whole=False)
#: In nats/token.
TOLERANCES = Range(0, 1e6, whole=False)
#: Tokens of the vocabulary kept at each position.
TOP_K = Range(1, 10**7)
#: Runs of a scaling ladder: `kullback.theory.scaling_law.FEWEST_RUNGS` at least.
RUNGS = Range(4, 32)
#: That all of them may take.
LADDER_MINUTES = Range(0.05, 100_000, whole=False)
