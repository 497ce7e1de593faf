"""All sentences and prefixes of a finite language: how many there are, and a list of them.

Axes: N sentences, T positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from kullback.sources.language import Language

__all__ = ["all_paths", "count_sentences_and_prefixes"]


def count_sentences_and_prefixes(language: Language) -> tuple[int, int]:
    """How many different sentences and prefixes (the empty one included) a finite language has."""
    # Python integers: a small grammar can have more sentences than float64 counts exactly.
    offsets, targets = language.offsets.tolist(), language.targets.tolist()
    before = np.bincount(language.targets[language.targets >= 0], minlength=len(offsets) - 1)
    waiting = before.tolist()  # arcs into each state whose prefixes are not counted yet
    prefixes_to = [0] * len(waiting)
    prefixes_to[0] = 1
    sentences = prefixes = 0
    ready = [0]
    for state in ready:  # grows during the loop: in topological order
        count = prefixes_to[state]
        prefixes += count
        prefixes_to[state] = 0  # large numbers are not kept
        for target in targets[offsets[state] : offsets[state + 1]]:
            if target < 0:
                sentences += count
                continue
            prefixes_to[target] += count
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return sentences, prefixes


def all_paths(language: Language) -> tuple[Int[np.ndarray, "N T"], Float[np.ndarray, "N T"]]:
    """The arcs of every sentence, padded with -1, and the weights of `Language.enumerate`."""
    parents, arcs_into, masses = _prefix_tree(language)
    ends = [np.flatnonzero(language.targets[arcs] < 0) for arcs in arcs_into]
    total = sum(len(nodes) for nodes in ends)
    path = np.full((total, len(arcs_into)), -1, dtype=np.int64)
    weights = np.zeros((total, len(arcs_into)))
    # From the deepest level upwards: every node gets the row of a sentence that passes it.
    filled = 0
    sentence_of = np.zeros(0, dtype=np.int64)
    leaves: list[tuple[np.ndarray, np.ndarray]] = []
    for level in range(len(arcs_into) - 1, -1, -1):
        below = sentence_of
        sentence_of = np.full(len(arcs_into[level]), -1, dtype=np.int64)
        if level + 1 < len(arcs_into):
            sentence_of[parents[level + 1]] = below
        sentence_of[ends[level]] = np.arange(filled, filled + len(ends[level]))
        # All the sentences that end below this level move up by one step together.
        leaves = [(rows, parents[level + 1][nodes]) for rows, nodes in leaves]
        leaves.append((sentence_of[ends[level]], ends[level]))
        for rows, nodes in leaves:
            path[rows, level] = arcs_into[level][nodes]
        filled += len(ends[level])
        # The prefix before this level's arc: the first child represents its parent.
        parent_nodes, first_children = np.unique(parents[level], return_index=True)
        weights[sentence_of[first_children], level] = masses[level][parent_nodes]
    return path, weights


def _prefix_tree(
    language: Language,
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Level by level, each prefix's parent, the arc into it and, from the root on, its mass."""
    parents: list[np.ndarray] = []
    arcs_into: list[np.ndarray] = []
    masses = [np.ones(1)]
    states = np.zeros(1, dtype=np.int64)
    inner = np.arange(1)
    while len(inner):
        rows, arcs = language.arcs_of(states[inner])
        parents.append(inner[rows])
        arcs_into.append(arcs)
        masses.append(masses[-1][inner[rows]] * language.probabilities[arcs])
        states = language.targets[arcs]
        inner = np.flatnonzero(states >= 0)
    return parents, arcs_into, masses
