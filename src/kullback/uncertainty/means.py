"""Means over tokens that come in parts, with their intervals.

The first pass sums values and denominators, the second the residuals ``e = y − r x`` over the
pieces that are independent (`kullback.uncertainty.pieces`), and their squares.

Axes: m tokens of one part, g documents of one part, C independent contributions, K means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from kullback.errors import InvalidValueError
from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.clusters import Spread
from kullback.uncertainty.critical_values import largest_t
from kullback.uncertainty.documents import DocumentRuns
from kullback.uncertainty.piece_sums import PieceSums
from kullback.uncertainty.pieces import independent_pieces
from kullback.uncertainty.sweeps import Computation

__all__ = ["MeanRows", "check_rows", "means"]

Rows = TypeVar("Rows")


class MeanRows(NamedTuple):
    """What K means with one denominator read of a part of the rows."""

    document_m: Int[np.ndarray, "m"] | None
    """The document of each row, those of a document being contiguous; None is one document."""
    denominator_m: Num[np.ndarray, "m"]
    values: Iterable[Num[np.ndarray, "m"] | Bool[np.ndarray, "m"]]
    """One array a mean; read once, so it may make them one after the other."""


def means(
    read: Callable[[Rows], MeanRows],
    units: Sequence[str],
    level: float = LEVEL,
    *,
    joint: bool = False,
    seed: int = 0,
) -> Computation[Rows, list[Measurement]]:
    """A mean for each of `units`; none where no row has a denominator above 0.

    `read` gives what a part of the rows contains of them.  The interval of each holds by itself, or
    if `joint` those of all at once.  An infinite value gives an infinite mean without an interval,
    in a joint family also the others.  Raises `InvalidValueError` as `check_rows` does.
    """
    sums = _Sums(read, len(units))
    yield sums
    if not sums.total > 0:
        return []
    n, total = sums.n, sums.total
    values = [value / total for value in sums.values]
    finite = [k for k, value in enumerate(values) if math.isfinite(value)]
    families = [[k] for k in finite]
    if joint:
        families = [finite] if len(finite) == len(units) else []
    note = "no interval: a value is infinite"
    measurements = [
        Measurement(value, unit, math.inf, n, 0, "no interval", level=level, note=note)
        for value, unit in zip(values, units, strict=True)
    ]
    if not families:
        return measurements
    pieces = independent_pieces(sums.runs.documents(), np.concatenate(sums.denominators))
    del sums  # as large as the documents are many
    residuals = {k: _Residuals(values[k], pieces.sums()) for family in families for k in family}
    yield _ResidualSums(read, residuals)
    for family in families:
        spreads = pieces.spreads([residuals[k].sums.reduced for k in family])
        critical = _critical_value(spreads, level, seed)
        for k, spread in zip(family, spreads, strict=True):
            measurements[k] = Measurement(
                values[k],
                units[k],
                spread.standard_error(total),
                n,
                len(spread.contribution_C),
                spread.method,
                spread.degrees_of_freedom,
                residuals[k].independent_error(n, total),
                level,
                critical_value=critical,
                note=spread.note,
            )
            del residuals[k]
    return measurements


def check_rows(rows: MeanRows, first: int = 0) -> None:
    """Raise `InvalidValueError` for NaN, and for a denominator that is negative or infinite.

    `first` is the number of the first of these tokens.
    """
    for k, values_m in enumerate(rows.values):
        _check_values(values_m, k, first)
    _check_denominator(rows.denominator_m, first)


def _check_values(
    values_m: Num[np.ndarray, "m"] | Bool[np.ndarray, "m"], k: int, first: int
) -> None:
    wrong_m = np.isnan(values_m)
    if wrong_m.any():
        token = first + int(np.argmax(wrong_m))
        raise InvalidValueError(f"values[{k}, {token}] is NaN: the mean is undefined")


def _check_denominator(x_m: Num[np.ndarray, "m"], first: int) -> None:
    wrong = np.flatnonzero(~(np.isfinite(x_m) & (x_m >= 0)))
    if len(wrong):
        token = int(wrong[0])
        raise InvalidValueError(
            f"denominator[{first + token}] is {x_m[token]}: it must be finite and not below 0"
        )


def _critical_value(spreads: Sequence[Spread], level: float, seed: int) -> float | None:
    """That of intervals which all hold at once; None for Student's."""
    if len(spreads) < 2 or spreads[0].too_few:
        return None
    degrees = min(spread.degrees_of_freedom for spread in spreads)
    contribution_KC = np.stack([spread.contribution_C for spread in spreads])
    return largest_t(contribution_KC, degrees, level, seed)


class _Sums(Generic[Rows]):
    """The sums of K values and of their denominator; the documents."""

    def __init__(self, read: Callable[[Rows], MeanRows], count: int) -> None:
        self.values = [0.0] * count
        self.total = 0.0
        self.runs = DocumentRuns(check=False)  # of many means on the same rows
        self.denominators: list[Float[np.ndarray, "g"]] = []
        """The sums over documents, as arrays to concatenate."""
        self._read = read

    @property
    def n(self) -> int:
        """Tokens."""
        return self.runs.tokens

    def add(self, rows: Rows, /) -> None:
        document_m, denominator_m, values = self._read(rows)
        x_m = np.asarray(denominator_m, dtype=np.float64)
        if not len(x_m):
            return
        for k, values_m in enumerate(values):
            _check_values(values_m, k, self.n)
            self.values[k] += float(values_m.sum(dtype=np.float64))
        _check_denominator(x_m, self.n)
        self.total += float(x_m.sum())
        continues, start_g = self.runs.add(document_m, len(x_m))
        x_g = np.add.reduceat(x_m, start_g)
        if continues:
            self.denominators[-1][-1] += x_g[0]
            x_g = x_g[1:]
        if len(x_g):
            self.denominators.append(x_g)


@dataclass
class _Residuals:
    """The residuals of one mean, over pieces and squared."""

    mean: float
    sums: PieceSums
    squares: float = 0.0

    def add(
        self,
        values_m: Num[np.ndarray, "m"] | Bool[np.ndarray, "m"],
        x_m: Float[np.ndarray, "m"],
    ) -> None:
        """The values and denominators of the next tokens."""
        residual_m = values_m - self.mean * x_m
        self.sums.add(residual_m)
        self.squares += float(residual_m @ residual_m)

    def independent_error(self, n: int, total: float) -> float:
        """The standard error if tokens were independent."""
        # n − 1, since the mean was fitted; one token has no variance.
        variance = self.squares / (n - 1) if n > 1 else math.inf
        return math.sqrt(n * variance) / total


@dataclass(frozen=True)
class _ResidualSums(Generic[Rows]):
    """The residuals of the means that are finite, by their number."""

    read: Callable[[Rows], MeanRows]
    residuals: Mapping[int, _Residuals]

    def add(self, rows: Rows, /) -> None:
        _, denominator_m, values = self.read(rows)
        x_m = np.asarray(denominator_m, dtype=np.float64)
        for k, values_m in enumerate(values):
            if k in self.residuals:
                self.residuals[k].add(values_m, x_m)
