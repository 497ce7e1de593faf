"""Interpolated modified Kneser-Ney n-gram models.

An n-gram model predicts a token from the ``order - 1`` tokens before it, by counting.  It is the
baseline of a neural model: it is fitted in seconds, has no learning rate, and is hard to beat on a
small text.

The maximum-likelihood estimate c(hw) / c(h) gives probability zero, hence an infinite
cross-entropy, to every token w that never followed the context h.  Kneser and Ney take three steps.

1. *Discount.*  Subtract D from every count.  Chen and Goodman estimate three discounts per order,
   for counts of one, two, and three or more, from the counts of counts.
2. *Interpolate.*  Give the subtracted mass to the model of the next shorter context h′, which is h
   without its first token::

       p(w | h) = (a(hw) − D[a(hw)]) / Σ_v a(hv)  +  γ(h) p(w | h′),    D[0] = 0
       γ(h)     = Σ_v D[a(hv)] / Σ_v a(hv)

   Below the empty context is the uniform distribution 1/V, so no token has probability zero.  A
   context that was never followed by anything adds nothing: p(w | h) = p(w | h′).
3. *Count contexts, not occurrences.*  "Francisco" may be frequent, but if it only ever follows
   "San", then a shorter context, which is used where the longer one was not seen, should rate it
   low.  So a(g) is the number of occurrences at the highest order only; below, it is the number of
   *distinct tokens to the left* of g.  An occurrence at the start of a sentence has no token to
   its left and counts itself: the usual rule for n-grams that begin with the start symbol,
   extended here to texts without one.

Conventions: natural logarithms; token ids are integers in [0, V).  The start symbol ``bos`` is
context only: the one added before each sentence is not counted as a prediction.

Axes: N rows (sentences or contexts), T columns, V vocabulary, C tokens of a context.

References: R. Kneser and H. Ney (1995), "Improved backing-off for m-gram language modeling",
ICASSP; S. F. Chen and J. Goodman (1999), "An empirical study of smoothing techniques for
language modeling", Computer Speech and Language 13, 359-394 (longer: TR-10-98, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from jaxtyping import Float64, Int, Int64

from kullback.errors import InvalidValueError
from kullback.models._ngram_tables import Table, tables_of_orders
from kullback.models._token_rows import (
    Row,
    integers,
    positive,
    rows_of,
    sentence_stream,
    token_mask,
    token_stream,
)

__all__ = ["NgramModel"]


@dataclass(frozen=True, eq=False)
class NgramModel:
    """An interpolated modified Kneser-Ney model of integer token ids; build it with `fit`.

    >>> model = NgramModel.fit([[0, 1, 0, 1, 2]], order=2, vocabulary_size=3, bos=None)
    >>> model.next_token_distribution([2, 0]).round(4)  # 1 followed 0 twice: (2 - 1)/2 + (1/2) 7/24
    array([0.2083, 0.6458, 0.1458])
    """

    order: int
    """Tokens per n-gram; a prediction depends on ``order - 1`` tokens."""
    vocabulary_size: int
    bos: int | None
    """The token id before each sentence, or None."""
    discounts: Float64[np.ndarray, "order 3"] = field(repr=False)
    """D₁, D₂, D₃₊ of each order, shortest first."""
    _unigram: Float64[np.ndarray, " V"] = field(repr=False)
    _tables: tuple[Table, ...] = field(repr=False)
    """Of orders 2, 3, …"""

    @classmethod
    def fit(
        cls,
        sentences: Sequence[Row] | Int[np.ndarray, "N T"],
        *,
        order: int,
        vocabulary_size: int,
        bos: int | None,
        lengths: Row | None = None,
    ) -> Self:
        """Count n-grams up to `order`, choose the discounts, and return the smoothed model.

        `sentences` is a sequence of rows of token ids, or a padded array [N, T] with `lengths`, the
        tokens of each row (default: all T).  A row includes its end-of-sentence token, which is
        predicted, and excludes `bos`, which is added before it; with None the first tokens of a row
        back off to the shorter contexts that they have.  One running text is one row: ``[tokens]``.

        With t_k the number of n-grams of one order whose count a is exactly k, the discounts of
        that order are D_k = k − (k + 1) Y t_{k+1} / t_k for k = 1, 2 and 3 (which serves all
        larger counts too), where Y = t₁ / (t₁ + 2 t₂).  If some t₁, …, t₄ is zero, or some D_k
        is outside (0, k], that order takes ½, 1, 3/2 instead (Chen and Goodman, 1999).

        Raises `InvalidValueError` for an order below 1, an empty corpus, a token id outside [0, V),
        a token that is not an integer, and lengths that do not match.

        >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
        >>> model.discounts.tolist()  # a corpus too small to estimate them
        [[0.5, 1.0, 1.5], [0.5, 1.0, 1.5], [0.5, 1.0, 1.5]]
        """
        return cls.fit_orders(
            sentences, orders=[order], vocabulary_size=vocabulary_size, bos=bos, lengths=lengths
        )[0]

    @classmethod
    def fit_orders(
        cls,
        sentences: Sequence[Row] | Int[np.ndarray, "N T"],
        *,
        orders: Sequence[int],
        vocabulary_size: int,
        bos: int | None,
        lengths: Row | None = None,
    ) -> list[Self]:
        """The models that `fit` gives for each of `orders`, in the time of the highest.

        Their n-grams are counted once.  Raises what `fit` raises.
        """
        orders = [positive(order, "order") for order in orders]
        if not orders:
            raise InvalidValueError("orders is empty: it must contain at least one order")
        vocabulary_size = positive(vocabulary_size, "vocabulary_size")
        if bos is not None and bos not in range(vocabulary_size):
            raise InvalidValueError(
                f"bos is {bos!r}: it must be a token id in [0, {vocabulary_size}), or None"
            )
        stream = sentence_stream(sentences, lengths, bos, vocabulary_size)
        models = []
        for order, tables in tables_of_orders(stream, orders, vocabulary_size).items():
            discounts = np.array([table.discounts for table in tables])
            unigram = tables[0].alphas + tables[0].gammas[0] * (1 / vocabulary_size)
            models.append(cls(order, vocabulary_size, bos, discounts, unigram, tables[1:]))
        return models

    def token_log_probs(
        self, tokens: Int[np.ndarray, "N T"], lengths: Row | None = None
    ) -> Float64[np.ndarray, "N T"]:
        """log p(token | the tokens before it in its row) in nats, float64 [N, T].

        Rows are as in `fit`: end of sentence included, `bos` excluded (it is added here).  Columns
        at and beyond a row's length are 0, so that a row's sum is log p(sentence).  Raises
        `InvalidValueError` for a token id outside [0, V), and for lengths that do not match.

        >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
        >>> model.token_log_probs(np.array([[1, 2, -1], [1, 1, 2]]), [2, 3]).round(3)
        array([[-0.288, -0.693,  0.   ],
               [-0.288, -0.78 , -0.288]])
        """
        values, sizes = rows_of(np.asarray(tokens), lengths, "tokens")
        stream = token_stream(
            values, sizes, self.bos, self.vocabulary_size, "tokens[{row}, {column}]"
        )
        probabilities = self._unigram[stream.tokens]
        ids, has_context = stream.tokens, stream.has_before(1)
        for table in self._tables:
            # An n-gram is in the table only if its prefix and its suffix are in the one below.
            ends = 1 + np.flatnonzero(has_context[1:] & (ids[:-1] >= 0))
            contexts = ids[ends - 1]
            backed_off = probabilities[ends] * table.gammas[contexts]
            candidates = np.flatnonzero(ids[ends] >= 0)
            ranks = table.ranks(contexts[candidates], stream.tokens[ends[candidates]])
            seen = ranks >= 0
            backed_off[candidates[seen]] += table.alphas[ranks[seen]]
            probabilities[ends] = backed_off
            ids = np.full_like(ids, -1)
            ids[ends[candidates]] = ranks
        log_probs = np.zeros((len(sizes), np.shape(tokens)[1]))
        log_probs[token_mask(log_probs.shape[1], sizes)] = np.log(probabilities[stream.predicted])
        return log_probs

    def log_probs(self, contexts: Int[np.ndarray, "N C"]) -> Float64[np.ndarray, "N V"]:
        """log p(· | context) in nats for each row of `contexts`, float64 [N, V].

        `contexts` are token ids [N, order − 1], right-aligned; −1 on the left means "no token", a
        shorter context.  The start of a sentence is [−1, …, −1, bos].  Raises `InvalidValueError`
        for another shape, a token id outside [0, V), and a −1 to the right of a token.

        >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
        >>> np.exp(model.log_probs(np.array([[-1, 0], [0, 1]]))).round(3)
        array([[0.083, 0.75 , 0.167],
               [0.042, 0.458, 0.5  ]])
        """
        contexts = integers(contexts, "contexts", dimensions=2)
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
                f" [0, {self.vocabulary_size}), or -1 where no token is to its left"
            )
        p = self._distributions(contexts)
        np.log(p, out=p)
        return p

    def next_token_distribution(self, prefix: Sequence[int]) -> Float64[np.ndarray, " V"]:
        """p(· | prefix), float64 [V], after the tokens of a sentence so far.

        `prefix` excludes `bos`, which is added; it may be empty and of any length.  Raises
        `InvalidValueError` for a token id outside [0, V).

        >>> model = NgramModel.fit([[1, 2], [1, 1, 2]], order=3, vocabulary_size=3, bos=0)
        >>> model.next_token_distribution([]).round(3)
        array([0.083, 0.75 , 0.167])
        """
        values = integers(prefix, "prefix")
        sizes = np.array([len(values)])
        stream = token_stream(values, sizes, self.bos, self.vocabulary_size, "prefix[{column}]")
        contexts = np.full((1, self.order - 1), -1, dtype=np.int64)
        known = min(self.order - 1, len(stream.tokens))
        contexts[0, self.order - 1 - known :] = stream.tokens[len(stream.tokens) - known :]
        return self._distributions(contexts).reshape(-1)

    def _distributions(self, contexts: Int64[np.ndarray, "N C"]) -> Float64[np.ndarray, "N V"]:
        """p(· | context), from the unigrams up: scale by γ, add the followers' α."""
        p = np.tile(self._unigram, (len(contexts), 1))
        for k, table in enumerate(self._tables, start=1):
            # The ids of the last k tokens, looked up order by order: the contexts of this table.
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
