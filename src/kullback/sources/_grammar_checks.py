"""Checks that the rules of a grammar define a finite automaton.

Each rule needs alternatives whose probabilities sum to 1, must refer to known rules only, must have
a derivation that terminates, and must reach itself neither before its end (a finite automaton has
no stack) nor without writing a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from kullback.errors import GrammarError
from kullback.runtime.progress import Note
from kullback.sources._checks import SUM_TOLERANCE, check_sum

__all__ = ["Production", "Word", "check_rules", "note_unreached"]


# Rules that a message names.
MOST_LISTED = 20


class Word(NamedTuple):
    """A word to write, and its slot."""

    text: str
    slot: str


class Production(NamedTuple):
    """An alternative of a rule: its probability, and its words and rules in order."""

    probability: float
    symbols: tuple[Hashable, ...]
    """`Word` s, and keys of the grammar's rules."""


Rules = Mapping[Hashable, Sequence[Production]]


def check_rules(where: str, start: Hashable, rules: Rules) -> None:
    """Raise `GrammarError`, which begins with `where`, unless the rules define an automaton."""
    if start not in tuple(rules):  # the start in a TOML file may be unhashable
        raise GrammarError(
            f"{where}: start is {start!r}, which is not among the rules; "
            f"the rules are {_listed(rules)}"
        )
    for rule, alternatives in rules.items():
        _check_alternatives(where, rule, alternatives, rules)
    terminating = _rules_that_derive_a_string(rules, words_allowed=True)
    for rule in rules:
        if rule not in terminating:
            raise GrammarError(
                f"{where}: the rule {rule!r} never ends: every alternative leads back to "
                "a rule that never ends; give it an alternative that ends"
            )
    _check_recursion(where, rules)


def note_unreached(where: str, start: Hashable, rules: Rules) -> None:
    """A `Note` that names the rules that no sentence contains, if there are any."""
    reached, waiting = {start}, [start]
    while waiting:
        for _, symbols in rules[waiting.pop()]:
            new = {symbol for symbol in symbols if not isinstance(symbol, Word)} - reached
            reached |= new
            waiting += new
    unreached = [rule for rule in rules if rule not in reached]
    if unreached:
        one = len(unreached) == 1
        warnings.warn(
            f"{where}: the rule{'s' * (not one)} {_listed(unreached)} {'is' if one else 'are'} in "
            f"no sentence: nothing that <{start}> leads to refers to {'it' if one else 'them'}",
            Note,
            stacklevel=3,
        )


def _check_recursion(where: str, rules: Rules) -> None:
    empty = _rules_that_derive_a_string(rules, words_allowed=False)
    # Edges from a rule to those that it mentions: anywhere, and before any word is written.
    anywhere: dict[Hashable, set[Hashable]] = {rule: set() for rule in rules}
    wordless: dict[Hashable, set[Hashable]] = {rule: set() for rule in rules}
    before_end: list[tuple[Hashable, Hashable]] = []
    for rule, alternatives in rules.items():
        for _, symbols in alternatives:
            wrote = False
            for i, symbol in enumerate(symbols):
                if isinstance(symbol, Word):
                    wrote = True
                    continue
                anywhere[rule].add(symbol)
                if i < len(symbols) - 1:
                    before_end.append((rule, symbol))
                if not wrote:
                    wordless[rule].add(symbol)
                wrote = wrote or symbol not in empty
    component = _components(anywhere)
    for rule, mentioned in before_end:
        # The rule mentions it: both are in one component where it leads back.
        if component[rule] == component[mentioned]:
            raise GrammarError(
                f"{where}: the rule {rule!r} refers to itself before its end (through "
                f"<{mentioned}>): a finite automaton cannot nest; move the reference to the "
                "end of the alternative"
            )
    component = _components(wordless)
    for rule in rules:
        for mentioned in wordless[rule]:
            if component[rule] == component[mentioned]:
                raise GrammarError(
                    f"{where}: the rule {rule!r} refers to itself (through "
                    f"<{mentioned}>) without writing a word; write one before the reference"
                )


def _rules_that_derive_a_string(rules: Rules, words_allowed: bool) -> set[Hashable]:
    """Rules with a derivation that terminates; without words allowed, in the empty string."""
    # Of each alternative, the rules of which it is not yet known; when there is none, its rule
    # derives a string, which may complete the alternatives that mention it.
    waiting: dict[Hashable, list[tuple[Hashable, set[Hashable]]]] = {}
    complete: list[Hashable] = []
    for rule, alternatives in rules.items():
        for _, symbols in alternatives:
            unknown = {symbol for symbol in symbols if not isinstance(symbol, Word)}
            if not words_allowed and any(isinstance(symbol, Word) for symbol in symbols):
                continue
            if not unknown:
                complete.append(rule)
            for symbol in unknown:
                waiting.setdefault(symbol, []).append((rule, unknown))
    terminating: set[Hashable] = set()
    while complete:
        known = complete.pop()
        if known in terminating:
            continue
        terminating.add(known)
        for rule, unknown in waiting.get(known, ()):
            unknown.discard(known)
            if not unknown:
                complete.append(rule)
    return terminating


def _check_alternatives(
    where: str, rule: Hashable, alternatives: Sequence[Production], known: Rules
) -> None:
    if not alternatives:
        raise GrammarError(f"{where}: the rule {rule!r} has no alternatives; write at least one")
    for i, (p, symbols) in enumerate(alternatives):
        if not 0.0 < p <= 1.0 + SUM_TOLERANCE:
            raise GrammarError(
                f"{where}: alternative {i} of the rule {rule!r} has p = {p}: it must be in "
                "(0, 1]; remove an alternative that never occurs"
            )
        for symbol in symbols:
            if not isinstance(symbol, Word) and symbol not in known:
                raise GrammarError(
                    f"{where}: the rule {rule!r} refers to <{symbol}>, which is not defined; "
                    f"the rules are {_listed(known)}"
                )
    check_sum(
        f"{where}: the probabilities of the rule {rule!r}",
        (p for p, _ in alternatives),
        "change them, or omit every p to make the alternatives equally likely",
    )


def _listed(rules: Iterable[Hashable]) -> str:
    names = sorted(str(rule) for rule in rules)
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def _components(edges: Mapping[Hashable, set[Hashable]]) -> dict[Hashable, int]:
    """The strongly connected component of each rule: two are in one where each reaches the other.

    A rule that reaches only itself, or not even that, is alone: callers know an edge between two.
    """
    number = {rule: i for i, rule in enumerate(edges)}
    sources = [number[rule] for rule, ahead in edges.items() for _ in ahead]
    targets = [number[rule] for ahead in edges.values() for rule in ahead]
    graph = csr_array((np.ones(len(sources)), (sources, targets)), shape=(len(number),) * 2)
    _, labels = connected_components(graph, directed=True, connection="strong")
    return dict(zip(number, labels.tolist(), strict=True))
