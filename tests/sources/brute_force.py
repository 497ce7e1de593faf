"""The brute-force oracle of the exact languages: all derivations, with equal strings added up.

It uses neither beliefs nor dynamic programming, and works only on machines without cycles.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hypothesis import strategies as st

from kullback.sources.automaton import Arc
from kullback.text.special_tokens import EOS

Machine = Mapping[Hashable, Sequence[Arc]]


@dataclass
class BruteForce:
    """Every number of the language that `arcs` generates from `start`, by enumeration."""

    start: Hashable
    arcs: Machine

    @cached_property
    def derivations(self) -> list[tuple[tuple[Arc, ...], float]]:
        """Every path to the end, with its probability."""

        def walk(state: Hashable, path: tuple[Arc, ...], p: float) -> Iterator:
            for arc in self.arcs[state]:
                longer = (*path, arc)
                if arc.target is None:
                    yield longer, p * arc.probability
                else:
                    yield from walk(arc.target, longer, p * arc.probability)

        return list(walk(self.start, (), 1.0))

    @cached_property
    def sentences(self) -> dict[tuple[str, ...], float]:
        """P(string), the end-of-sentence token included: equal strings are added up."""
        total: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for path, p in self.derivations:
            total[tuple(arc.word for arc in path)] += p
        return dict(total)

    @cached_property
    def prefixes(self) -> dict[tuple[str, ...], float]:
        """P(a sentence has this prefix and a token after it)."""
        mass: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for string, p in self.sentences.items():
            for t in range(len(string)):
                mass[string[:t]] += p
        return dict(mass)

    def next_words(self, prefix: tuple[str, ...]) -> dict[str, float]:
        """P(word | prefix)."""
        distribution: defaultdict[str, float] = defaultdict(float)
        for string, p in self.sentences.items():
            if string[: len(prefix)] == prefix and len(string) > len(prefix):
                distribution[string[len(prefix)]] += p / self.prefixes[prefix]
        return dict(distribution)

    @cached_property
    def entropy_per_sentence(self) -> float:
        """-sum p log p over strings."""
        return entropy(self.sentences.values())

    @cached_property
    def tokens_per_sentence(self) -> float:
        """The mean length."""
        return sum(p * len(string) for string, p in self.sentences.items())

    @cached_property
    def entropy_by_position(self) -> list[float]:
        """H(token t | prefix) among the sentences that have a token t."""
        longest = max(len(string) for string in self.sentences)
        entropies = []
        for t in range(longest):
            here = {prefix: p for prefix, p in self.prefixes.items() if len(prefix) == t}
            nats = sum(p * entropy(self.next_words(prefix).values()) for prefix, p in here.items())
            entropies.append(nats / sum(here.values()))
        return entropies

    @cached_property
    def nats_by_slot(self) -> dict[str, tuple[float, float]]:
        """For each slot, its expected tokens and its expected surprisal, per sentence."""
        slots: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for path, _ in self.derivations:
            words = tuple(arc.word for arc in path)
            for t, arc in enumerate(path):
                slots[words[: t + 1]].add(arc.slot)
        totals: dict[str, tuple[float, float]] = {}
        for prefix, p in self.prefixes.items():
            for word, q in self.next_words(prefix).items():
                slot = "|".join(sorted(slots[(*prefix, word)]))
                tokens, nats = totals.get(slot, (0.0, 0.0))
                totals[slot] = (tokens + p * q, nats - p * q * math.log(q))
        return totals


def entropy(probabilities) -> float:
    """-sum p log p."""
    return -sum(p * math.log(p) for p in probabilities)


@st.composite
def acyclic_machines(draw: st.DrawFn) -> Machine:
    """Random machines of up to 6 states and 3 words, so that many derivations share a string."""
    states = draw(st.integers(1, 6))
    arcs: dict[int, list[Arc]] = {}
    for state in range(states):
        ahead = list(range(state + 1, states))
        options = st.tuples(
            st.sampled_from(["a", "b", "c"] if ahead else [EOS]),
            st.sampled_from(["noun", "verb"]),
            st.integers(1, 5),
            st.sampled_from(ahead) if ahead else st.none(),
        )
        ending = st.tuples(st.just(EOS), st.just("end"), st.integers(1, 5), st.none())
        drawn = draw(st.lists(options | ending, min_size=1, max_size=4))
        total = sum(weight for _, _, weight, _ in drawn)
        arcs[state] = [Arc(word, slot, weight / total, to) for word, slot, weight, to in drawn]
    return arcs


# "We cut" is present and past, "cut" is a verb and a noun: derivations that share their strings.
SYNCRETISM: Machine = {
    "start": [
        Arc("we", "subject", 0.6, "present"),
        Arc("we", "subject", 0.3, "past"),
        Arc("the", "article", 0.1, "noun"),
    ],
    "present": [Arc("cut", "verb", 0.5, "now"), Arc("go", "verb", 0.5, "now")],
    "past": [Arc("cut", "verb", 0.5, "then"), Arc("went", "verb", 0.5, "then")],
    "noun": [Arc("cut", "noun", 1.0, "end")],
    "now": [Arc("today", "cue", 0.8, "end"), Arc(EOS, "end", 0.2, None)],
    "then": [Arc("today", "cue", 0.25, "end"), Arc("before", "cue", 0.75, "end")],
    "end": [Arc(EOS, "end", 1.0, None)],
}
