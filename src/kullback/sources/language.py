"""Languages as deterministic weighted automata: exact distributions, entropies and counts.

Every prefix leads to one state, and a state has the exact distribution of the next token, so

* the entropy of a sentence is a sum over states, ``sum_s visits(s) * h(s)``, where ``visits(s)`` is
  the expected number of times that a sentence passes the state and ``h(s)`` the entropy of the
  token chosen there (the chain rule, Cover & Thomas 2006, theorem 2.5.1);
* a sampled token carries its true surprisal ``-log p(token | prefix)``, so that
  ``mean(nll of a model - surprisal)`` estimates the model's KL divergence and needs nothing else;
* if the language is finite, all prefixes can be listed, and the KL of a model is an exact sum.

Units are nats.  The tokens of a sentence include the end-of-sentence token, which is predicted like
any other, and exclude the beginning-of-sentence token, which is given.

Axes: N sentences or states, T positions, V vocabulary.
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

from kullback.errors import InvalidValueError
from kullback.sources._checks import impossible_prefix
from kullback.sources._enumeration import all_paths, count_sentences_and_prefixes
from kullback.sources._sampling import sample_arcs
from kullback.sources.sentences import Sentences
from kullback.text.special_tokens import EOS_ID

__all__ = ["Language", "Sentences", "SlotEntropy"]


# Arcs times positions after which the visits of a finite language are solved for, not summed.
MOST_STEPS = 1_000_000_000


class SlotEntropy(NamedTuple):
    """The expected number of tokens in a slot, and the entropy of a token there."""

    tokens_per_sentence: float
    entropy: float
    """Nats per token of this slot."""


@dataclass(frozen=True, eq=False)
class Language:
    """A deterministic weighted automaton in flat arrays; state 0 is the start.

    The arcs of state ``s`` are ``offsets[s]:offsets[s + 1]`` of the arc arrays; a target of -1
    ends the sentence.  Made by :meth:`kullback.sources.automaton.Automaton.determinise`.

    >>> from kullback.sources.conjugation_source import ConjugationSource
    >>> language = ConjugationSource(verbs=("go", "eat")).training
    >>> p = language.next_token_distribution(language.encode("yesterday she"))
    >>> [language.vocabulary[i] for i in np.flatnonzero(p)]
    ['ate', 'went']
    """

    name: str
    vocabulary: tuple[str, ...]
    slots: tuple[str, ...]
    offsets: Int[np.ndarray, "states+1"]
    arc_tokens: Int[np.ndarray, "arcs"]
    arc_slots: Int[np.ndarray, "arcs"]
    probabilities: Float[np.ndarray, "arcs"]
    targets: Int[np.ndarray, "arcs"]
    known_visits: Float[np.ndarray, "states"] | None = None
    """The expected visits of each state, where they are known without solving for them."""

    # --- the next token --------------------------------------------------------------------

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """From each word of the vocabulary to its token id."""
        return {word: i for i, word in enumerate(self.vocabulary)}

    @cached_property
    def log_probs(self) -> Float[np.ndarray, "arcs"]:
        """log p of each arc given its state, in nats."""
        log_probs: np.ndarray = np.log(self.probabilities)
        return log_probs

    @cached_property
    def arc_states(self) -> Int[np.ndarray, "arcs"]:
        """The state that each arc leaves."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, split at whitespace; `InvalidValueError` for an unknown word."""
        for position, word in enumerate(text.split()):
            if word not in self.token_ids:
                raise InvalidValueError(
                    f"word {position} is {word!r}, which is not in the vocabulary of {self.name} "
                    f"({len(self.vocabulary)} tokens); `kullback source describe --json` lists it"
                )
        return [self.token_ids[word] for word in text.split()]

    def state_after(self, prefix: Sequence[int]) -> int:
        """The state that `prefix` leads to; `ImpossiblePrefixError` if there is none."""
        state = 0
        for position, token in enumerate(prefix):
            arc = self._arc(state, token)
            if arc is None or self.targets[arc] < 0:
                raise impossible_prefix(self.name, self.vocabulary, prefix, position)
            state = int(self.targets[arc])
        return state

    def _arc(self, state: int, token: int) -> int | None:
        start, stop = self.offsets[state], self.offsets[state + 1]
        matches = np.flatnonzero(self.arc_tokens[start:stop] == token)
        return int(start + matches[0]) if len(matches) else None

    def next_token_distribution(
        self, prefix: Sequence[int]
    ) -> Float[np.ndarray, "vocabulary_size"]:
        """p(next token | prefix), shape [V]; `prefix` contains token ids without `BOS`.

        Raises `ImpossiblePrefixError`, which names the first impossible token.
        """
        distribution: np.ndarray = self.distributions(np.array([self.state_after(prefix)]))[0]
        return distribution

    def distributions(self, states: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N V"]:
        """The distribution of the next token in each of `states`."""
        rows, arcs = self.arcs_of(states)
        dense = np.zeros((len(states), len(self.vocabulary)))
        dense[rows, self.arc_tokens[arcs]] = self.probabilities[arcs]
        return dense

    def arcs_of(
        self, states: Int[np.ndarray, "N"]
    ) -> tuple[Int[np.ndarray, "total"], Int[np.ndarray, "total"]]:
        """All arcs out of `states`: for each, its row in `states` and its index."""
        degrees = self.offsets[states + 1] - self.offsets[states]
        rows = np.repeat(np.arange(len(states)), degrees)
        first = np.cumsum(degrees) - degrees
        arcs = np.arange(len(rows)) - first[rows] + self.offsets[states][rows]
        return rows, arcs

    def sentence_log_prob(self, sentence: Sequence[int]) -> float:
        """log p of a sentence in nats, end-of-sentence token included; -inf if impossible."""
        state, total = 0, 0.0
        for position, token in enumerate(sentence):
            arc = self._arc(state, token)
            last = position == len(sentence) - 1
            if arc is None or (self.targets[arc] < 0) != last:
                return -math.inf
            total += float(self.log_probs[arc])
            state = int(self.targets[arc])
        return total if len(sentence) else -math.inf

    # --- exact sums ------------------------------------------------------------------------

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
        """h(s): the entropy of the next token in each state, in nats."""
        return np.add.reduceat(entr(self.probabilities), self.offsets[:-1])

    @cached_property
    def expected_visits(self) -> Float[np.ndarray, "states"]:
        """The expected number of times that a sentence passes each state: v = e_start + v P."""
        if self.known_visits is not None:
            return self.known_visits
        if self.is_finite:
            visits = np.zeros(len(self.offsets) - 1)
            for t, reach in enumerate(self._reach()):
                if t * len(self.targets) > MOST_STEPS:
                    break
                visits += reach
            else:
                return visits
        start = np.zeros(len(self.offsets) - 1)
        start[0] = 1.0
        flow = (identity(len(start), format="csc") - self._transitions.T).tocsc()
        return np.asarray(spsolve(flow, start))

    def _reach(self) -> Iterator[Float[np.ndarray, "states"]]:
        """P(a sentence has a prefix of t tokens, which leads to state s), for t = 0, 1, ..."""
        reach: np.ndarray = np.zeros(len(self.offsets) - 1)
        reach[0] = 1.0
        backward = self._transitions.T.tocsr()
        while reach.any():
            yield reach
            reach = backward @ reach

    @cached_property
    def tokens_per_sentence(self) -> float:
        """The expected number of tokens of a sentence, the end-of-sentence token included."""
        return float(self.expected_visits.sum())

    @cached_property
    def entropy_per_sentence(self) -> float:
        """H(sentence) in nats: over strings, not derivations."""
        return float(self.expected_visits @ self.state_entropies)

    @property
    def entropy_per_token(self) -> float:
        """The entropy floor of the loss: H(sentence) / E[tokens], in nats/token."""
        return self.entropy_per_sentence / self.tokens_per_sentence

    def entropy_by_position(self, positions: int | None = None) -> Float[np.ndarray, "T"]:
        """H(token t | prefix) among sentences that have a token t, for t = 0, 1, ...; nats.

        `positions` limits t; an infinite language without it raises `InvalidValueError`.
        """
        if positions is None and not self.is_finite:
            raise InvalidValueError(
                f"{self.name} has sentences of any length: positions must be given, "
                "e.g. positions=16"
            )
        entropies = []
        for t, reach in enumerate(self._reach()):
            if t == positions:
                break
            entropies.append(float(reach @ self.state_entropies) / float(reach.sum()))
        return np.array(entropies)

    def entropy_of_first(self, positions: int) -> tuple[float, float]:
        """Of sentences that are cut after so many tokens: nats/token, and tokens per sentence."""
        entropy = tokens = 0.0
        for _, reach in zip(range(positions), self._reach(), strict=False):
            entropy += float(reach @ self.state_entropies)
            tokens += float(reach.sum())
        return entropy / tokens, tokens

    def entropy_by_slot(self) -> dict[str, SlotEntropy]:
        """The entropy of each slot's tokens; Σ tokens × entropy is `entropy_per_sentence`."""
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
    def _counts(self) -> tuple[float | int, float | int]:
        return count_sentences_and_prefixes(self) if self.is_finite else (math.inf, math.inf)

    @property
    def number_of_sentences(self) -> float | int:
        """The number of different sentences: an exact integer, or `math.inf`."""
        return self._counts[0]

    @property
    def number_of_prefixes(self) -> float | int:
        """The number of different prefixes, the empty one included: exact, or `math.inf`."""
        return self._counts[1]

    # --- sentences -------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        rng: np.random.Generator,
        max_tokens: int | None = None,
        cut_at: int | None = None,
    ) -> Sentences:
        """`n` sentences drawn independently; with `cut_at`, so many of their first tokens.

        `max_tokens` (default: 10,000) bounds the length of a sentence; a longer one, that is not
        cut before, raises `GrammarError`.  A negative `n` raises `InvalidValueError`.
        """
        limit = 10_000 if max_tokens is None else max_tokens
        return self.sentences_of(sample_arcs(self, n, rng, limit, cut_at))

    @cached_property
    def cumulative_probabilities(self) -> Float[np.ndarray, "arcs"]:
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
        """Every sentence, and the weight with which each position enters an exact sum.

        The weight at [n, t] is P(prefix of t tokens) in *one* of the sentences that have this
        prefix and 0 in the others, so that a weighted sum over positions counts each prefix once:
        the weighted sum of the exact KL given the prefix is the exact KL of a model.

        Raises `InvalidValueError` beyond `max_prefixes`; sample instead.
        """
        if self.number_of_prefixes > max_prefixes:
            raise InvalidValueError(
                f"{self.name} has {_shown(self.number_of_prefixes)} prefixes, more than "
                f"max_prefixes = {max_prefixes:,}: evaluate on a sample instead"
            )
        arcs, weights = all_paths(self)
        return self.sentences_of(arcs), weights

    def sentences_of(self, arcs: Int[np.ndarray, "N T"]) -> Sentences:
        """Sentences from the arcs that they take, padded with -1."""
        tokens = np.where(arcs >= 0, self.arc_tokens[arcs], EOS_ID)
        return Sentences(self, tokens, arcs, (arcs >= 0).sum(axis=1))


def _shown(number: float | int) -> str:
    """A number that may have thousands of digits, which Python does not write."""
    return f"{number:,}" if number < 10**30 else f"about 10^{math.log10(number):.0f}"
