"""Tokens scored by n-gram models of several orders while these are counted.

No model is kept: the n-grams of an order are looked up, and let go before those of the next are
counted.

Axes: P positions of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from kullback.models._ngram_tables import Smoothed, joined, parts, ranks_of
from kullback.models._token_rows import Integers, TokenStream

__all__ = ["OrderScores", "ScoredStream"]


class ScoredStream:
    """Tokens and their probabilities under a model, which grow with its order."""

    def __init__(self, stream: TokenStream, vocabulary_size: int) -> None:
        self.stream, self._vocabulary_size = stream, vocabulary_size
        # Of the n-gram that ends at each position, and of its context; -1 where it was not seen.
        self._ids = stream.tokens
        self._contexts = np.zeros_like(stream.tokens)

    def extend(self, keys: Integers) -> None:
        """Look up the n-grams that are one token longer."""
        tokens, ids = self.stream.tokens, self._ids
        self._contexts = np.full_like(ids, -1)
        self._contexts[1:] = np.where(self.stream.has_before(1)[1:], ids[:-1], -1)
        self._ids = np.full_like(ids, -1)
        for part in parts(len(ids)):
            # An n-gram was seen only if its prefix and its suffix were.
            candidates = part.start + np.flatnonzero((self._contexts[part] >= 0) & (ids[part] >= 0))
            wanted = joined(self._contexts[candidates], tokens[candidates], self._vocabulary_size)
            self._ids[candidates] = ranks_of(wanted, keys)

    def mixed(
        self,
        shorter: Float64[np.ndarray, " P"],
        alphas: Callable[[Integers], Float64[np.ndarray, "..."]],
        gammas: Callable[[Integers], Float64[np.ndarray, "..."]],
    ) -> Float64[np.ndarray, " P"]:
        """The probabilities under the model whose tables end here, from those one order shorter."""
        mixed = shorter.copy()
        for part in parts(len(mixed)):
            of_part = mixed[part]
            known = np.flatnonzero(self._contexts[part] >= 0)
            of_part[known] *= gammas(self._contexts[part][known])
            seen = np.flatnonzero(self._ids[part] >= 0)
            of_part[seen] += alphas(self._ids[part][seen])
        return mixed


class OrderScores:
    """Counts for models of several orders, and what each gives the tokens of some streams.

    `take` is called with each order and the log-probabilities of the predicted tokens of each
    stream, in nats; lower orders first.
    """

    def __init__(
        self,
        streams: Sequence[TokenStream],
        vocabulary_size: int,
        take: Callable[[int, list[Float64[np.ndarray, "..."]]], None],
    ) -> None:
        self._scored = [ScoredStream(stream, vocabulary_size) for stream in streams]
        self._shorter = [np.full(len(stream.tokens), 1 / vocabulary_size) for stream in streams]
        self._vocabulary_size, self._take, self._order = vocabulary_size, take, 0

    def extend(self, keys: Integers, contexts: int) -> None:
        """Look up the tokens' n-grams, which are one token longer than before."""
        self._order += 1
        parents = np.empty(len(keys), np.int32 if contexts < 1 << 31 else np.int64)
        np.floor_divide(keys, self._vocabulary_size, out=parents, casting="unsafe")
        self._parents, self._n_contexts = parents, contexts
        if self._order > 1:
            for scored in self._scored:
                scored.extend(keys)

    def count(self, counts: Integers, highest: bool) -> None:
        """Score the tokens by the n-grams that are counted."""
        smoothed = Smoothed.of(counts, self._parents, self._n_contexts)
        mixed = [
            scored.mixed(shorter, smoothed.alphas, smoothed.gammas)
            for scored, shorter in zip(self._scored, self._shorter, strict=True)
        ]
        if highest:
            logs = [
                np.log(p[scored.stream.predicted])
                for p, scored in zip(mixed, self._scored, strict=True)
            ]
            self._take(self._order, logs)
        else:
            self._shorter = mixed
