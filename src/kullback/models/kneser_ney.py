"""How far does counting go?  Interpolated modified Kneser-Ney n-gram models.

An n-gram model predicts a token from the ``order - 1`` tokens before it, by counting.  It is
the baseline that every neural model owes its reader: it trains in seconds, it has no learning
rate, and on a small text it is embarrassingly good.

**Counting alone fails.**  The maximum-likelihood estimate c(hw) / c(h) gives probability zero,
hence an infinite cross-entropy, to every token w that never followed the context h.  Kneser
and Ney answer in three steps.

1. *Discount.*  Take a little, D, off every count.  Chen and Goodman read three discounts per
   order, for counts of one, two, and three or more, off the counts of counts.
2. *Interpolate.*  Give what was taken to the model of the next shorter context h′, which is h
   without its first token::

       p(w | h) = (a(hw) − D[a(hw)]) / Σ_v a(hv)  +  γ(h) p(w | h′),    D[0] = 0
       γ(h)     = Σ_v D[a(hv)] / Σ_v a(hv)

   Below the empty context stands the uniform distribution 1/V, so no token has probability
   zero.  A context that nothing ever followed adds nothing: p(w | h) = p(w | h′).
3. *Count contexts, not occurrences.*  "Francisco" may be frequent, but if it only ever follows
   "San", then a shorter context, which is asked where the longer one fails, should rate it low.
   So a(g) is the number of occurrences at the highest order only; below, it is the number of
   *distinct tokens seen to the left* of g.  An occurrence at the start of a sentence has no
   token to its left and counts itself: the usual rule for n-grams that begin with the start
   symbol, extended here to texts that have none.

**One trie, one binary search per order.**  The n-gram x₁…xₙ is stored as the key
``id(x₁…xₙ₋₁) · V + xₙ`` and its id is the rank of that key.  Followers of one context are
therefore contiguous, and all n-grams of a text are found in one vectorised search per order.

Conventions: natural logarithms; token ids are integers in [0, V).  The start symbol ``bos`` is
context only: the one put before each sentence is not counted as a prediction.

Axes: N rows (sentences or contexts), T columns, V vocabulary, G n-grams, C contexts of one order.

References: R. Kneser and H. Ney (1995), "Improved backing-off for m-gram language modeling",
ICASSP; S. F. Chen and J. Goodman (1999), "An empirical study of smoothing techniques for
language modeling", Computer Speech and Language 13, 359-394 (longer: TR-10-98, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from kullback.errors import InvalidValueError

__all__ = ["NgramModel"]

_Row = Sequence[int] | Int[np.ndarray, " T"]
_Integers = Int64[np.ndarray, " _"]  # one for each position, n-gram or row, as its name says

# Where the counts of counts determine no valid discounts; KenLM's --discount_fallback (K. Heafield
# and others, 2013) uses the same, near what the formulas give on ordinary text.
_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class NgramModel:
    """An interpolated modified Kneser-Ney model of integer token ids; build it with `fit`.

    Attributes:
        order: tokens per n-gram; a prediction looks at ``order - 1`` tokens.
        vocabulary_size: V, the number of token ids.
        bos: the token id that stands before each sentence, or None.
        discounts: D₁, D₂, D₃₊ of each order, shortest first, float64 [order, 3].

    Example:
        >>> model = NgramModel.fit([[0, 1, 0, 1, 2]], order=2, vocabulary_size=3, bos=None)
        >>> model.next_token_distribution([2, 0]).round(4)  # twice 1: (2 - 1)/2 + (1/2) 7/24
        array([0.2083, 0.6458, 0.1458])
    """

    order: int
    vocabulary_size: int
    bos: int | None
    discounts: Float64[np.ndarray, "order 3"] = field(repr=False)
    _unigram: Float64[np.ndarray, " V"] = field(repr=False)
    _tables: tuple[_Table, ...] = field(repr=False)  # of orders 2, 3, …

    @classmethod
    def fit(
        cls,
        sentences: Sequence[_Row] | Int[np.ndarray, "N T"],
        *,
        order: int,
        vocabulary_size: int,
        bos: int | None,
        lengths: _Row | None = None,
    ) -> Self:
        """Count n-grams up to `order`, choose the discounts, and return the smoothed model.

        With t_k the number of n-grams of one order whose count a is exactly k, the discounts of
        that order are D_k = k − (k + 1) Y t_{k+1} / t_k for k = 1, 2 and 3 (which serves all
        larger counts too), where Y = t₁ / (t₁ + 2 t₂).  If some t₁, …, t₄ is zero, or some D_k
        falls outside (0, k], that order takes ½, 1, 3/2 instead (Chen and Goodman, 1999).

        Args:
            sentences: a sequence of rows of token ids, or a padded array [N, T].  A row includes
                its end-of-sentence token, which is predicted, and excludes `bos`.  One long
                running text is one row: ``[tokens]``.
            order: at least 1.
            vocabulary_size: V.
            bos: the token id to put before every row; None makes the first tokens of a row back
                off to the shorter contexts that they have.
            lengths: tokens per row of a padded array [N]; by default all T.

        Raises:
            InvalidValueError: for an order below 1, an empty corpus, a token id outside [0, V),
                a token that is no integer, or lengths that do not fit.

        Example:
            >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
            >>> model.discounts.tolist()  # a corpus too small to estimate them
            [[0.5, 1.0, 1.5], [0.5, 1.0, 1.5], [0.5, 1.0, 1.5]]
        """
        order = _positive(order, "order")
        vocabulary_size = _positive(vocabulary_size, "vocabulary_size")
        if bos is not None and bos not in range(vocabulary_size):
            raise InvalidValueError(
                f"bos is {bos!r}: it must be a token id in [0, {vocabulary_size}), or None"
            )
        values, sizes = _rows(sentences, lengths, "sentences")
        text = _laid_end_to_end(values, sizes, bos, vocabulary_size, "sentences[{row}][{column}]")
        if not text.predicted.any():
            raise InvalidValueError("sentences hold no token: there must be at least one to count")

        keys, counts = _counted(text, order, vocabulary_size)
        contexts = [1, *map(len, keys)]  # the empty context; then the n-grams one order below
        tables = tuple(
            _smoothed(keys[n], counts[n], contexts[n], vocabulary_size) for n in range(order)
        )
        discounts = np.array([table.discounts for table in tables])
        unigram = tables[0].alphas + tables[0].gammas[0] / vocabulary_size
        return cls(order, vocabulary_size, bos, discounts, unigram, tables[1:])

    def token_log_probs(
        self, tokens: Int[np.ndarray, "N T"], lengths: _Row | None = None
    ) -> Float64[np.ndarray, "N T"]:
        """Return log p(token | the tokens before it in its row) in nats, float64 [N, T].

        Rows are as in `fit`: end of sentence included, `bos` excluded (and put in front here).
        Columns at and beyond a row's length are 0, so that a row's sum is log p(sentence).

        Raises:
            InvalidValueError: for a token id outside [0, V), or lengths that do not fit.

        Example:
            >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
            >>> model.token_log_probs(np.array([[1, 2, -1], [1, 1, 2]]), [2, 3]).round(3)
            array([[-0.288, -0.693,  0.   ],
                   [-0.288, -0.78 , -0.288]])
        """
        values, sizes = _rows(np.asarray(tokens), lengths, "tokens")
        text = _laid_end_to_end(
            values, sizes, self.bos, self.vocabulary_size, "tokens[{row}, {column}]"
        )
        probabilities = self._unigram[text.tokens]
        ids = text.tokens
        for table in self._tables:
            # An n-gram is in the trie only if its prefix and its suffix are: look no further.
            ends = 1 + np.flatnonzero((text.depth[1:] > 0) & (ids[:-1] >= 0))
            contexts = ids[ends - 1]
            backed_off = probabilities[ends] * table.gammas[contexts]
            found = np.flatnonzero(ids[ends] >= 0)
            ranks = table.ranks(contexts[found], text.tokens[ends[found]])
            seen = ranks >= 0
            backed_off[found[seen]] += table.alphas[ranks[seen]]
            probabilities[ends] = backed_off
            ids = np.full(len(ids), -1, dtype=np.int64)
            ids[ends[found]] = ranks
        log_probs = np.zeros((len(sizes), np.shape(tokens)[1]))
        log_probs[_inside(log_probs.shape[1], sizes)] = np.log(probabilities[text.predicted])
        return log_probs

    def log_probs(self, contexts: Int[np.ndarray, "N C"]) -> Float64[np.ndarray, "N V"]:
        """Return log p(· | context) in nats for each row of `contexts`, float64 [N, V].

        Args:
            contexts: token ids [N, order − 1], right-aligned; −1 on the left means "no token",
                a shorter context.  A sentence's start is [−1, …, −1, bos].

        Raises:
            InvalidValueError: for another shape, a token id outside [0, V), or a −1 that stands
                to the right of a token.

        Example:
            >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
            >>> np.exp(model.log_probs(np.array([[-1, 0], [0, 1]]))).round(3)
            array([[0.083, 0.75 , 0.167],
                   [0.042, 0.458, 0.5  ]])
        """
        contexts = _integers(contexts, "contexts", dimensions=2)
        if contexts.shape[1] != self.order - 1:
            raise InvalidValueError(
                f"contexts has shape {contexts.shape}: a model of order {self.order} takes"
                f" [rows, {self.order - 1}]; pad short contexts with -1 on the left"
            )
        wrong = (contexts < -1) | (contexts >= self.vocabulary_size)
        wrong[:, 1:] |= (contexts[:, 1:] == -1) & (contexts[:, :-1] >= 0)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InvalidValueError(
                f"contexts[{row}, {column}] is {contexts[row, column]}: it must be a token id in"
                f" [0, {self.vocabulary_size}), or -1 where no token stands to its left"
            )
        p = self._distributions(contexts)
        np.log(p, out=p)
        return p

    def next_token_distribution(self, prefix: Sequence[int]) -> Float64[np.ndarray, " V"]:
        """Return p(· | prefix), float64 [V], after the tokens of a sentence so far.

        `prefix` excludes `bos`, which is put in front; it may be empty and of any length.

        Raises:
            InvalidValueError: for a token id outside [0, V).

        Example:
            >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
            >>> model.next_token_distribution([]).round(3)
            array([0.083, 0.75 , 0.167])
        """
        values = _integers(prefix, "prefix")
        sizes = np.array([len(values)])
        text = _laid_end_to_end(values, sizes, self.bos, self.vocabulary_size, "prefix[{column}]")
        contexts = np.full((1, self.order - 1), -1, dtype=np.int64)
        known = min(self.order - 1, len(text.tokens))
        contexts[0, self.order - 1 - known :] = text.tokens[len(text.tokens) - known :]
        return self._distributions(contexts).reshape(-1)

    def _distributions(self, contexts: Int64[np.ndarray, "N C"]) -> Float64[np.ndarray, "N V"]:
        """Return p(· | context), from the unigrams up: scale by γ, add the followers' α."""
        p = np.tile(self._unigram, (len(contexts), 1))
        for k, table in enumerate(self._tables, start=1):
            # Walk down the trie along the last k tokens: these are the contexts of this table.
            columns = contexts[:, self.order - 1 - k :].T
            ids = columns[0]
            for prefixes, column in zip(self._tables, columns[1:], strict=False):
                ids = prefixes.ranks(ids, column)
            rows = np.flatnonzero(ids >= 0)
            ids = ids[rows]
            p[rows] *= table.gammas[ids, None]
            edges = np.stack([ids, ids + 1]) * self.vocabulary_size
            first, last = np.searchsorted(table.keys, edges)
            sizes = last - first
            followers = np.repeat(last - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
            tokens = table.keys[followers] % self.vocabulary_size
            p[np.repeat(rows, sizes), tokens] += table.alphas[followers]
        return p


@dataclass(frozen=True, eq=False)
class _Table:
    """The n-grams of one order: sorted keys, α of each n-gram, γ of each context."""

    keys: _Integers
    alphas: Float64[np.ndarray, " G"]
    gammas: Float64[np.ndarray, " C"]
    discounts: tuple[float, float, float]
    vocabulary_size: int

    def ranks(self, contexts: _Integers, tokens: _Integers) -> _Integers:
        """Return the ids of the n-grams (context, token); -1 where unseen or the context is -1."""
        wanted = contexts * self.vocabulary_size + tokens
        if not len(self.keys):
            return np.full_like(wanted, -1)
        ranks = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[ranks] == wanted, ranks, -1)


def _counted(
    text: _Text, order: int, vocabulary_size: int
) -> tuple[list[_Integers], list[_Integers]]:
    """Return the keys of the n-grams of each order, and their counts a(g)."""
    keys = [np.arange(vocabulary_size, dtype=np.int64)]
    counts: list[_Integers] = []
    ids = text.tokens  # of the n-gram that ends at each position; -1 where its row is too short
    ends = np.flatnonzero(text.predicted)
    for n in range(1, order + 1):
        if n > 1:
            ends = np.flatnonzero(text.depth >= n - 1)
            grams = ids[ends - 1] * vocabulary_size + text.tokens[ends]
            keys_n, ids_n = np.unique(grams, return_inverse=True)
            # Each distinct n-gram is one distinct left neighbour of the (n-1)-gram in it.
            suffixes = np.empty_like(keys_n)
            suffixes[ids_n] = ids[ends]
            counts[-1] += np.bincount(suffixes, minlength=len(keys[-1]))
            keys.append(keys_n)
            ids = np.full_like(ids, -1)
            ids[ends] = ids_n
        # What counts itself: everything at the highest order, sentence starts below.
        counted = ends if n == order else ends[text.depth[ends] == n - 1]
        counts.append(np.bincount(ids[counted], minlength=len(keys[-1])))
    return keys, counts


def _discounts(counts: _Integers) -> tuple[float, float, float]:
    """Return D₁, D₂, D₃₊ of one order from its counts of counts, or the fallback."""
    t = np.bincount(np.minimum(counts, 5), minlength=6)
    if t[1:5].all():
        y = t[1] / (t[1] + 2 * t[2])
        d1, d2, d3 = (float(k - (k + 1) * y * t[k + 1] / t[k]) for k in (1, 2, 3))
        if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3:
            return d1, d2, d3
    return _FALLBACK_DISCOUNTS


def _smoothed(keys: _Integers, counts: _Integers, contexts: int, vocabulary_size: int) -> _Table:
    """Return the table of one order: α = (a − D[a]) / Σa and γ = ΣD[a] / Σa, 1 if Σa is 0."""
    discounts = _discounts(counts)
    taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    parents = keys // vocabulary_size
    totals = np.bincount(parents, weights=counts, minlength=contexts)
    freed = np.bincount(parents, weights=taken, minlength=contexts)
    gammas = np.divide(freed, totals, out=np.ones(contexts), where=totals > 0)
    return _Table(keys, (counts - taken) / totals[parents], gammas, discounts, vocabulary_size)


class _Text(NamedTuple):
    """Rows laid end to end, each behind its `bos` if there is one."""

    tokens: _Integers
    depth: _Integers  # how many tokens of the row stand to the left
    predicted: Bool[np.ndarray, " P"]  # all but the `bos` put in front


def _laid_end_to_end(
    values: _Integers, sizes: _Integers, bos: int | None, vocabulary_size: int, place: str
) -> _Text:
    """Return the rows with `bos` in front; `place` is how an error writes a token's position."""
    wrong = np.flatnonzero((values < 0) | (values >= vocabulary_size))
    if len(wrong):
        row = int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
        column = int(wrong[0] - sizes[:row].sum())
        raise InvalidValueError(
            f"{place.format(row=row, column=column)} is {values[wrong[0]]}: a token id must lie"
            f" in [0, {vocabulary_size}), the vocabulary; give the array's lengths if it is padding"
        )
    front = 0 if bos is None else 1
    sizes = sizes + front
    depth = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    predicted = depth >= front
    tokens = np.full(len(depth), -1 if bos is None else bos, dtype=np.int64)
    tokens[predicted] = values
    return _Text(tokens, depth, predicted)


def _rows(
    sentences: Sequence[_Row] | Int[np.ndarray, "N T"], lengths: _Row | None, name: str
) -> tuple[_Integers, _Integers]:
    """Return the tokens of all rows end to end, without padding, and the rows' sizes."""
    if not isinstance(sentences, np.ndarray):
        if lengths is not None:
            raise InvalidValueError(f"lengths must be None when {name} is a sequence of rows")
        rows = [_integers(row, f"{name}[{i}]") for i, row in enumerate(sentences)]
        sizes = np.array([len(row) for row in rows], dtype=np.int64)
        return np.concatenate([*rows, np.empty(0, dtype=np.int64)]), sizes
    tokens = _integers(sentences, name, dimensions=2)
    n_rows, n_columns = tokens.shape
    sizes = np.full(n_rows, n_columns) if lengths is None else _integers(lengths, "lengths")
    if len(sizes) != n_rows:
        raise InvalidValueError(f"lengths has {len(sizes)} entries: it needs {n_rows}, one a row")
    wrong = np.flatnonzero((sizes < 0) | (sizes > n_columns))
    if len(wrong):
        raise InvalidValueError(
            f"lengths[{wrong[0]}] is {sizes[wrong[0]]}: it must lie in [0, {n_columns}], the"
            f" number of columns of {name}"
        )
    return tokens[_inside(n_columns, sizes)], sizes


def _inside(n_columns: int, sizes: _Integers) -> Bool[np.ndarray, "N T"]:
    """Return which entries of a padded array are tokens."""
    return np.arange(n_columns) < sizes[:, None]


def _integers(
    values: _Row | Int[np.ndarray, "N T"], name: str, *, dimensions: int = 1
) -> Int64[np.ndarray, "..."]:
    """Return an array of int64 with that many dimensions; floats are refused, not rounded."""
    array = np.asarray(values)
    if array.ndim != dimensions:
        wanted = "[rows, columns]" if dimensions == 2 else "flat; one text is [tokens], one row"
        raise InvalidValueError(f"{name} has shape {array.shape}: it must be {wanted}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InvalidValueError(f"{name} has dtype {array.dtype}: it must hold integers")
    return array.astype(np.int64, copy=False)


def _positive(value: int, name: str) -> int:
    """Return `value` as an int, or say that it is not a whole number of at least 1."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise InvalidValueError(f"{name} is {value!r}: it must be a whole number, at least 1")
    return int(value)
