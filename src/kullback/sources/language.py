"""A language whose every number is exact: a deterministic weighted automaton and its sums.

Every prefix leads to one state, and a state carries the exact distribution of the next word, so

* the entropy of a sentence is one sum over states, ``sum_s visits(s) * h(s)``, where
  ``visits(s)`` is the expected number of times that a sentence passes the state and ``h(s)`` the
  entropy of the word chosen there (the chain rule, Cover & Thomas 2006, theorem 2.5.1);
* a sampled word carries its true surprisal ``-log p(word | prefix)``, so that
  ``mean(model nll - surprisal)`` estimates the KL without knowing anything else;
* where the language is finite, all prefixes can be listed, and the KL of a model is a full sum.

Units are nats.  A sentence's tokens include the end-of-sentence word, which is predicted like any
other, and exclude the beginning-of-sentence word, which is given.

Axes: N sentences, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from scipy.special import entr

from kullback.errors import GrammarError, ImpossiblePrefixError, InvalidValueError
from kullback.text.special_tokens import EOS_ID

__all__ = ["Language", "Sentences", "SlotEntropy"]

# Sampling works on this many sentences at a time, so that its arrays stay in the cache.
SAMPLE_BLOCK = 1 << 15


class SlotEntropy(NamedTuple):
    """How much choice a slot holds."""

    tokens_per_sentence: float
    entropy: float
    """Nats per token of this slot."""


@dataclass(frozen=True)
class Sentences:
    """Sentences of a language, with the state at each position and the arc taken.

    Rows are padded on the right: `tokens` with the end-of-sentence id, `arcs` with -1.
    """

    language: Language
    tokens: Int[np.ndarray, "N T"]
    arcs: Int[np.ndarray, "N T"]
    lengths: Int[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> np.ndarray:
        """True at the positions that hold a token, shape [N, T]."""
        return self.arcs >= 0

    @property
    def surprisals(self) -> Float[np.ndarray, "N T"]:
        """The true -log p(token | prefix) in nats; 0 at padding."""
        return np.where(self.mask, -self.language.log_probs[self.arcs], 0.0)

    @property
    def states(self) -> Int[np.ndarray, "N T"]:
        """The state *before* each token, whose distribution it was drawn from; 0 at padding."""
        return np.where(self.mask, self.language.arc_states[self.arcs], 0)

    @property
    def slots(self) -> Int[np.ndarray, "N T"]:
        """The slot of each token; -1 at padding."""
        return np.where(self.mask, self.language.arc_slots[self.arcs], -1)

    def texts(self) -> Iterator[str]:
        """The sentences as text, without the end-of-sentence word."""
        for row, length in zip(self.tokens, self.lengths, strict=True):
            yield " ".join(self.language.vocabulary[word] for word in row[: length - 1])


@dataclass(frozen=True, eq=False)
class Language:
    """A deterministic weighted automaton in flat arrays; state 0 is the start.

    The arcs of state ``s`` are ``offsets[s]:offsets[s + 1]`` of the arc arrays; a target of -1
    ends the sentence.  Made by :meth:`kullback.sources.automaton.Automaton.determinise`.
    """

    name: str
    vocabulary: tuple[str, ...]
    slots: tuple[str, ...]
    offsets: Int[np.ndarray, "states+1"]
    words: Int[np.ndarray, "arcs"]
    arc_slots: Int[np.ndarray, "arcs"]
    probabilities: Float[np.ndarray, "arcs"]
    targets: Int[np.ndarray, "arcs"]

    # --- what comes next -------------------------------------------------------------------

    @cached_property
    def word_ids(self) -> dict[str, int]:
        """Word to id."""
        return {word: i for i, word in enumerate(self.vocabulary)}

    @cached_property
    def log_probs(self) -> Float[np.ndarray, "arcs"]:
        """log p of each arc given its state."""
        log_probs: np.ndarray = np.log(self.probabilities)
        return log_probs

    @cached_property
    def arc_states(self) -> Int[np.ndarray, "arcs"]:
        """The state that each arc leaves."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def encode(self, text: str) -> list[int]:
        """The word ids of `text`, split at blanks; an unknown word is an `InvalidValueError`."""
        for position, word in enumerate(text.split()):
            if word not in self.word_ids:
                raise InvalidValueError(
                    f"word {position} is {word!r}, which is not in the vocabulary of {self.name} "
                    f"({len(self.vocabulary)} words); `kullback source describe` lists them"
                )
        return [self.word_ids[word] for word in text.split()]

    def state_after(self, prefix: Sequence[int]) -> int:
        """The state that `prefix` leads to; `ImpossiblePrefixError` if there is none."""
        state = 0
        for position, word in enumerate(prefix):
            arc = self._arc(state, word)
            if arc is None or self.targets[arc] < 0:
                raise impossible_prefix(self.name, self.vocabulary, prefix, position)
            state = int(self.targets[arc])
        return state

    def _arc(self, state: int, word: int) -> int | None:
        start, stop = self.offsets[state], self.offsets[state + 1]
        found = np.flatnonzero(self.words[start:stop] == word)
        return int(start + found[0]) if len(found) else None

    def next_token_distribution(
        self, prefix: Sequence[int]
    ) -> Float[np.ndarray, "vocabulary_size"]:
        """p(next word | prefix), shape [V]; `prefix` holds word ids without the beginning word."""
        distribution: np.ndarray = self.distributions(np.array([self.state_after(prefix)]))[0]
        return distribution

    def distributions(self, states: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N V"]:
        """The distribution of the next word in each of `states`."""
        rows, arcs = self.arcs_of(states)
        dense = np.zeros((len(states), len(self.vocabulary)))
        dense[rows, self.words[arcs]] = self.probabilities[arcs]
        return dense

    def arcs_of(
        self, states: Int[np.ndarray, "N"]
    ) -> tuple[Int[np.ndarray, "total"], Int[np.ndarray, "total"]]:
        """All arcs out of `states`: for each, the row of `states` it belongs to and its index."""
        degrees = self.offsets[states + 1] - self.offsets[states]
        rows = np.repeat(np.arange(len(states)), degrees)
        first = np.cumsum(degrees) - degrees
        arcs = np.arange(len(rows)) - first[rows] + self.offsets[states][rows]
        return rows, arcs

    def sentence_log_prob(self, sentence: Sequence[int]) -> float:
        """log p of a whole sentence, the end-of-sentence word included; -inf if impossible."""
        state, total = 0, 0.0
        for position, word in enumerate(sentence):
            arc = self._arc(state, word)
            last = position == len(sentence) - 1
            if arc is None or (self.targets[arc] < 0) != last:
                return -math.inf
            total += float(self.log_probs[arc])
            state = int(self.targets[arc])
        return total if len(sentence) else -math.inf

    # --- how much there is to know ---------------------------------------------------------

    @cached_property
    def _transitions(self) -> csr_array:
        """P[s, t]: the probability to move from state s to state t."""
        states = len(self.offsets) - 1
        inner = self.targets >= 0
        return csr_array(
            (self.probabilities[inner], (self.arc_states[inner], self.targets[inner])),
            shape=(states, states),
        )

    @cached_property
    def is_finite(self) -> bool:
        """Whether the language has finitely many sentences: no state can be reached again."""
        transitions = self._transitions
        components, _ = connected_components(transitions, directed=True, connection="strong")
        return bool(components == transitions.shape[0] and not transitions.diagonal().any())

    @cached_property
    def state_entropies(self) -> Float[np.ndarray, "states"]:
        """h(s): the entropy of the next word in each state, in nats."""
        return np.add.reduceat(entr(self.probabilities), self.offsets[:-1])

    @cached_property
    def expected_visits(self) -> Float[np.ndarray, "states"]:
        """How often a sentence passes each state, on average: v = e_start + v P."""
        if self.is_finite:
            visits = np.zeros(len(self.offsets) - 1)
            for reach in self._reach():
                visits += reach
            return visits
        start = np.zeros(len(self.offsets) - 1)
        start[0] = 1.0
        flow = (identity(len(start), format="csc") - self._transitions.T).tocsc()
        return np.asarray(spsolve(flow, start))

    def _reach(self) -> Iterator[Float[np.ndarray, "states"]]:
        """P(a sentence has a prefix of t words, which leads to s), for t = 0, 1, ... to the end."""
        reach: np.ndarray = np.zeros(len(self.offsets) - 1)
        reach[0] = 1.0
        backward = self._transitions.T.tocsr()
        while reach.any():
            yield reach
            reach = backward @ reach

    @cached_property
    def tokens_per_sentence(self) -> float:
        """The expected number of tokens of a sentence, the end-of-sentence word included."""
        return float(self.expected_visits.sum())

    @cached_property
    def entropy_per_sentence(self) -> float:
        """H(sentence) in nats: over strings, not derivations."""
        return float(self.expected_visits @ self.state_entropies)

    @property
    def entropy_per_token(self) -> float:
        """The floor of the loss: H(sentence) / E[tokens], nats/token."""
        return self.entropy_per_sentence / self.tokens_per_sentence

    def entropy_by_position(self, positions: int | None = None) -> Float[np.ndarray, "T"]:
        """H(token t | prefix) among sentences that have a token t, for t = 0, 1, ...; nats.

        `positions` bounds t, and must be given for an infinite language.
        """
        if positions is None and not self.is_finite:
            raise InvalidValueError(
                f"{self.name} has sentences of any length: say how many positions, "
                "e.g. positions=16"
            )
        entropies = []
        for t, reach in enumerate(self._reach()):
            if t == positions:
                break
            entropies.append(float(reach @ self.state_entropies) / float(reach.sum()))
        return np.array(entropies)

    def entropy_by_slot(self) -> dict[str, SlotEntropy]:
        """The surprisal that each slot's tokens carry; tokens × entropy sums to the sentence's."""
        mass = self.expected_visits[self.arc_states] * self.probabilities
        tokens = np.bincount(self.arc_slots, weights=mass, minlength=len(self.slots))
        nats = np.bincount(
            self.arc_slots, weights=-mass * self.log_probs, minlength=len(self.slots)
        )
        return {
            name: SlotEntropy(float(tokens[i]), float(nats[i] / tokens[i]))
            for i, name in enumerate(self.slots)
            if tokens[i] > 0
        }

    @cached_property
    def number_of_sentences(self) -> float | int:
        """How many different sentences there are: an exact integer, or `math.inf`."""
        return self._count()[0]

    @cached_property
    def number_of_prefixes(self) -> float | int:
        """How many different prefixes there are, the empty one included; or `math.inf`."""
        return self._count()[1]

    def _count(self) -> tuple[float | int, float | int]:
        if not self.is_finite:
            return math.inf, math.inf
        # Python integers: a small grammar can have more sentences than float64 counts exactly.
        reach: dict[int, int] = {0: 1}
        sentences = prefixes = 0
        offsets, targets = self.offsets.tolist(), self.targets.tolist()
        while reach:
            ahead: dict[int, int] = {}
            for state, count in reach.items():
                prefixes += count
                for target in targets[offsets[state] : offsets[state + 1]]:
                    if target < 0:
                        sentences += count
                    else:
                        ahead[target] = ahead.get(target, 0) + count
            reach = ahead
        return sentences, prefixes

    # --- sentences -------------------------------------------------------------------------

    def sample(self, n: int, rng: np.random.Generator, max_tokens: int | None = None) -> Sentences:
        """`n` sentences drawn independently; `max_tokens` guards against endless languages.

        Raises `GrammarError` when a sentence is longer than `max_tokens` (default: 10,000).
        """
        if n < 0:
            raise InvalidValueError(f"n is {n}: the number of sentences must be at least 0")
        limit = 10_000 if max_tokens is None else max_tokens
        blocks = [
            self._sample_block(min(SAMPLE_BLOCK, n - i), rng, limit)
            for i in range(0, n, SAMPLE_BLOCK)
        ] or [np.full((0, 0), -1, dtype=np.int64)]
        longest = max(block.shape[1] for block in blocks)
        arcs = np.full((n, longest), -1, dtype=np.int64)
        for i, block in enumerate(blocks):
            start = i * SAMPLE_BLOCK
            arcs[start : start + len(block), : block.shape[1]] = block
        return self.sentences_of(arcs)

    def _sample_block(self, n: int, rng: np.random.Generator, limit: int) -> Int[np.ndarray, "n T"]:
        """The arcs of `n` sampled sentences, one column a step, all sentences at once."""
        cumulative, offsets, targets = self._cumulative, self.offsets, self.targets
        rows, states = np.arange(n), np.zeros(n, dtype=np.int64)
        columns: list[np.ndarray] = []
        while len(rows):
            if len(columns) == limit:
                raise GrammarError(
                    f"{self.name}: a sentence has more than {limit:,} tokens; raise max_tokens "
                    "or make the grammar end sooner"
                )
            low, high = offsets[states], offsets[states + 1] - 1
            threshold = rng.random(len(rows))
            # Where there is a choice: a binary search of each row's own cumulative distribution.
            open_rows = np.flatnonzero(low < high)
            while len(open_rows):
                first, last = low[open_rows], high[open_rows]
                middle = (first + last) >> 1
                beyond = cumulative[middle] <= threshold[open_rows]
                first = np.where(beyond, middle + 1, first)
                last = np.where(beyond, last, middle)
                low[open_rows], high[open_rows] = first, last
                open_rows = open_rows[first < last]
            column = np.full(n, -1, dtype=np.int64)
            column[rows] = low
            columns.append(column)
            states = targets[low]
            alive = states >= 0
            rows, states = rows[alive], states[alive]
        return np.stack(columns, axis=1)

    @cached_property
    def _cumulative(self) -> Float[np.ndarray, "arcs"]:
        """Within each state, the cumulative probability up to and including each arc."""
        cumulative = np.empty_like(self.probabilities)
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            if stop - start == 1:
                cumulative[start] = 1.0
            else:
                cumulative[start:stop] = np.cumsum(self.probabilities[start:stop])
        return cumulative

    def enumerate(
        self, max_prefixes: int = 5_000_000
    ) -> tuple[Sentences, Float[np.ndarray, "N T"]]:
        """Every sentence, and the weight with which each position enters a full sum.

        The weight at [n, t] is P(prefix of t words) at *one* sentence that has this prefix and 0
        at the others, so that a weighted sum over positions visits each prefix once: with the
        exact KL given the prefix it is the exact KL of a model.

        Raises `InvalidValueError` beyond `max_prefixes`; sample instead.
        """
        if self.number_of_prefixes > max_prefixes:
            raise InvalidValueError(
                f"{self.name} has {self.number_of_prefixes:,} prefixes, more than "
                f"max_prefixes = {max_prefixes:,}: evaluate on a sample instead"
            )
        # Level by level: the nodes are prefixes, each with its parent, the arc into it, its mass.
        parents: list[np.ndarray] = []
        arcs_into: list[np.ndarray] = []
        masses = [np.ones(1)]
        states = np.zeros(1, dtype=np.int64)
        inner = np.arange(1)
        while len(inner):
            rows, arcs = self.arcs_of(states[inner])
            parents.append(inner[rows])
            arcs_into.append(arcs)
            masses.append(masses[-1][inner[rows]] * self.probabilities[arcs])
            states = self.targets[arcs]
            inner = np.flatnonzero(states >= 0)
        depth = len(arcs_into)
        total = sum(int((self.targets[arcs] < 0).sum()) for arcs in arcs_into)
        path = np.full((total, depth), -1, dtype=np.int64)
        weights = np.zeros((total, depth))
        # Upwards from the deepest level: every node learns one sentence that passes it.
        filled = 0
        sentence_of = np.zeros(0, dtype=np.int64)
        leaves: list[tuple[np.ndarray, np.ndarray]] = []
        for level in range(depth - 1, -1, -1):
            below = sentence_of
            sentence_of = np.full(len(arcs_into[level]), -1, dtype=np.int64)
            if level + 1 < depth:
                sentence_of[parents[level + 1]] = below
            ends = np.flatnonzero(self.targets[arcs_into[level]] < 0)
            sentence_of[ends] = np.arange(filled, filled + len(ends))
            # All the sentences below this level climb one step together.
            leaves = [(ids, parents[level + 1][nodes]) for ids, nodes in leaves]
            leaves.append((sentence_of[ends], ends))
            for ids, nodes in leaves:
                path[ids, level] = arcs_into[level][nodes]
            filled += len(ends)
            # The prefix before this level's arc: one representative of each parent.
            parent = parents[level]
            weights[sentence_of[_first_of_each(parent)], level] = masses[level][np.unique(parent)]
        return self.sentences_of(path), weights

    def sentences_of(self, arcs: Int[np.ndarray, "N T"]) -> Sentences:
        """Sentences from the arcs they take, padded with -1."""
        tokens = np.where(arcs >= 0, self.words[arcs], EOS_ID)
        return Sentences(self, tokens, arcs, (arcs >= 0).sum(axis=1))


def impossible_prefix(
    name: str, vocabulary: Sequence[str], prefix: Sequence[int], position: int
) -> ImpossiblePrefixError:
    """The error for a prefix whose word at `position` is the first impossible one."""
    before = " ".join(vocabulary[word] for word in prefix[:position]) or "the beginning"
    word = prefix[position]
    shown = repr(vocabulary[word]) if 0 <= word < len(vocabulary) else f"id {word}"
    return ImpossiblePrefixError(
        f"{name} cannot produce {shown} (token {position} of the prefix) after {before!r}"
    )


def _first_of_each(values: Int[np.ndarray, "N"]) -> Int[np.ndarray, "unique"]:
    """The index of the first occurrence of each distinct value, in the order of the values."""
    return np.unique(values, return_index=True)[1]
