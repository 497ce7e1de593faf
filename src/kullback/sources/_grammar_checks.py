"""Checks that the rules of a grammar define a finite automaton.

Each rule needs alternatives whose probabilities sum to 1, must refer to known rules only, must have
a derivation that terminates, and must reach itself neither before its end (a finite automaton has
no stack) nor without writing a word.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kullback.errors import GrammarError
from kullback.sources._checks import SUM_TOLERANCE, check_sum

__all__ = ["Production", "Word", "check_rules"]


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
    for rule, mentioned in before_end:
        if rule in _reachable(anywhere, mentioned):
            raise GrammarError(
                f"{where}: the rule {rule!r} refers to itself before its end (through "
                f"<{mentioned}>): a finite automaton cannot nest; move the reference to the "
                "end of the alternative"
            )
    for rule in rules:
        for mentioned in wordless[rule]:
            if rule in _reachable(wordless, mentioned):
                raise GrammarError(
                    f"{where}: the rule {rule!r} refers to itself (through "
                    f"<{mentioned}>) without writing a word; write one before the reference"
                )


def _rules_that_derive_a_string(rules: Rules, words_allowed: bool) -> set[Hashable]:
    """Rules with a derivation that terminates; without words allowed, in the empty string."""
    terminating: set[Hashable] = set()
    size = -1
    while len(terminating) > size:
        size = len(terminating)
        # Rules mention later rules more often than earlier ones: backwards takes few passes.
        for rule in reversed(tuple(rules)):
            if rule not in terminating and any(
                all(
                    words_allowed if isinstance(symbol, Word) else symbol in terminating
                    for symbol in symbols
                )
                for _, symbols in rules[rule]
            ):
                terminating.add(rule)
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
    return ", ".join(sorted(str(rule) for rule in rules))


def _reachable(edges: Mapping[Hashable, set[Hashable]], start: Hashable) -> set[Hashable]:
    seen = {start}
    queue = [start]
    for rule in queue:
        for ahead in edges[rule] - seen:
            seen.add(ahead)
            queue.append(ahead)
    return seen
