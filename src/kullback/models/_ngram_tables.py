"""Tables of n-grams: sorted keys, counts, discounts, and the smoothed model of each order.

The n-gram x₁…xₙ is stored as the key ``id(x₁…xₙ₋₁) · V + xₙ`` and its id is the rank of that key.
Followers of one context are therefore contiguous, and all n-grams of a text are looked up in one
vectorised search per order.

Axes: G n-grams, C contexts of one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from kullback.models._token_rows import Integers, TokenStream

__all__ = ["Table", "tables_of_orders"]

# Used where the counts of counts give no valid discounts; KenLM's --discount_fallback (K. Heafield
# and others, 2013) uses the same, near what the formulas give on ordinary text.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


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
        return _ranks(self.keys, contexts * self.vocabulary_size + tokens)


def _ranks(keys: Integers, wanted: Integers) -> Integers:
    """The places of `wanted` in sorted keys; -1 for those that are not there."""
    if not len(keys):
        return np.full_like(wanted, -1)
    ranks = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[ranks] == wanted, ranks, -1)


def tables_of_orders(
    stream: TokenStream,
    orders: Sequence[int],
    vocabulary_size: int,
    scored: TokenStream | None = None,
) -> dict[int, tuple[Table, ...]]:
    """The tables of a model of each order, shortest n-grams first.

    Models of all orders share the n-grams and the tables below their highest order.  With `scored`
    the tables have only the n-grams that are in it, with the same α and γ: those of all n-grams of
    2 million tokens take 600 MB for seven orders.
    """
    kept = _Everything() if scored is None else _Scored(scored, vocabulary_size)
    below: list[Table] = []
    tables: dict[int, tuple[Table, ...]] = {}
    counted = _counts(stream, orders, vocabulary_size)
    for n, (keys, contexts, continuations, occurrences) in enumerate(counted, start=1):
        if n > 1:
            kept.extend(keys)
        if occurrences is not None:
            tables[n] = (*below, kept.table(keys, occurrences, contexts, vocabulary_size))
        if continuations is not None:
            below.append(kept.table(keys, continuations, contexts, vocabulary_size))
        del keys, continuations, occurrences  # before the next are counted
    return {n: tables[n] for n in orders}


class _Everything:
    """Keeps all n-grams of a table."""

    def extend(self, keys: Integers) -> None:
        """Go on to the n-grams one token longer."""

    def table(self, keys: Integers, counts: Integers, contexts: int, vocabulary_size: int) -> Table:
        """What is kept of the table of one order."""
        return _smoothed(keys, counts, contexts, vocabulary_size, _discounts(counts))


class _Scored(_Everything):
    """Keeps the n-grams that are in a stream; an id is the rank among those that are kept."""

    def __init__(self, stream: TokenStream, vocabulary_size: int) -> None:
        self._stream, self._vocabulary_size = stream, vocabulary_size
        # Of the n-gram that ends at each position, before and after; -1 where there is none.
        self._ids = self._new_ids = stream.tokens
        self._contexts = np.zeros(1, np.int64)
        self._kept = np.arange(vocabulary_size)
        self._keys = self._kept

    def extend(self, keys: Integers) -> None:
        tokens, V = self._stream.tokens, self._vocabulary_size
        ends = 1 + np.flatnonzero((self._stream.depth[1:] > 0) & (self._ids[:-1] >= 0))
        ranks = _ranks(keys, self._ids[ends - 1] * V + tokens[ends])
        contexts, ends = self._new_ids[ends - 1][ranks >= 0], ends[ranks >= 0]
        self._contexts = self._kept
        ranks = ranks[ranks >= 0]
        self._kept, first, new = np.unique(ranks, return_index=True, return_inverse=True)
        self._keys = (contexts * V + tokens[ends])[first]
        self._ids, self._new_ids = (np.full(len(tokens), -1) for _ in range(2))
        self._ids[ends], self._new_ids[ends] = self._kept[new], new

    def table(self, keys: Integers, counts: Integers, contexts: int, vocabulary_size: int) -> Table:
        # The followers of the contexts that are kept: their counts are all that is summed.
        is_kept = np.zeros(contexts, bool)
        is_kept[self._contexts] = True
        followers = np.flatnonzero(is_kept[keys // vocabulary_size])
        discounts = _discounts(counts)
        table = _smoothed(keys[followers], counts[followers], contexts, vocabulary_size, discounts)
        return replace(
            table,
            keys=self._keys,
            alphas=table.alphas[np.searchsorted(followers, self._kept)],
            gammas=table.gammas[self._contexts],
        )


class _Counted(NamedTuple):
    """The n-grams of one order."""

    keys: Integers
    contexts: int
    """The number of n-grams that are one token shorter."""
    continuations: Integers | None
    """The number of distinct tokens to the left of each; None at the highest order."""
    occurrences: Integers | None
    """None where no model has this order."""


def _counts(stream: TokenStream, orders: Sequence[int], vocabulary_size: int) -> Iterator[_Counted]:
    """The n-grams of each order up to the highest.

    The continuation count of an n-gram is the number of distinct tokens to its left; an occurrence
    at the start of a row, which has none, counts itself.
    """
    keys = np.arange(vocabulary_size, dtype=np.int64)
    contexts = 1  # the empty one
    ids = stream.tokens  # of the n-gram that ends at each position; -1 where its row is too short
    ends = np.flatnonzero(stream.predicted)
    for n in range(1, max(orders) + 1):
        occurrences = None
        if n in orders:
            occurrences = np.bincount(ids[ends], minlength=len(keys)).astype(np.int32)
        if n == max(orders):
            yield _Counted(keys, contexts, None, occurrences)
            return
        starts = ends[stream.depth[ends] == n - 1]
        continuations = np.bincount(ids[starts], minlength=len(keys))
        ends = np.flatnonzero(stream.depth >= n)
        longer, of_ends, first = _distinct(ids[ends - 1] * vocabulary_size + stream.tokens[ends])
        # Each distinct n-gram is one distinct left neighbour of the (n-1)-gram in it.
        continuations += np.bincount(ids[ends[first]], minlength=len(keys))
        del first
        ids = np.full_like(ids, -1)
        ids[ends] = of_ends
        del of_ends
        yield _Counted(keys, contexts, continuations, occurrences)
        keys, contexts = longer, len(keys)


def _distinct(values: Integers) -> tuple[Integers, Integers, Integers]:
    """The distinct values, sorted; the rank of each value, and a place of each distinct one.

    What `np.unique` gives, in half of its memory.
    """
    order = np.argsort(values)
    ordered = values[order]
    del values
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    ranks = np.empty_like(order)
    ranks[order] = np.cumsum(begins) - 1
    return ordered[begins], ranks, order[begins]


def _discounts(counts: Integers) -> tuple[float, float, float]:
    """D₁, D₂, D₃₊ of one order from its counts of counts, or the fallback."""
    t = np.bincount(np.minimum(counts, 5), minlength=6)
    if t[1:5].all():
        y = t[1] / (t[1] + 2 * t[2])
        d1, d2, d3 = (float(k - (k + 1) * y * t[k + 1] / t[k]) for k in (1, 2, 3))
        if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3:
            return d1, d2, d3
    return FALLBACK_DISCOUNTS


def _smoothed(
    keys: Integers,
    counts: Integers,
    contexts: int,
    vocabulary_size: int,
    discounts: tuple[float, float, float],
) -> Table:
    """The table of one order: α = (a − D[a]) / Σa and γ = ΣD[a] / Σa, 1 where Σa is 0."""
    taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    parents = keys // vocabulary_size
    totals = np.bincount(parents, weights=counts, minlength=contexts)
    freed = np.bincount(parents, weights=taken, minlength=contexts)
    gammas = np.divide(freed, totals, out=np.ones(contexts), where=totals > 0)
    return Table(keys, (counts - taken) / totals[parents], gammas, discounts, vocabulary_size)
