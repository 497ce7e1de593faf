"""Exact quantiles of values that come in parts, by counting.

The bits of a float64, read as an integer, are in the order of the values, but for the sign.  The
first pass counts the values by their 20 highest bits, the second those that may be a quantile by
16 more: that tells every value a float32 can hold from all others.  Only where values have lower
bits, too, does a third pass collect those that remain, each with its count.

Axes: m values of one part, Q quantiles, K different cells of bits that contain one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt64

from kullback.uncertainty.sweeps import Computation

__all__ = ["quantiles"]

Rows = TypeVar("Rows")

HIGH_BITS, MIDDLE_BITS = 20, 16
MIDDLE_CELLS = 1 << MIDDLE_BITS
HIGH_SHIFT = np.uint64(64 - HIGH_BITS)
LOW_BITS = np.uint64(64 - HIGH_BITS - MIDDLE_BITS)
SIGN = np.uint64(1 << 63)


def quantiles(
    read: Callable[[Rows], Float[np.ndarray, "m"]], shares_Q: Float[np.ndarray, "Q"]
) -> Computation[Rows, Float[np.ndarray, "Q"]]:
    """For each share, the smallest value with at least that share of the values not above it.

    What `numpy.quantile` calls ``inverted_cdf`` (Hyndman and Fan 1996, definition 1).  `read` gives
    the values of a part of the rows; none is NaN, and there is at least one.
    """
    high = _HighBits(read)
    yield high
    # The rank from 0 as numpy computes it; then the rank within a cell.
    rank_Q = np.maximum(np.ceil(high.counts.sum() * shares_Q - 1), 0).astype(np.int64)
    high_Q, rank_Q = _cells(high.counts, rank_Q)
    middle = _MiddleBits(read, np.unique(high_Q))
    yield middle
    prefix_Q = np.empty(len(shares_Q), np.uint64)
    for k, cell in enumerate(middle.high_K):
        among_Q = high_Q == cell
        middle_q, rank_Q[among_Q] = _cells(middle.counts[k], rank_Q[among_Q])
        prefix_Q[among_Q] = cell * MIDDLE_CELLS + middle_q
    if not middle.lower_bits:
        return _floats(prefix_Q << LOW_BITS)
    values = _Values(read, np.unique(prefix_Q))
    yield values
    first_Q = np.searchsorted(values.bits, prefix_Q << LOW_BITS)
    before = np.concatenate([[0], np.cumsum(values.counts)])
    place_Q = np.searchsorted(before, before[first_Q] + rank_Q, side="right") - 1
    return _floats(values.bits[place_Q])


class _HighBits(Generic[Rows]):
    """How many values have which highest bits."""

    def __init__(self, read: Callable[[Rows], Float[np.ndarray, "m"]]) -> None:
        self.counts = np.zeros(1 << HIGH_BITS, np.int64)
        self._read = read

    def add(self, rows: Rows, /) -> None:
        np.add.at(self.counts, (_bits(self._read(rows)) >> HIGH_SHIFT).view(np.int64), 1)


class _MiddleBits(Generic[Rows]):
    """How many of the values with certain highest bits have which next ones."""

    def __init__(
        self, read: Callable[[Rows], Float[np.ndarray, "m"]], high_K: Int[np.ndarray, "K"]
    ) -> None:
        self.high_K = high_K
        self.counts = np.zeros((len(high_K), MIDDLE_CELLS), np.int64)
        self.lower_bits = False
        """Whether one of these values has other bits, too."""
        self._read = read
        self._place = np.full(1 << HIGH_BITS, -1, np.int16)
        self._place[high_K] = np.arange(len(high_K))

    def add(self, rows: Rows, /) -> None:
        bits_m = _bits(self._read(rows))
        place_m = self._place[(bits_m >> HIGH_SHIFT).view(np.int64)]
        among = np.flatnonzero(place_m >= 0)
        bits_m, place_m = bits_m[among], place_m[among].astype(np.int64)
        middle_m = (bits_m >> LOW_BITS).view(np.int64) & (MIDDLE_CELLS - 1)
        np.add.at(self.counts.reshape(-1), place_m * MIDDLE_CELLS + middle_m, 1)
        self.lower_bits |= bool((bits_m << np.uint64(HIGH_BITS + MIDDLE_BITS)).any())


class _Values(Generic[Rows]):
    """The different values with certain bits before the lowest, in order, and their counts."""

    def __init__(
        self, read: Callable[[Rows], Float[np.ndarray, "m"]], prefix_K: UInt64[np.ndarray, "K"]
    ) -> None:
        self.bits = np.empty(0, np.uint64)
        self.counts = np.empty(0, np.int64)
        self._read = read
        self._prefix_K = prefix_K

    def add(self, rows: Rows, /) -> None:
        bits_m = _bits(self._read(rows))
        prefix_m = bits_m >> LOW_BITS
        place_m = np.searchsorted(self._prefix_K, prefix_m)
        among_m = self._prefix_K[np.minimum(place_m, len(self._prefix_K) - 1)] == prefix_m
        bits, counts = np.unique(bits_m[among_m], return_counts=True)
        together = np.concatenate([self.bits, bits])
        self.bits, inverse = np.unique(together, return_inverse=True)
        self.counts = np.bincount(inverse, np.concatenate([self.counts, counts])).astype(np.int64)


def _cells(
    counts: Int[np.ndarray, "cells"], rank_Q: Int[np.ndarray, "Q"]
) -> tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "Q"]]:
    """The cell of each rank, and the rank within it."""
    above = np.cumsum(counts)
    cell_Q = np.searchsorted(above, rank_Q, side="right")
    return cell_Q, rank_Q - (above[cell_Q] - counts[cell_Q])


def _bits(values_m: Float[np.ndarray, "m"]) -> UInt64[np.ndarray, "m"]:
    """Integers in the order of the values; -0 is 0."""
    bits_m: UInt64[np.ndarray, "m"] = (np.asarray(values_m, np.float64) + 0.0).view(np.uint64)
    flipped_m = bits_m.view(np.int64) >> 63  # all bits of negative values, the sign of others
    bits_m ^= flipped_m.view(np.uint64) | SIGN
    return bits_m


def _floats(bits_Q: UInt64[np.ndarray, "Q"]) -> Float[np.ndarray, "Q"]:
    """The values of these integers."""
    return np.where(bits_Q & SIGN, bits_Q & ~SIGN, ~bits_Q).view(np.float64)
