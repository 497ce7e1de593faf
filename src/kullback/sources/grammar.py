"""Grammars: rules with probabilities, read from TOML files and compiled to automata.

A rule lists its alternatives; each is a string of words and of references ``<rule>``, with a
probability ``p`` (omitted in every alternative of a rule: all are equal)::

    name = "weather"
    start = "sentence"

    [rules]
    sentence = [
      { p = 0.7, then = "today <sky>" },
      { p = 0.3, then = "yesterday <sky>" },
    ]
    sky = ["it rains", "the sun shines"]

The slot of a word is the name of the rule that writes it.  A rule may refer to itself only at its
end (``tail = ["again <tail>", "done"]``): such grammars are right-linear, and exactly these compile
to finite automata (Chomsky 1959).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kullback.errors import GrammarError
from kullback.sources._checks import read_toml
from kullback.sources._determinisation import MOST_STATES
from kullback.sources._grammar_checks import Production, Word, check_rules, note_unreached
from kullback.sources.automaton import Arc, Automaton
from kullback.text.special_tokens import EOS

__all__ = ["Grammar", "Production", "Word"]

# Symbols that compiling a grammar may touch: a sentence of n words takes n²/2, and a grammar of a
# hundred thousand states about a million.  A step takes as long as ten symbols.
MOST_WORK = 20_000_000
WORK_OF_A_STEP = 10
MOST_SHOWN = 80  # characters of a value in a message
# What remains to be written: words, and keys of rules.
_Rest = tuple[Hashable, ...]


@dataclass(frozen=True)
class Grammar:
    """Rules with probabilities, as data; :meth:`compile` makes the automaton."""

    name: str
    start: Hashable
    rules: Mapping[Hashable, Sequence[Production]]

    @classmethod
    def read(cls, path: Path | str) -> Grammar:
        """The grammar of a TOML file; a `GrammarError` names what is malformed and where.

        A `Note` names rules that no sentence contains.
        Without a ``name`` the file's is used, without a ``start`` the first rule.
        """
        path = Path(path)
        data = read_toml(path, "grammar")
        rules = data.get("rules")
        if not isinstance(rules, dict) or not rules:
            raise GrammarError(
                f"{path} has no table [rules]; write one, e.g. [rules] and below it "
                'sentence = ["it rains", "the sun shines"]'
            )
        name = data.get("name", path.stem)
        if not isinstance(name, str):
            raise GrammarError(f"{path}: the name is {_shortened(name)}: it must be a string")
        parsed: dict[Hashable, list[Production]] = {
            rule: _parse_rule(path, rule, body) for rule, body in rules.items()
        }
        grammar = cls(name, data.get("start", next(iter(rules))), parsed)
        check_rules(str(path), grammar.start, grammar.rules)
        note_unreached(str(path), grammar.start, grammar.rules)
        return grammar

    def compile(self, extra_words: Iterable[str] = ()) -> Automaton:
        """The automaton whose states are what remains to be written.

        `extra_words` are added to the vocabulary.  Raises `GrammarError` for rules that do not
        define a finite automaton.

        >>> grammar = Grammar("coin", "toss", {"toss": [
        ...     Production(0.5, (Word("heads", "face"),)),
        ...     Production(0.5, (Word("tails", "face"),))]})
        >>> round(grammar.compile().determinise().entropy_per_sentence, 6)
        0.693147
        """
        check_rules(self.name, self.start, self.rules)
        start: _Rest = (self.start,)
        number: dict[_Rest, int] = {start: 0}
        arcs: dict[Hashable, list[Arc]] = {}
        queue: list[_Rest] = [start]
        work = 0
        for state, rest in enumerate(queue):  # grows during the loop
            # Every word that can come first, with the rest that follows it.
            out: list[Arc] = []
            pending: list[tuple[float, _Rest]] = [(1.0, rest)]
            while pending:
                probability, symbols = pending.pop()
                if not symbols:
                    out.append(Arc(EOS, "end", probability, None))
                    continue
                work += WORK_OF_A_STEP + len(symbols)
                if work > MOST_WORK or len(queue) > MOST_STATES:
                    raise GrammarError(
                        f"{self.name}: the rules need more than {MOST_STATES:,} states, or "
                        "sentences that are too long for them: a rule that contains another twice "
                        "doubles their number; shorten the grammar"
                    )
                first, behind = symbols[0], symbols[1:]
                if isinstance(first, Word):
                    target = number.setdefault(behind, len(queue))
                    if target == len(queue):
                        queue.append(behind)
                    out.append(Arc(first.text, first.slot, probability, target))
                else:
                    for share, ahead in self.rules[first]:
                        if not probability * share:
                            raise GrammarError(
                                f"{self.name}: an alternative of the rule {first!r} has a "
                                f"probability of {share} × {probability}, which is too small for a "
                                "number of 64 bits: raise it, or those of the rules that lead to it"
                            )
                        pending.append((probability * share, ahead + behind))
            arcs[state] = out
        return Automaton.from_arcs(self.name, 0, arcs, extra_words)


def _parse_rule(path: Path, rule: str, body: object) -> list[Production]:
    if not isinstance(body, list) or not body:
        raise GrammarError(
            f"{path}: the rule {rule!r} is {_shortened(body)}: it must be a list of "
            f'alternatives, e.g. {rule} = ["it rains", "the sun shines"]'
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
                    f"{path}: alternative {i} of the rule {rule!r} is {_shortened(entry)}: write a "
                    'string, or { p = 0.5, then = "words and <rules>" }'
                )
    given = sum(p is not None for p, _ in entries)
    if 0 < given < len(entries):
        raise GrammarError(
            f"{path}: {given} of the {len(entries)} alternatives of the rule {rule!r} have a p: "
            "give a p to every alternative or to none"
        )
    return [
        Production(1.0 / len(entries) if p is None else p, _parse_words(rule, text))
        for p, text in entries
    ]


def _shortened(value: object) -> str:
    """A value in a message: what it contains may be long."""
    return repr(value) if len(repr(value)) <= MOST_SHOWN else f"{repr(value)[:MOST_SHOWN]}..."


def _parse_words(rule: str, text: str) -> tuple[Hashable, ...]:
    return tuple(
        part[1:-1]
        if part.startswith("<") and part.endswith(">") and len(part) > 2
        else Word(part, rule)
        for part in text.split()
    )
