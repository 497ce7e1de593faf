"""From rules to an automaton: the small language in which a source is written down.

A grammar file is TOML.  A rule lists its alternatives; each is a string of words and of
references ``<rule>``, with a probability ``p`` (left out everywhere in a rule: all are equal)::

    name = "weather"
    start = "sentence"

    [rules]
    sentence = [
      { p = 0.7, then = "today <sky>" },
      { p = 0.3, then = "yesterday <sky>" },
    ]
    sky = ["it rains", "the sun shines"]

The slot of a word is the name of the rule that writes it.  A rule may refer to itself only at its
very end (``tail = ["again <tail>", "done"]``): such grammars are right-linear, and exactly these
compile to finite automata (Chomsky 1959).
"""

from __future__ import annotations

import tomllib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kullback.errors import GrammarError
from kullback.sources.automaton import SUM_TOLERANCE, Arc, Automaton
from kullback.text.special_tokens import EOS

__all__ = ["Grammar", "Production", "Word"]

# What is still to be written: words, and keys of rules.
_Rest = tuple[Hashable, ...]


class Word(NamedTuple):
    """A word to write, and the slot it stands in."""

    text: str
    slot: str


class Production(NamedTuple):
    """One alternative of a rule: with this probability, these words and rules in turn."""

    probability: float
    symbols: tuple[Hashable, ...]
    """`Word` s, and keys of the grammar's rules."""


@dataclass(frozen=True)
class Grammar:
    """Rules with probabilities, as data; :meth:`compile` makes the automaton."""

    name: str
    start: Hashable
    rules: Mapping[Hashable, Sequence[Production]]

    @classmethod
    def read(cls, path: Path | str) -> Grammar:
        """The grammar of a TOML file; `GrammarError` says what is malformed and where."""
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise GrammarError(
                f"the grammar {path} cannot be read: {error.strerror}; check the path"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise GrammarError(f"{path} is not a TOML file: {error}") from None
        rules = data.get("rules")
        if not isinstance(rules, dict) or not rules:
            raise GrammarError(
                f"{path} has no table [rules]; write one, e.g. [rules] and under it "
                'sentence = ["it rains", "the sun shines"]'
            )
        name = str(data.get("name", path.stem))
        parsed: dict[Hashable, list[Production]] = {
            rule: _parse_rule(path, rule, body) for rule, body in rules.items()
        }
        grammar = cls(name, data.get("start", next(iter(rules))), parsed)
        grammar._check(str(path))
        return grammar

    def compile(self, extra_words: Iterable[str] = ()) -> Automaton:
        """The automaton whose states are what is still to be written.

        >>> grammar = Grammar("coin", "toss", {"toss": [
        ...     Production(0.5, (Word("heads", "face"),)),
        ...     Production(0.5, (Word("tails", "face"),))]})
        >>> round(grammar.compile().determinise().entropy_per_sentence, 6)
        0.693147
        """
        self._check(self.name)
        start: _Rest = (self.start,)
        number: dict[_Rest, int] = {start: 0}
        arcs: dict[Hashable, list[Arc]] = {}
        queue: list[_Rest] = [start]
        for state, rest in enumerate(queue):  # grows while we walk it
            # Every word that can come first, with what remains behind it.
            out: list[Arc] = []
            pending: list[tuple[float, _Rest]] = [(1.0, rest)]
            while pending:
                probability, symbols = pending.pop()
                if not symbols:
                    out.append(Arc(EOS, "end", probability, None))
                    continue
                first, behind = symbols[0], symbols[1:]
                if isinstance(first, Word):
                    target = number.setdefault(behind, len(queue))
                    if target == len(queue):
                        queue.append(behind)
                    out.append(Arc(first.text, first.slot, probability, target))
                else:
                    pending.extend(
                        (probability * share, ahead + behind) for share, ahead in self.rules[first]
                    )
            arcs[state] = out
        return Automaton.from_arcs(self.name, 0, arcs, extra_words)

    def _check(self, where: str) -> None:
        """Raise `GrammarError`, which begins with `where`, unless the rules make an automaton.

        No rule may reach itself before its end, nor without writing a word, nor go on forever.
        """
        if self.start not in tuple(self.rules):  # a start of a TOML file may be unhashable
            raise GrammarError(
                f"{where}: start is {self.start!r}, which is not among the rules; "
                f"the rules are {_listed(self.rules)}"
            )
        for rule, alternatives in self.rules.items():
            _check_alternatives(where, rule, alternatives, self.rules)
        ending = self._rules_that_can_consist_of(words=True)
        for rule in self.rules:
            if rule not in ending:
                raise GrammarError(
                    f"{where}: the rule {rule!r} never ends: every alternative comes back to "
                    "a rule that never ends; give it one that does not"
                )
        empty = self._rules_that_can_consist_of(words=False)
        # Edges from a rule to those that it mentions: anywhere, and before any word is written.
        anywhere: dict[Hashable, set[Hashable]] = {rule: set() for rule in self.rules}
        wordless: dict[Hashable, set[Hashable]] = {rule: set() for rule in self.rules}
        before_end: list[tuple[Hashable, Hashable]] = []
        for rule, alternatives in self.rules.items():
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
                    f"{where}: the rule {rule!r} comes back to itself before its end (through "
                    f"<{mentioned}>): a finite automaton cannot nest; move the reference to the "
                    "end of the alternative"
                )
        for rule in self.rules:
            for mentioned in wordless[rule]:
                if rule in _reachable(wordless, mentioned):
                    raise GrammarError(
                        f"{where}: the rule {rule!r} comes back to itself (through "
                        f"<{mentioned}>) without writing a word; write one before the reference"
                    )

    def _rules_that_can_consist_of(self, words: bool) -> set[Hashable]:
        """Rules with a derivation that ends; where `words` is false, one that writes no word."""
        found: set[Hashable] = set()
        size = -1
        while len(found) > size:
            size = len(found)
            # Rules mention later ones more often than earlier ones: backwards, few rounds do.
            for rule in reversed(tuple(self.rules)):
                if rule not in found and any(
                    all(
                        words if isinstance(symbol, Word) else symbol in found for symbol in symbols
                    )
                    for _, symbols in self.rules[rule]
                ):
                    found.add(rule)
        return found


def _check_alternatives(
    where: str, rule: Hashable, alternatives: Sequence[Production], known: Mapping[Hashable, object]
) -> None:
    if not alternatives:
        raise GrammarError(f"{where}: the rule {rule!r} has no alternatives; write at least one")
    for i, (p, symbols) in enumerate(alternatives):
        if not 0.0 < p <= 1.0 + SUM_TOLERANCE:
            raise GrammarError(
                f"{where}: alternative {i} of the rule {rule!r} has p = {p}: it must lie in "
                "(0, 1]; leave out what is never said"
            )
        for symbol in symbols:
            if not isinstance(symbol, Word) and symbol not in known:
                raise GrammarError(
                    f"{where}: the rule {rule!r} refers to <{symbol}>, which is not defined; "
                    f"the rules are {_listed(known)}"
                )
    total = sum(p for p, _ in alternatives)
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise GrammarError(
            f"{where}: the probabilities of the rule {rule!r} sum to {total:.12g}, not 1; change "
            "them, or leave every p out to make the alternatives equally likely"
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


def _parse_rule(path: Path, rule: str, body: object) -> list[Production]:
    if not isinstance(body, list) or not body:
        raise GrammarError(
            f"{path}: the rule {rule!r} is {body!r}: it must be a list of alternatives, e.g. "
            f'{rule} = ["it rains", "the sun shines"]'
        )
    entries: list[tuple[float | None, str]] = []
    for i, entry in enumerate(body):
        match entry:
            case str():
                entries.append((None, entry))
            case {"p": int() | float() as p, "then": str() as then, **others} if not (
                others or isinstance(p, bool)
            ):
                entries.append((float(p), then))
            case _:
                raise GrammarError(
                    f"{path}: alternative {i} of the rule {rule!r} is {entry!r}: write a string, "
                    'or { p = 0.5, then = "words and <rules>" }'
                )
    given = sum(p is not None for p, _ in entries)
    if 0 < given < len(entries):
        raise GrammarError(
            f"{path}: {given} of the {len(entries)} alternatives of the rule {rule!r} have a p: "
            "give one to every alternative or to none"
        )
    return [
        Production(1.0 / len(entries) if p is None else p, _parse_words(rule, text))
        for p, text in entries
    ]


def _parse_words(rule: str, text: str) -> tuple[Hashable, ...]:
    return tuple(
        part[1:-1]
        if part.startswith("<") and part.endswith(">") and len(part) > 2
        else Word(part, rule)
        for part in text.split()
    )
