"""Weighted finite automata and their exact next-token distributions.

An :class:`Automaton` is a probabilistic finite-state machine.  Each state has arcs ``(word, slot,
probability, target)`` whose probabilities sum to 1; a sentence is the string of words on a path
from the start state to the end-of-sentence token.  Two paths may produce the same string (English
*we cut* is present and past), so a prefix does not determine the state.  It determines a
**belief**: a distribution over states, updated token by token with the forward algorithm (Rabiner
1989, eq. 19-20, normalised at each step).

The beliefs that prefixes can reach are the states of an equivalent *deterministic* automaton
(subset construction over weighted subsets, Mohri 1997, section 3).  There every string has one
path, so the entropy is that of strings and not of derivations.
:class:`kullback.sources.language.Language` stores the result and computes the exact sums.

A **slot** is the name of the role of a word (cue, subject, verb ...).  Where derivations that are
merged disagree about the slot, the slot of the merged arc joins their names with ``|``.

A token is a word of the vocabulary; its id is its place there.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources._checks import SUM_TOLERANCE, check_sum, impossible_prefix
from kullback.sources._determinisation import MOST_STATES, determinise
from kullback.sources.language import Language
from kullback.text.special_tokens import BOS, EOS

__all__ = ["Arc", "Automaton"]


class Arc(NamedTuple):
    """A transition: write ``word`` in the role ``slot`` and move to the state ``target``.

    The target of the end-of-sentence token is ``None``.
    """

    word: str
    slot: str
    probability: float
    target: Hashable | None


@dataclass(frozen=True)
class Automaton:
    """A nondeterministic weighted automaton; `arcs[state]` lists the arcs that leave a state.

    Build it with :meth:`from_arcs`, or from rules with
    :class:`kullback.sources.grammar.Grammar`.
    """

    name: str
    vocabulary: tuple[str, ...]
    slots: tuple[str, ...]
    arcs: tuple[tuple[tuple[int, int, float, int], ...], ...]
    """For each state, (token id, slot id, probability, target state or -1 at the end)."""

    @classmethod
    def from_arcs(
        cls,
        name: str,
        start: Hashable,
        arcs: Mapping[Hashable, Sequence[Arc]],
        extra_words: Iterable[str] = (),
    ) -> Automaton:
        """Number the states, words and slots of `arcs`, and check every state.

        The vocabulary is `BOS`, `EOS`, then the words in sorted order; `extra_words` are words that
        the language never produces and that the vocabulary contains all the same.

        Raises `GrammarError` when the probabilities of a state do not sum to 1, are not in
        (0, 1], lead to an unknown state, or when a state cannot reach the end.

        >>> coin = Automaton.from_arcs("coin", 0, {
        ...     0: [Arc("heads", "face", 0.5, 1), Arc("tails", "face", 0.5, 1)],
        ...     1: [Arc(EOS, "end", 1.0, None)]})
        >>> coin.next_token_distribution([])[coin.token_id("heads")]
        np.float64(0.5)
        """
        if start not in arcs:
            raise GrammarError(f"{name}: the start state {start!r} has no arcs; add them")
        names = [start, *(state for state in arcs if state != start)]
        state_id: dict[Hashable | None, int] = {state: i for i, state in enumerate(names)}
        words = {arc.word for out in arcs.values() for arc in out} | set(extra_words)
        vocabulary = (BOS, EOS, *sorted(words - {BOS, EOS}))
        token_id = {word: i for i, word in enumerate(vocabulary)}
        slot_id: dict[str, int] = {}
        for state in names:
            _check_arcs(name, state, arcs[state], arcs)
            for arc in arcs[state]:
                slot_id.setdefault(arc.slot, len(slot_id))
        state_id[None] = -1
        table = tuple(
            tuple(
                (token_id[word], slot_id[slot], probability, state_id[target])
                for word, slot, probability, target in arcs[state]
            )
            for state in names
        )
        automaton = cls(name, vocabulary, tuple(slot_id), table)
        automaton._check_termination(names)
        return automaton

    def token_id(self, word: str) -> int:
        """The token id of `word`; raises `InvalidValueError` if it is not in the vocabulary."""
        try:
            return self.vocabulary.index(word)
        except ValueError:
            raise InvalidValueError(
                f"the word {word!r} is not in the vocabulary of {self.name} "
                f"({len(self.vocabulary)} tokens)"
            ) from None

    def next_token_distribution(
        self, prefix: Sequence[int]
    ) -> Float[np.ndarray, "vocabulary_size"]:
        """p(next token | prefix), shape [V], by the forward algorithm over beliefs.

        Works for every automaton, also where :meth:`determinise` does not terminate.  `prefix`
        contains token ids without `BOS`.  Raises `ImpossiblePrefixError`, which names the first
        token that the language cannot produce there.
        """
        belief = self.belief(prefix)
        distribution = np.zeros(len(self.vocabulary))
        for state, weight in belief.items():
            for token, _, probability, _ in self.arcs[state]:
                distribution[token] += weight * probability
        return distribution

    def belief(self, prefix: Sequence[int]) -> dict[int, float]:
        """P(state | prefix), from state to a probability; the values sum to 1.

        Raises `ImpossiblePrefixError` as :meth:`next_token_distribution` does.
        """
        belief = {0: 1.0}
        for position, token in enumerate(prefix):
            moved: dict[int, float] = {}
            for state, weight in belief.items():
                for arc_token, _, probability, target in self.arcs[state]:
                    if arc_token == token and target >= 0:
                        moved[target] = moved.get(target, 0.0) + weight * probability
            total = sum(moved.values())
            if total == 0.0:
                raise impossible_prefix(self.name, self.vocabulary, prefix, position)
            belief = {state: weight / total for state, weight in moved.items()}
        return belief

    def determinise(self, max_states: int = MOST_STATES) -> Language:
        """The equivalent deterministic automaton, whose states are the reachable beliefs.

        Raises `GrammarError` beyond `max_states`: an ambiguous *cyclic* automaton can have
        infinitely many beliefs (it lacks the twins property of Mohri 1997, section 3.3).
        """
        return determinise(self, max_states)

    def _check_termination(self, state_names: Sequence[Hashable]) -> None:
        """Raise unless every state can reach the end, so that every sentence terminates."""
        end = len(self.arcs)
        sources = np.repeat(np.arange(end), [len(out) for out in self.arcs])
        targets = np.array([arc[3] for out in self.arcs for arc in out], dtype=np.int64)
        targets[targets < 0] = end
        backward = csr_array((np.ones(len(targets)), (targets, sources)), shape=(end + 1, end + 1))
        reached = breadth_first_order(backward, end, return_predecessors=False)
        stuck = np.setdiff1d(np.arange(end), reached)
        if len(stuck):
            raise GrammarError(
                f"{self.name}: the state {state_names[stuck[0]]!r} can never reach the end of the "
                f"sentence; give it, or a state that it leads to, an arc with the word {EOS}"
            )


def _check_arcs(name: str, state: Hashable, out: Sequence[Arc], known: Container[Hashable]) -> None:
    for arc in out:
        if arc.word == BOS:
            raise GrammarError(
                f"{name}: in {state!r}, an arc has the word {BOS}, which begins every sentence: "
                "remove the arc"
            )
        if not 0.0 < arc.probability <= 1.0 + SUM_TOLERANCE:
            raise GrammarError(
                f"{name}: in {state!r}, {arc.word!r} has probability {arc.probability}: "
                "it must be in (0, 1]"
            )
        if (arc.target is None) != (arc.word == EOS):
            raise GrammarError(
                f"{name}: in {state!r}, {arc.word!r} has the target {arc.target!r}: the word "
                f"{EOS}, and no other, must have the target None"
            )
        if arc.target is not None and arc.target not in known:
            raise GrammarError(
                f"{name}: {state!r} leads to {arc.target!r}, which has no arcs; add them"
            )
    check_sum(
        f"{name}: the probabilities of {state!r}",
        (arc.probability for arc in out),
        "give weights that sum to 1",
    )
