"""Beliefs about the state of a hidden Markov process, and the entropies that follow from them.

With T[x] the table of probabilities of the symbol x, a belief b becomes b T[x] / Σ b T[x] when x
is read (the mixed states of Crutchfield, Ellison & Riechers 2016, "Exact complexity", Phys. Lett.
A 380, 998).  The entropy of the symbol after n symbols of a window is

    h(n) = H(X_n | X_0 ... X_{n-1}) = Σ over beliefs b after n symbols of P(b) H(next symbol | b)

and follows by exact recursion: the beliefs after n symbols with their probabilities, equal ones
joined.  Their number stays small for many processes; where it grows with every symbol (Mess3) the
recursion stops at `MOST_BELIEFS`, and the rest is bounded: with the state before the window known,

    H(X_n | X_0 ... X_{n-1}, S_0)  <=  entropy rate  <=  h(n),

the left side never decreasing and the right never increasing (Cover & Thomas 2006, theorem 4.5.1).

Units are nats.  Axes: N windows, T positions, B beliefs, V symbols, S states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

__all__ = ["EntropyBounds", "Predictor", "limit_of_symbol_entropies", "symbol_entropies"]

# Beliefs after which a recursion ends: half a second of work.
MOST_BELIEFS = 600_000
# Up to so many beliefs equal ones are joined; a larger number has hardly any.
MOST_JOINED = 50_000
# Two beliefs are one when they agree to this many decimals: see `_determinisation`.
DECIMALS = 12
# Symbols after which the bounds of the rate are no longer improved, and when they are close enough.
MOST_SYMBOLS, CLOSE = 2_000, 1e-14
ROUNDING = 1e-15
# Of a table of beliefs.
MOST_TABLE = 4096


class EntropyBounds(NamedTuple):
    """The bounds of an entropy in nats, equal where it is exact (to rounding)."""

    lower: float
    upper: float

    @property
    def value(self) -> float:
        """The middle of both bounds."""
        return self.lower + self.error

    @property
    def error(self) -> float:
        """The most by which the value is off."""
        return (self.upper - self.lower) / 2


def symbol_entropies(
    transitions: Float[np.ndarray, "V S S"], stationary: Float[np.ndarray, "S"], n: int
) -> Float[np.ndarray, "T V"]:
    """The terms E[-p(x) log p(x)] of h(0), h(1), ... by symbol x, in nats.

    They are n rows, or fewer where the beliefs become too many.
    """
    rows = []
    for row in _entropies(transitions, stationary[None], np.ones(1)):
        rows.append(row)
        if len(rows) == n:
            break
    return np.array(rows)


def limit_of_symbol_entropies(
    transitions: Float[np.ndarray, "V S S"], stationary: Float[np.ndarray, "S"]
) -> tuple[Float[np.ndarray, "V"], Float[np.ndarray, "V"]]:
    """Bounds of the limit of these terms: as close as `MOST_BELIEFS` beliefs bring them.

    Each term is concave in the belief, so that the bounds of the rate hold for it, too.
    """
    lower, upper = np.zeros(len(transitions)), np.full(len(transitions), np.inf)
    above = _entropies(transitions, stationary[None], np.ones(1))
    below = _entropies(transitions, np.eye(len(stationary)), stationary)
    for _ in range(MOST_SYMBOLS):
        next_upper, next_lower = next(above, None), next(below, None)
        if next_upper is None and next_lower is None:
            break
        upper = upper if next_upper is None else np.minimum(upper, next_upper)
        lower = lower if next_lower is None else np.maximum(lower, next_lower)
        if (upper - lower <= CLOSE).all():
            break
    # Rounding may exchange two equal numbers.
    return np.minimum(lower, upper), np.maximum(lower, upper)


def _entropies(
    transitions: Float[np.ndarray, "V S S"],
    beliefs: Float[np.ndarray, "B S"],
    weights: Float[np.ndarray, "B"],
) -> Iterator[Float[np.ndarray, "V"]]:
    """The entropy of the next symbol, by symbol, after 0, 1, ... symbols that were read."""
    outputs = transitions.sum(axis=2).T
    while True:
        probabilities = beliefs @ outputs
        yield weights @ entr(probabilities)
        if beliefs.shape[0] * len(transitions) > MOST_BELIEFS:
            return
        read, symbols = np.nonzero(probabilities > 0)
        moved = np.empty((len(read), beliefs.shape[1]))
        for symbol in range(len(transitions)):
            rows = np.flatnonzero(symbols == symbol)
            moved[rows] = beliefs[read[rows]] @ transitions[symbol]
        moved_weights = weights[read] * moved.sum(axis=1)
        moved /= moved.sum(axis=1, keepdims=True)
        earlier = beliefs, weights
        beliefs, weights = _joined(moved, moved_weights)
        if _same(earlier, (beliefs, weights)):
            # What follows from equal beliefs is equal, for ever.
            row = weights @ entr(beliefs @ outputs)
            while True:
                yield row


def _same(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether two distributions over beliefs are equal to rounding."""
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=0, atol=ROUNDING)
        for a, b in zip(first, second, strict=True)
    )


def _joined(
    beliefs: Float[np.ndarray, "B S"], weights: Float[np.ndarray, "B"]
) -> tuple[Float[np.ndarray, "B S"], Float[np.ndarray, "B"]]:
    """Equal beliefs as one, with the sum of their weights."""
    if len(beliefs) > MOST_JOINED:
        return beliefs, weights
    _, first, inverse = np.unique(
        np.round(beliefs, DECIMALS), axis=0, return_index=True, return_inverse=True
    )
    return beliefs[first], np.bincount(inverse.reshape(-1), weights, len(first))


class Predictor:
    """The exact distribution of the symbol after each prefix of a window.

    Where the beliefs are few they are the states of a table, which reads a symbol by one look-up.
    """

    def __init__(
        self, transitions: Float[np.ndarray, "V S S"], stationary: Float[np.ndarray, "S"]
    ) -> None:
        self._transitions = transitions
        self._outputs: np.ndarray = transitions.sum(axis=2).T
        self._start = stationary
        self._table = _table(transitions, stationary)

    @property
    def beliefs(self) -> int | None:
        """How many beliefs a prefix can lead to; None where they are more than a few thousand."""
        return None if self._table is None else len(self._table[0])

    def distributions(self, symbols_NT: Int[np.ndarray, "N T"]) -> Float[np.ndarray, "N T V"]:
        """The distribution after each prefix: at [n, t] given the symbols 0..t of window n."""
        windows, length = symbols_NT.shape
        p_NTV = np.empty((windows, length, len(self._transitions)))
        for t, probabilities in enumerate(self._after(symbols_NT)):
            p_NTV[:, t] = probabilities
        return p_NTV

    def surprisals(self, symbols_NT: Int[np.ndarray, "N T"]) -> Float[np.ndarray, "N T"]:
        """−log p of each symbol given those before it in its window; 0 for the first one."""
        nats_NT = np.zeros(symbols_NT.shape)
        rows = np.arange(len(symbols_NT))
        for t, probabilities in enumerate(self._after(symbols_NT[:, :-1])):
            nats_NT[:, t + 1] = -np.log(probabilities[rows, symbols_NT[:, t + 1]])
        return nats_NT

    def _after(self, symbols_NT: Int[np.ndarray, "N T"]) -> Iterator[Float[np.ndarray, "N V"]]:
        if self._table is not None:
            table, outputs = self._table
            states = np.zeros(len(symbols_NT), dtype=np.int64)
            for column in symbols_NT.T:
                states = table[states, column]
                yield outputs[states]
            return
        beliefs = np.tile(self._start, (len(symbols_NT), 1))
        for column in symbols_NT.T:
            moved = np.empty_like(beliefs)
            for symbol, table in enumerate(self._transitions):
                rows = np.flatnonzero(column == symbol)
                moved[rows] = beliefs[rows] @ table
            beliefs = moved / moved.sum(axis=1, keepdims=True)
            yield beliefs @ self._outputs


def _table(
    transitions: Float[np.ndarray, "V S S"], stationary: Float[np.ndarray, "S"]
) -> tuple[Int[np.ndarray, "B V"], Float[np.ndarray, "B V"]] | None:
    """The belief after each belief and symbol (0, the first, where it is impossible), and p."""
    beliefs = [stationary]
    number = {tuple(np.round(stationary, DECIMALS).tolist()): 0}
    table: list[list[int]] = []
    for belief in beliefs:  # grows during the loop: breadth first
        row = []
        for moved in belief @ transitions:
            total = float(moved.sum())
            if total <= 0:
                row.append(0)
                continue
            key = tuple(np.round(moved / total, DECIMALS).tolist())
            target = number.setdefault(key, len(beliefs))
            if target == len(beliefs):
                if target == MOST_TABLE:
                    return None
                beliefs.append(moved / total)
            row.append(target)
        table.append(row)
    outputs: np.ndarray = np.array(beliefs) @ transitions.sum(axis=2).T
    return np.array(table), outputs
