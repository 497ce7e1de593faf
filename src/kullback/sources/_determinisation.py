"""Determinisation of a weighted automaton by subset construction over beliefs (Mohri 1997, §3).

A belief is a distribution over the states of the automaton, given a prefix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kullback.errors import GrammarError
from kullback.sources.language import Language

if TYPE_CHECKING:
    from kullback.sources.automaton import Automaton

__all__ = ["MOST_STATES", "determinise"]

# Two beliefs are one state when their weights agree to this many decimals: far below any
# probability of a real grammar, far above the rounding of a few hundred float64 products.
BELIEF_DECIMALS = 12

# Of a language.  The conjugation source has 50,000, and 60,000 entries of beliefs.
MOST_STATES = 500_000
# Of beliefs in several states, which take far more time than others: a grammar whose number of
# beliefs is exponential is refused after about a second.
MOST_ENTRIES = 400_000

# States, in increasing order, with their probabilities; empty at the end of the sentence.
_Belief = tuple[tuple[int, float], ...]


def determinise(automaton: Automaton, max_states: int) -> Language:
    """The language whose states are the beliefs that a prefix can reach; breadth first."""
    start: _Belief = ((0, 1.0),)
    number: dict[_Belief, int] = {start: 0}  # keyed by the belief's rounded weights
    queue: list[_Belief] = [start]
    offsets, tokens, slots, probabilities, targets = [0], [], [], [], []
    slot_number = {name: i for i, name in enumerate(automaton.slots)}
    entries = 0
    for belief in queue:  # grows during the loop: breadth first
        for token, slot, probability, future in _arcs_of(automaton, belief, slot_number):
            tokens.append(token)
            slots.append(slot)
            probabilities.append(probability)
            if not future:
                targets.append(-1)
                continue
            rounded = future
            if len(future) > 1:
                rounded = tuple((s, round(weight, BELIEF_DECIMALS)) for s, weight in future)
            target = number.setdefault(rounded, len(queue))
            if target == len(queue):
                queue.append(future)
                entries += len(future) if len(future) > 1 else 0
            targets.append(target)
        offsets.append(len(tokens))
        if len(queue) > max_states or entries > MOST_ENTRIES:
            what, more = f"max_states = {max_states:,} beliefs", ", or raise max_states"
            if len(queue) <= max_states:
                what, more = f"{MOST_ENTRIES:,} entries of beliefs", ""
            raise GrammarError(
                f"{automaton.name}: more than {what}: this ambiguous grammar may have no finite "
                f"deterministic form; remove the ambiguity inside its loop{more}"
            )
    return Language(
        name=automaton.name,
        vocabulary=automaton.vocabulary,
        slots=tuple(slot_number),
        offsets=np.array(offsets, dtype=np.int64),
        arc_tokens=np.array(tokens, dtype=np.int32),
        arc_slots=np.array(slots, dtype=np.int32),
        probabilities=np.array(probabilities, dtype=np.float64),
        targets=np.array(targets, dtype=np.int64),
    )


def _arcs_of(
    automaton: Automaton, belief: _Belief, slot_number: dict[str, int]
) -> list[tuple[int, int, float, _Belief]]:
    """The arcs out of a belief: one for each token, with the belief that it leads to.

    Slots that arise from merging are added to `slot_number`.
    """
    if len(belief) == 1:
        out = automaton.arcs[belief[0][0]]
        if len({arc[0] for arc in out}) == len(out):
            return [
                (token, slot, probability, ((target, 1.0),) if target >= 0 else ())
                for token, slot, probability, target in out
            ]
    futures: dict[int, dict[int, float]] = {}
    token_slots: dict[int, set[str]] = {}
    for state, weight in belief:
        for token, slot, probability, target in automaton.arcs[state]:
            future = futures.setdefault(token, {})
            future[target] = future.get(target, 0.0) + weight * probability
            token_slots.setdefault(token, set()).add(automaton.slots[slot])
    merged = []
    for token, future in sorted(futures.items()):
        # A token without alternatives is certain: exactly, whatever the rounding of the sum.
        total = sum(future.values())
        if not total:
            raise GrammarError(
                f"{automaton.name}: after some prefix the word {automaton.vocabulary[token]!r} has "
                "a probability that is too small for a number of 64 bits: raise the probabilities "
                "of the alternatives that lead to it"
            )
        probability = total if len(futures) > 1 else 1.0
        slot = slot_number.setdefault("|".join(sorted(token_slots[token])), len(slot_number))
        ahead = tuple((t, weight / total) for t, weight in sorted(future.items()) if t >= 0)
        merged.append((token, slot, probability, ahead))
    return merged
