"""Tables of n-grams: sorted keys, counts, discounts, and the smoothed model of each order.

The n-gram x₁…xₙ is stored as the key ``id(x₁…xₙ₋₁) · V + xₙ`` and its id is the rank of that key.
Followers of one context are therefore contiguous, and all n-grams of a text are looked up in one
vectorised search per order.

Axes: G n-grams, C contexts of one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        wanted = contexts * self.vocabulary_size + tokens
        if not len(self.keys):
            return np.full_like(wanted, -1)
        ranks = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[ranks] == wanted, ranks, -1)


def tables_of_orders(
    stream: TokenStream, orders: Sequence[int], vocabulary_size: int
) -> dict[int, tuple[Table, ...]]:
    """The tables of a model of each order, shortest n-grams first.

    Models of all orders share the n-grams and the tables below their highest order.
    """
    keys, continuations, occurrences = _counts(stream, orders, vocabulary_size)
    contexts = [1, *map(len, keys)]  # the empty context; then the n-grams one order below

    def table(n: int, counts: Integers) -> Table:
        return _smoothed(keys[n - 1], counts, contexts[n - 1], vocabulary_size)

    below = [table(n, continuations[n - 1]) for n in range(1, max(orders))]
    return {n: (*below[: n - 1], table(n, occurrences[n])) for n in orders}


def _counts(
    stream: TokenStream, orders: Sequence[int], vocabulary_size: int
) -> tuple[list[Integers], list[Integers], dict[int, Integers]]:
    """Keys and continuation counts of the n-grams of each order, and occurrences in `orders`.

    The continuation count of an n-gram is the number of distinct tokens to its left; an occurrence
    at the start of a row, which has none, counts itself.
    """
    keys = [np.arange(vocabulary_size, dtype=np.int64)]
    continuations: list[Integers] = []
    occurrences: dict[int, Integers] = {}
    ids = stream.tokens  # of the n-gram that ends at each position; -1 where its row is too short
    ends = np.flatnonzero(stream.predicted)
    for n in range(1, max(orders) + 1):
        if n > 1:
            ends = np.flatnonzero(stream.depth >= n - 1)
            grams = ids[ends - 1] * vocabulary_size + stream.tokens[ends]
            keys_n, ids_n = np.unique(grams, return_inverse=True)
            # Each distinct n-gram is one distinct left neighbour of the (n-1)-gram in it.
            suffixes = np.empty_like(keys_n)
            suffixes[ids_n] = ids[ends]
            continuations[-1] += np.bincount(suffixes, minlength=len(keys[-1]))
            keys.append(keys_n)
            ids = np.full_like(ids, -1)
            ids[ends] = ids_n
        if n in orders:
            occurrences[n] = np.bincount(ids[ends], minlength=len(keys[-1]))
        starts = ends[stream.depth[ends] == n - 1]
        continuations.append(np.bincount(ids[starts], minlength=len(keys[-1])))
    return keys, continuations, occurrences


def _discounts(counts: Integers) -> tuple[float, float, float]:
    """D₁, D₂, D₃₊ of one order from its counts of counts, or the fallback."""
    t = np.bincount(np.minimum(counts, 5), minlength=6)
    if t[1:5].all():
        y = t[1] / (t[1] + 2 * t[2])
        d1, d2, d3 = (float(k - (k + 1) * y * t[k + 1] / t[k]) for k in (1, 2, 3))
        if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3:
            return d1, d2, d3
    return FALLBACK_DISCOUNTS


def _smoothed(keys: Integers, counts: Integers, contexts: int, vocabulary_size: int) -> Table:
    """The table of one order: α = (a − D[a]) / Σa and γ = ΣD[a] / Σa, 1 where Σa is 0."""
    discounts = _discounts(counts)
    taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    parents = keys // vocabulary_size
    totals = np.bincount(parents, weights=counts, minlength=contexts)
    freed = np.bincount(parents, weights=taken, minlength=contexts)
    gammas = np.divide(freed, totals, out=np.ones(contexts), where=totals > 0)
    return Table(keys, (counts - taken) / totals[parents], gammas, discounts, vocabulary_size)
