"""Stationary processes: Markov chains and hidden Markov processes, without beginning or end.

A process has S hidden states.  In state ``s`` it writes the symbol ``x`` and moves to ``t`` with
probability ``transitions[x, s, t]``; what is seen are the symbols.  A Markov chain is the case
where the last symbols are the state.  A window of the process begins at a random moment: the state
before its first symbol has the stationary distribution.

What a reader of n symbols knows is a **belief**, the distribution over the states given these
symbols, so the entropy of the next symbol given n symbols of a window, h(n), is an average over
beliefs (`kullback.sources.mixed_states`).  It does not increase with n, and its limit is the
entropy rate.  No model that sees n symbols has an expected loss below h(n).

Units are nats.  Token ids are those of the vocabulary, `BOS` and `EOS` first, which the process
never writes.

Axes: N windows, T positions, V symbols, S states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.special import entr

from kullback.errors import GrammarError
from kullback.runtime.limits import check_fits
from kullback.runtime.ranges import LENGTHS, Range
from kullback.sources._checks import check_sum
from kullback.sources._stream import StreamSampler
from kullback.sources.mixed_states import (
    EntropyBounds,
    Predictor,
    limit_of_symbol_entropies,
    symbol_entropies,
)
from kullback.text.special_tokens import BOS, EOS

__all__ = ["FIRST_SYMBOL", "Process", "Step", "check_window"]

# Entries of the table of transitions: a larger one is no longer a small process.
MOST_ENTRIES = 4_000_000
#: Symbols of a window, the first of which is given.
WINDOWS = Range(2, 1 << 16)
BYTES_PER_ENTRY = 64  # two bounds, and what they are made of
# Symbols of a window after which the entropies are bounded and no longer computed.
MOST_POSITIONS = 10_000
FIRST_SYMBOL = 2
"""The token id of the first symbol: `BOS` and `EOS` come before it."""


class Step(NamedTuple):
    """In a state: write ``symbol`` with that probability, and move to the state ``target``."""

    symbol: str
    probability: float
    target: str


@dataclass(frozen=True, eq=False)
class Process:
    """A stationary process of symbols with S hidden states; build it with `from_steps`.

    >>> coin = Process.from_steps("coin", {"A": [Step("0", 0.5, "A"), Step("1", 0.5, "A")]})
    >>> round(coin.entropy_rate.value, 6)
    0.693147
    """

    name: str
    symbols: tuple[str, ...]
    states: tuple[str, ...]
    transitions: Float[np.ndarray, "V S S"]
    """P(symbol, next state | state), at [symbol, state, next state]."""

    @classmethod
    def from_steps(cls, name: str, steps: Mapping[str, Sequence[Step]]) -> Self:
        """The process of these states; its symbols are in sorted order.

        Raises `GrammarError` for probabilities that are not in (0, 1] or do not sum to 1, a target
        without steps, a symbol with whitespace, and states that do not all reach each other.
        """
        states = tuple(steps)
        if not states:
            raise GrammarError(f"{name} has no state; write at least one")
        symbols = tuple(sorted({step.symbol for out in steps.values() for step in out}))
        _check_size(name, len(symbols), len(states))
        symbol_id = {symbol: i for i, symbol in enumerate(symbols)}
        state_id = {state: i for i, state in enumerate(states)}
        transitions = np.zeros((len(symbols), len(states), len(states)))
        for state, out in steps.items():
            for symbol, probability, target in out:
                _check_step(name, state, Step(symbol, probability, target), state_id)
                transitions[symbol_id[symbol], state_id[state], state_id[target]] += probability
            check_sum(
                f"{name}: the probabilities of {state!r}",
                (step.probability for step in out),
                "give weights that sum to 1",
            )
        return cls.from_arrays(name, symbols, states, transitions)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        symbols: Iterable[str],
        states: Iterable[str],
        transitions: Float[np.ndarray, "V S S"],
    ) -> Self:
        """The process of that table; `GrammarError` unless all states reach each other."""
        process = cls(name, tuple(symbols), tuple(states), transitions)
        number, label = connected_components(
            transitions.sum(axis=0) > 0, directed=True, connection="strong"
        )
        if number > 1:
            other = process.states[int(np.flatnonzero(label != label[0])[0])]
            raise GrammarError(
                f"{name}: the states {process.states[0]!r} and {other!r} do not reach each other: "
                "a stationary process must come back to every state; remove what it leaves forever"
            )
        return process

    # --- what it is ------------------------------------------------------------------------

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """`BOS`, `EOS` (the padding of other trainers), then the symbols."""
        return (BOS, EOS, *self.symbols)

    @cached_property
    def outputs(self) -> Float[np.ndarray, "S V"]:
        """P(symbol | state)."""
        outputs: np.ndarray = self.transitions.sum(axis=2).T.copy()
        return outputs

    @cached_property
    def stationary(self) -> Float[np.ndarray, "S"]:
        """The stationary distribution of the states."""
        size = len(self.states)
        moves: np.ndarray = self.transitions.sum(axis=0)
        moves /= moves.sum(axis=1, keepdims=True)
        system = np.vstack([moves.T - np.eye(size), np.ones((1, size))])
        wanted = np.zeros(size + 1)
        wanted[-1] = 1.0
        solution: np.ndarray = np.maximum(np.linalg.lstsq(system, wanted, rcond=None)[0], 0.0)
        solution /= solution.sum()
        return solution

    @cached_property
    def is_unifilar(self) -> bool:
        """Whether a state and the symbol written there determine the next state."""
        return bool(((self.transitions > 0).sum(axis=2) <= 1).all())

    @cached_property
    def period(self) -> int:
        """The greatest common divisor of the lengths of all ways from a state back to it.

        Above 1 the states are passed in turn, class by class, as the three steps of RRXOR are.
        """
        moves = self.transitions.sum(axis=0) > 0
        order, before = breadth_first_order(csr_array(moves), 0)
        depth = np.zeros(len(self.states), dtype=np.int64)
        for state in order[1:]:
            depth[state] = depth[before[state]] + 1
        states, targets = np.nonzero(moves)
        return int(np.gcd.reduce(depth[states] + 1 - depth[targets]))

    def fingerprint(self) -> str:
        """SHA-256 of the symbols and the table in hexadecimal: equal for equal processes."""
        digest = hashlib.sha256(b"process\0" + "\0".join(self.vocabulary).encode())
        digest.update(np.ascontiguousarray(self.transitions).tobytes())
        return digest.hexdigest()

    # --- exact entropies -------------------------------------------------------------------

    @cached_property
    def _limit(self) -> tuple[Float[np.ndarray, "V"], Float[np.ndarray, "V"]]:
        """The bounds of the limit of `symbol_entropies`."""
        if self.is_unifilar:
            exact = self.stationary @ entr(self.outputs)
            return exact, exact
        return limit_of_symbol_entropies(self.transitions, self.stationary)

    @property
    def entropy_rate(self) -> EntropyBounds:
        """The limit of h(n), with its bounds: exact where a symbol determines the next state."""
        return EntropyBounds(*(float(bound.sum()) for bound in self._limit))

    def symbol_entropies(self, n: int) -> tuple[Float[np.ndarray, "T V"], Float[np.ndarray, "T V"]]:
        """E[-p(x) log p(x)] of each symbol x after 0, ..., n - 1 symbols: lower and upper bounds.

        The sum over the symbols is h of that many symbols.
        """
        LENGTHS.check("n", n)
        check_fits(
            n * len(self.symbols) * BYTES_PER_ENTRY,
            f"the entropies of {n:,} positions of {self.name}",
            "ask for fewer positions",
        )
        return _symbol_entropies(self, n)

    def conditional_entropies(self, n: int) -> list[EntropyBounds]:
        """h(0), ..., h(n - 1): the entropy of a symbol given that many symbols before it."""
        lower, upper = (bound.sum(axis=1).tolist() for bound in self.symbol_entropies(n))
        return [EntropyBounds(*bounds) for bounds in zip(lower, upper, strict=True)]

    def block_entropies(self, length: int) -> list[EntropyBounds]:
        """H(1), ..., H(length): the entropy of a window of that many symbols."""
        terms = self.conditional_entropies(length)
        lower = np.cumsum([term.lower for term in terms]).tolist()
        upper = np.cumsum([term.upper for term in terms]).tolist()
        return [EntropyBounds(*bounds) for bounds in zip(lower, upper, strict=True)]

    def window_entropy(self, window: int) -> EntropyBounds:
        """The floor of a loss over windows of that many symbols, whose first one is given.

        It is the mean of h(1), ..., h(window - 1), in nats/token.
        """
        check_window(window)
        bounds = self.symbol_entropies(window)
        return EntropyBounds(*(float(bound[1:].sum()) / (window - 1) for bound in bounds))

    def window_entropy_by_symbol(self, window: int) -> dict[str, tuple[float, EntropyBounds]]:
        """Of each symbol: its probability, and the entropy of a token that is this symbol.

        The sum of probability times entropy is `window_entropy`.
        """
        check_window(window)
        p_V = self.stationary @ self.outputs
        lower, upper = (
            bound[1:].sum(axis=0) / (window - 1) / p_V for bound in self.symbol_entropies(window)
        )
        return {
            symbol: (float(p_V[i]), EntropyBounds(float(lower[i]), float(upper[i])))
            for i, symbol in enumerate(self.symbols)
        }

    # --- windows ---------------------------------------------------------------------------

    @cached_property
    def predictor(self) -> Predictor:
        """The exact distribution of the symbol after each prefix of a window."""
        return Predictor(self.transitions, self.stationary)

    def probabilities(self, symbols: Int[np.ndarray, "N T"]) -> Float[np.ndarray, "N T"]:
        """P(the first t + 1 symbols) of each window, at [n, t]; 0 where they are impossible."""
        weights = np.tile(self.stationary, (len(symbols), 1))
        p_NT = np.empty(symbols.shape)
        for t, column in enumerate(symbols.T):
            moved = np.empty_like(weights)
            for symbol, table in enumerate(self.transitions):
                rows = np.flatnonzero(column == symbol)
                moved[rows] = weights[rows] @ table
            weights = moved
            p_NT[:, t] = weights.sum(axis=1)
        return p_NT

    def stream(self, rng: np.random.Generator) -> StreamSampler:
        """One endless sample of the process, that is read piece by piece."""
        return StreamSampler(self.transitions, self.stationary, rng)

    def sample(self, n: int, window: int, rng: np.random.Generator) -> Int[np.ndarray, "N T"]:
        """`n` independent windows of that many symbols, as numbers of symbols."""
        return self.stream(rng).windows(n, window)


# Tables of floor.json and of the terminal ask for the same numbers, half a second each for Mess3.
@lru_cache(maxsize=16)
def _symbol_entropies(
    process: Process, n: int
) -> tuple[Float[np.ndarray, "T V"], Float[np.ndarray, "T V"]]:
    limit = process._limit
    known = symbol_entropies(process.transitions, process.stationary, min(n, MOST_POSITIONS))
    # Later ones lie between their limit and the last that was computed.
    later = n - len(known)
    lower = np.concatenate([known, np.tile(limit[0], (later, 1))]) if later else known
    upper = np.concatenate([known, np.tile(known[-1], (later, 1))]) if later else known
    lower = np.minimum(lower, upper)
    for bound in (lower, upper):
        bound.flags.writeable = False
    return lower, upper


def check_window(window: int) -> None:
    """Raise `InvalidValueError` for a window without a token to predict."""
    WINDOWS.check("window", window, ", since the first symbol of a window is given")


def _check_size(name: str, symbols: int, states: int) -> None:
    if symbols * states * states > MOST_ENTRIES:
        raise GrammarError(
            f"{name} has {symbols:,} symbols and {states:,} states: symbols × states² may be "
            f"{MOST_ENTRIES:,} at most; use fewer, or a grammar or the n-gram model of a text"
        )


def _check_step(name: str, state: str, step: Step, known: Mapping[str, int]) -> None:
    where = f"{name}: in {state!r}, the symbol {step.symbol!r}"
    if (
        step.symbol in (BOS, EOS)
        or len(step.symbol.split()) != 1
        or step.symbol.split()[0] != (step.symbol)
    ):
        raise GrammarError(
            f"{where} must be a word without whitespace that is neither {BOS} nor {EOS}; rename it"
        )
    if not 0.0 < step.probability <= 1.0:
        raise GrammarError(f"{where} has probability {step.probability}: it must be in (0, 1]")
    if step.target not in known:
        raise GrammarError(
            f"{where} leads to {step.target!r}, which is no state; the states are "
            f"{', '.join(list(known)[:20])}"
        )
