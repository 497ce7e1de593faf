"""Counts of n-grams, order by order, their discounts, and the smoothed model of each order.

The n-gram x₁…xₙ is stored as the key ``id(x₁…xₙ₋₁) · V + xₙ`` and its id is the rank of that key.
Followers of one context are therefore contiguous, and all n-grams of a text are looked up in one
vectorised search per order.

Two million tokens have nearly as many n-grams of each order from 4 on, so `count_ngrams` has those
of one order at a time, in 32 bits where they are enough.

Axes: G n-grams, C contexts of one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int

from kullback.models._token_rows import Integers, TokenStream

__all__ = [
    "NgramCounter",
    "Smoothed",
    "Table",
    "count_ngrams",
    "joined",
    "parts",
    "ranks_of",
    "tables_of_orders",
]

# Used where the counts of counts give no valid discounts; KenLM's --discount_fallback (K. Heafield
# and others, 2013) uses the same, near what the formulas give on ordinary text.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
# n-grams of a text that are looked at together.
PART = 1 << 18


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The smoothed model of one order: α = (a − D[a]) / Σa and γ = ΣD[a] / Σa, 1 where Σa is 0."""

    counts: Int[np.ndarray, " G"]
    parents: Int[np.ndarray, " G"]
    """The id of the context of each n-gram."""
    totals: Int[np.ndarray, " C"]
    freed: Float64[np.ndarray, " C"]
    discounts: tuple[float, float, float]

    @classmethod
    def of(cls, counts: Integers, parents: Integers, contexts: int) -> Smoothed:
        """The model of n-grams that are counted."""
        discounts = _discounts(counts)
        taken = np.array([0.0, *discounts])
        totals, freed = np.zeros(contexts, counts.dtype), np.zeros(contexts)
        for part in parts(len(counts)):
            places = parents[part].astype(np.intp)
            np.add.at(totals, places, counts[part])
            np.add.at(freed, places, taken[np.minimum(counts[part], 3)])
        return cls(counts, parents, totals, freed, discounts)

    def alphas(self, ids: Integers | slice = slice(None)) -> Float64[np.ndarray, "..."]:
        """α of n-grams."""
        counts = self.counts[ids]
        taken = np.array([0.0, *self.discounts])[np.minimum(counts, 3)]
        alphas: Float64[np.ndarray, "..."] = (counts - taken) / self.totals[self.parents[ids]]
        return alphas

    def gammas(self, contexts: Integers | slice = slice(None)) -> Float64[np.ndarray, "..."]:
        """γ of contexts."""
        totals = self.totals[contexts]
        gammas: Float64[np.ndarray, "..."] = np.divide(
            self.freed[contexts], totals, out=np.ones(len(totals)), where=totals > 0
        )
        return gammas


@dataclass(frozen=True, eq=False)
class Table:
    """The n-grams of one order: sorted keys, α of each n-gram, γ of each context."""

    keys: Integers
    alphas: Float64[np.ndarray, " G"]
    gammas: Float64[np.ndarray, " C"]
    discounts: tuple[float, float, float]
    vocabulary_size: int

    def ranks(self, contexts: Integers, tokens: Integers) -> Integers:
        """The ids of the n-grams (context, token); -1 where unseen or the context is -1."""
        return ranks_of(joined(contexts, tokens, self.vocabulary_size), self.keys)


class NgramCounter(Protocol):
    """What `count_ngrams` tells: first the n-grams of an order, then how often each is counted."""

    def extend(self, keys: Integers, contexts: int) -> None:
        """The n-grams one token longer than before, of so many contexts; first the tokens."""

    def count(self, counts: Integers, highest: bool) -> None:
        """Continuation counts; of the `highest` order of a model, occurrences."""


def count_ngrams(
    stream: TokenStream, orders: Sequence[int], vocabulary_size: int, counter: NgramCounter
) -> None:
    """Count the n-grams of models of several orders, which share those below the highest of each.

    The continuation count of an n-gram is the number of distinct tokens to its left; an occurrence
    at the start of a row, which has none, counts itself.
    """
    counter.extend(np.arange(vocabulary_size, dtype=np.int64), 1)
    size = vocabulary_size  # n-grams of order n
    ids = stream.tokens  # of the n-gram that ends at each position; -1 where its row is too short
    is_end = stream.predicted
    for n in range(1, max(orders) + 1):
        if n in orders:
            counter.count(_occurrences(size, ids[is_end]), True)
        if n == max(orders):
            return
        is_longer = stream.has_before(n)
        counts = _occurrences(size, ids[is_end & ~is_longer])
        is_end = is_longer
        keys, of_ends, first = _distinct(
            joined(ids[:-1][is_end[1:]], stream.tokens[is_end], vocabulary_size)
        )
        # Each distinct n-gram is one distinct left neighbour of the (n-1)-gram in it.
        counts += _occurrences(size, ids[is_end], first)
        del first
        ids = np.full_like(ids, -1)
        ids[is_end] = of_ends
        del of_ends
        counter.count(counts, False)
        del counts
        contexts, size = size, len(keys)
        counter.extend(keys, contexts)
        del keys  # before the next are sorted


def tables_of_orders(
    stream: TokenStream, orders: Sequence[int], vocabulary_size: int
) -> dict[int, tuple[Table, ...]]:
    """The tables of a model of each order, shortest n-grams first."""
    tables = _Tables(vocabulary_size)
    count_ngrams(stream, orders, vocabulary_size, tables)
    return {n: tables.of_orders[n] for n in orders}


class _Tables:
    """The tables of models of some orders."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._below: tuple[Table, ...] = ()
        self.of_orders: dict[int, tuple[Table, ...]] = {}

    def extend(self, keys: Integers, contexts: int) -> None:
        self._keys, self._contexts = keys, contexts

    def count(self, counts: Integers, highest: bool) -> None:
        V = self._vocabulary_size
        of_order = Smoothed.of(counts, self._keys // V, self._contexts)
        table = Table(self._keys, of_order.alphas(), of_order.gammas(), of_order.discounts, V)
        if highest:
            self.of_orders[len(self._below) + 1] = (*self._below, table)
        else:
            self._below = (*self._below, table)


def parts(size: int) -> Iterator[slice]:
    """All of an array, in parts: numpy copies an index that is not of 64 bits, and results."""
    for begin in range(0, size, PART):
        yield slice(begin, min(begin + PART, size))


def ranks_of(wanted: Integers, keys: Integers) -> Integers:
    """The places of `wanted` in sorted keys; -1 for those that are not there."""
    places = np.searchsorted(keys, wanted)
    is_there = places < len(keys)
    is_there[is_there] = keys[places[is_there]] == wanted[is_there]
    ranks = np.full(len(wanted), -1)
    ranks[is_there] = places[is_there]
    return ranks


def joined(contexts: Integers, tokens: Integers, vocabulary_size: int) -> Integers:
    """The keys of n-grams, int64."""
    keys = contexts.astype(np.int64)
    keys *= vocabulary_size
    keys += tokens
    return keys


def _occurrences(size: int, ids: Integers, places: Integers | None = None) -> Integers:
    """How often each of `size` ids is in `ids`, or at some of its places."""
    counts = np.zeros(size, np.int32 if len(ids) < 1 << 31 else np.int64)
    one = counts.dtype.type(1)  # with another type `add.at` takes ten times as long
    for part in parts(len(ids if places is None else places)):
        some = ids[part] if places is None else ids[places[part]]
        np.add.at(counts, some.astype(np.intp), one)
    return counts


def _distinct(keys: Integers) -> tuple[Integers, Integers, Integers]:
    """The distinct keys, sorted; the rank of each key, and a place of each distinct one.

    What `np.unique` gives, in a quarter of its memory: `keys` is overwritten.  Where key and place
    fit into 64 bits they are sorted as one number, which needs no index.
    """
    size = len(keys)
    bits = max(size - 1, 0).bit_length()
    index = np.int32 if bits < 32 else np.int64
    if size and int(keys.max()) < 1 << (63 - bits):
        keys <<= bits
        for part in parts(size):
            keys[part] += np.arange(part.start, part.stop)
        keys.sort()
        order = np.empty(size, index)
        np.bitwise_and(keys, (1 << bits) - 1, out=order, casting="unsafe")
        keys >>= bits
    else:
        order = np.argsort(keys).astype(index)
        keys = keys[order]
    begins = np.ones(size, bool)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    ranks, distinct = np.empty(size, index), 0
    for part in parts(size):
        numbers = np.cumsum(begins[part])
        ranks[order[part]] = numbers + (distinct - 1)
        # Moved to the front: where there is a part, what precedes it is no longer needed.
        for values in (keys, order):
            some = values[part][begins[part]]
            values[distinct : distinct + len(some)] = some
        distinct += int(numbers[-1])
    return keys[:distinct], ranks, order[:distinct]


def _discounts(counts: Integers) -> tuple[float, float, float]:
    """D₁, D₂, D₃₊ of one order from its counts of counts, or the fallback."""
    t = [int(np.count_nonzero(counts == k)) for k in range(5)]
    if all(t[1:]):
        y = t[1] / (t[1] + 2 * t[2])
        d1, d2, d3 = (float(k - (k + 1) * y * t[k + 1] / t[k]) for k in (1, 2, 3))
        if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3:
            return d1, d2, d3
    return FALLBACK_DISCOUNTS
