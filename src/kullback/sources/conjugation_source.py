"""The conjugation source: English sentences with their Spanish translation.

A sentence is ``yesterday she ate bread → ayer ella comió pan``: a cue, a subject, a verb in the
form that the cue allows (*every day* requires the present; *once* the past or *will*), a
complement, an arrow, and the translation.  Where the grammar determines the next word, its entropy
is zero.  Elsewhere ``data/verbs.toml`` states its distribution: which subject, which verb (Zipf
weights), whether *often we put* is present or past, whether *you* is *tú*, *usted* or *ustedes*,
whether Spanish omits the pronoun.

A **cell** is an entry of the conjugation table: a verb, a tense (infinitive, present, past,
participle, future) and a person.  Held-out cells never occur in the training language; the held-out
language uses no other cells.  Both are the full language conditioned on an event, so their
probabilities and entropies are exact, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import HOLDOUTS, SEEDS
from kullback.sources._conjugation_rules import (
    Cell,
    Choice,
    all_words,
    cell_of,
    choice_probabilities,
    sentence_rules,
)
from kullback.sources._minimal_pairs import MinimalPair, minimal_pairs
from kullback.sources.grammar import Grammar
from kullback.sources.language import Language
from kullback.sources.verbs import FORMS, PERSONS, TENSES, VerbTables, embedded_tables

__all__ = ["PERSONS", "TENSES", "Cell", "ConjugationSource", "MinimalPair"]


@dataclass(frozen=True)
class ConjugationSource:
    """The conjugation language with its training and held-out parts.

    `verbs`: the verbs to use (default: all of ``data/verbs.toml``); `holdout`: the cells that never
    occur in the training language.  An unknown verb, tense or person raises `InvalidValueError`.

    >>> source = ConjugationSource(verbs=("go", "eat"))
    >>> source.training.next_token_distribution(source.training.encode("yesterday she"))[
    ...     source.training.token_ids["went"]].round(4)
    np.float64(0.6667)
    """

    verbs: tuple[str, ...] = ()
    holdout: tuple[Cell, ...] = ()

    name = "conjugation"

    def __post_init__(self) -> None:
        known = self._tables.verbs
        object.__setattr__(self, "verbs", tuple(self.verbs) or tuple(known))
        for i, verb in enumerate(self.verbs):
            if verb not in known:
                raise InvalidValueError(
                    f"verbs[{i}] is {verb!r}, which is unknown; the verbs are {', '.join(known)}"
                )
        if len(set(self.verbs)) < len(self.verbs):
            raise InvalidValueError(f"verbs is {self.verbs}: each verb must occur once")
        allowed = {"verb": self.verbs, "tense": TENSES, "person": PERSONS}
        for i, cell in enumerate(self.holdout):
            for field, value in zip(Cell._fields, cell, strict=True):
                if value not in allowed[field]:
                    raise InvalidValueError(
                        f"holdout[{i}], {'/'.join(cell)}, has the {field} {value!r}; it must be "
                        f"one of {', '.join(allowed[field])}"
                    )

    def with_random_holdout(self, cells: int, seed: int) -> ConjugationSource:
        """The same language with `cells` cells held out, drawn without replacement.

        Raises `InvalidValueError` unless at least one cell is left to train on.
        """
        table = self.cells
        HOLDOUTS.check("holdout", cells)
        SEEDS.check("seed", seed)
        if cells >= len(table):
            raise InvalidValueError(
                f"holdout is {cells} cells: it must be below the {len(table)} cells of the table"
            )
        chosen = np.random.default_rng(seed).choice(len(table), cells, replace=False)
        return ConjugationSource(self.verbs, tuple(table[i] for i in sorted(chosen)))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell of the table, held out or not."""
        return tuple(Cell(*cell) for cell in itertools.product(self.verbs, TENSES, PERSONS))

    @cached_property
    def full(self) -> Language:
        """The language of all cells, held out or not."""
        if not self.holdout:
            return self.training
        return self._language("conjugation (full)", lambda cell: True)

    @cached_property
    def training(self) -> Language:
        """The language without its held-out cells."""
        held = set(self.holdout)
        return self._language("conjugation", lambda cell: cell not in held)

    @cached_property
    def held_out(self) -> Language | None:
        """The language of the held-out cells alone; None where nothing is held out."""
        if not self.holdout:
            return None
        held = set(self.holdout)
        return self._language("conjugation (held out)", lambda cell: cell in held)

    def form(self, language: str, verb: str, form: str, person: str) -> str:
        """The form of `verb` in the language ``"en"`` or ``"es"``.

        An unknown language, verb, form or person raises `InvalidValueError`.

        >>> ConjugationSource().form("es", "go", "past", "we")
        'fuimos'
        """
        for name, value, known in (
            ("language", language, tuple(FORMS)),
            ("verb", verb, self.verbs),
            ("form", form, FORMS.get(language, ())),
            ("person", person, PERSONS),
        ):
            if value not in known:
                raise InvalidValueError(
                    f"{name} is {value!r}: it must be one of {', '.join(known)}"
                )
        return self._tables.verbs[verb].forms[language][form][PERSONS.index(person)]

    def minimal_pairs(self) -> list[MinimalPair]:
        """For each cell, right forms against wrong forms of the same verb, after real prefixes.

        English: *she works* against *she work*, *she went* against *she goed*; Spanish: *comió*
        against *comí* after the English sentence.  A form counts as wrong only where the full
        language gives it probability zero, so that every pair has a right answer.

        Each cell, subject and wrong form occurs once in each language, in the most probable context
        (cue, frame) where that form is wrong; the Spanish follows the most probable complement and
        the most probable translation of the subject.

        >>> pair = ConjugationSource(verbs=("go", "eat")).minimal_pairs()[0]
        >>> pair.cell, pair.language, len(pair.prefix)
        (Cell(verb='go', tense='present', person='I'), 'english', 3)
        """
        return minimal_pairs(self._tables, self._choices, self.full)

    @property
    def _tables(self) -> VerbTables:
        return embedded_tables()

    @cached_property
    def _choices(self) -> dict[Choice, float]:
        return choice_probabilities(self._tables, self.verbs)

    def _language(self, name: str, keep: Callable[[Cell], bool]) -> Language:
        """The language of the choices whose cell is kept, renormalised over them."""
        kept = {
            choice: p for choice, p in self._choices.items() if keep(cell_of(self._tables, choice))
        }
        if not kept:
            raise InvalidValueError(
                f"holdout has every one of the {len(self.cells)} cells: leave some to train on"
            )
        grammar = Grammar(name, ("sentence",), dict(sentence_rules(self._tables, kept)))
        return grammar.compile(extra_words=all_words(self._tables, self.verbs)).determinise()
