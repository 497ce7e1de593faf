"""The conjugation language: English sentences with their Spanish translation.

A sentence reads ``yesterday she ate bread → ayer ella comió pan``.  It is made in this order: a
cue, the frame that the cue allows (*every day* wants the present; *once* the past, or *will*), a
subject, a verb (Zipfian), its form, a complement, an arrow, and the translation.  Where grammar
decides, the next word is certain; where the world decides, its distribution is stated in
``data/verbs.toml``: which subject, which verb, whether *often we put* is present or past, whether
*you* is *tú*, *usted* or *ustedes*, whether Spanish leaves the pronoun out.

A **cell** is one box of the conjugation table: a verb, a tense (infinitive, present, past,
participle, future) and a person.  Held-out cells are never said in the training language; the
held-out language says nothing else.  Both are the full language conditioned on an event, so their
probabilities, and with them their entropies, stay exact.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from kullback.errors import InvalidValueError
from kullback.sources.grammar import Grammar, Production, Word
from kullback.sources.language import Language
from kullback.sources.verbs import FORMS, PERSONS, TENSES, VerbTables, embedded_tables

__all__ = ["PERSONS", "TENSES", "Cell", "ConjugationSource", "MinimalPair"]

ARROW = "→"

# What an alternative of a rule writes: words, and keys of rules.
_Symbols = tuple[Hashable, ...]


class Cell(NamedTuple):
    """One box of the conjugation table."""

    verb: str
    tense: str
    person: str


class MinimalPair(NamedTuple):
    """A prefix, a form that may follow, and a form of the same verb that may not."""

    cell: Cell
    side: str
    """``"english"`` or ``"spanish"``."""
    regular: bool
    """Whether the verb is regular *in English*."""
    prefix: tuple[int, ...]
    right: int
    wrong: int


class _Choice(NamedTuple):
    """What the world decides about the subject and the verb."""

    cue: int
    frame: str
    subject: int
    verb: str


@dataclass(frozen=True)
class ConjugationSource:
    """The conjugation language, its training and held-out parts.

    `verbs`: which verbs (default: all of ``data/verbs.toml``); `holdout`: the cells that the
    training language never says.  An unknown verb, tense or person is an `InvalidValueError`.

    >>> source = ConjugationSource(verbs=("go", "eat"))
    >>> source.training.next_token_distribution(source.training.encode("yesterday she"))[
    ...     source.training.word_ids["went"]].round(4)
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
            raise InvalidValueError(f"verbs is {self.verbs}: name each verb once")
        allowed = {"verb": self.verbs, "tense": TENSES, "person": PERSONS}
        for i, cell in enumerate(self.holdout):
            for field, value in zip(Cell._fields, cell, strict=True):
                if value not in allowed[field]:
                    raise InvalidValueError(
                        f"holdout[{i}], {'/'.join(cell)}, has the {field} {value!r}; it must be "
                        f"one of {', '.join(allowed[field])}"
                    )

    def with_random_holdout(self, cells: int, seed: int) -> ConjugationSource:
        """The same language with `cells` cells held out, drawn without replacement."""
        everything = self.cells
        if not 0 <= cells < len(everything):
            raise InvalidValueError(
                f"holdout is {cells} cells: it must be at least 0 and below the {len(everything)} "
                "cells of the table"
            )
        chosen = np.random.default_rng(seed).choice(len(everything), cells, replace=False)
        return ConjugationSource(self.verbs, tuple(everything[i] for i in sorted(chosen)))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell of the table, held out or not."""
        return tuple(Cell(*cell) for cell in itertools.product(self.verbs, TENSES, PERSONS))

    @cached_property
    def full(self) -> Language:
        """The whole language, held-out cells included."""
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

    def form(self, side: str, verb: str, form: str, person: str) -> str:
        """The form of `verb` on the side ``"en"`` or ``"es"``.

        An unknown side, verb, form or person is an `InvalidValueError`.

        >>> ConjugationSource().form("es", "go", "past", "we")
        'fuimos'
        """
        for name, value, known in (
            ("side", side, tuple(FORMS)),
            ("verb", verb, self.verbs),
            ("form", form, FORMS.get(side, ())),
            ("person", person, PERSONS),
        ):
            if value not in known:
                raise InvalidValueError(
                    f"{name} is {value!r}: it must be one of {', '.join(known)}"
                )
        return self._tables.verbs[verb].forms[side][form][PERSONS.index(person)]

    def cell_of(self, frame: str, subject: int, verb: str) -> Cell:
        """The cell that a subject and a verb in a frame belong to."""
        tables = self._tables
        return Cell(verb, tables.frames[frame].tense, tables.subjects[subject].person)

    # --- the grammar -----------------------------------------------------------------------

    @property
    def _tables(self) -> VerbTables:
        return embedded_tables()

    @cached_property
    def _choices(self) -> dict[_Choice, float]:
        """P(cue, frame, subject, verb) of the full language."""
        choices: dict[_Choice, float] = {}
        for s, subject in enumerate(self._tables.subjects):
            weights = {
                verb: 1.0 / rank
                for rank, verb in enumerate(self.verbs, start=1)
                if subject.en != "it" or self._tables.verbs[verb].said_of_it
            }
            if not weights:  # nothing that *it* does: then nobody says *it*
                continue
            total = sum(weights.values())
            for c, cue in enumerate(self._tables.cues):
                for frame, p_frame in cue.frames.items():
                    p = cue.probability * p_frame * subject.probability / total
                    for verb, weight in weights.items():
                        choices[_Choice(c, frame, s, verb)] = p * weight
        return choices

    def _language(self, name: str, keep: Callable[[Cell], bool]) -> Language:
        """The language of the choices whose cell is kept, renormalised over them."""
        kept = {
            choice: p
            for choice, p in self._choices.items()
            if keep(self.cell_of(choice.frame, choice.subject, choice.verb))
        }
        if not kept:
            raise InvalidValueError(
                f"holdout has every one of the {len(self.cells)} cells: leave some to train on"
            )
        grammar = Grammar(name, ("sentence",), dict(self._rules(kept)))
        return grammar.compile(extra_words=self._all_words()).determinise()

    def _rules(
        self, choices: Mapping[_Choice, float]
    ) -> Iterator[tuple[Hashable, list[Production]]]:
        """One rule a decision; the rule's key holds what has been decided and still matters."""
        cues, subjects, verbs = self._tables.cues, self._tables.subjects, self._tables.verbs
        opening: defaultdict[tuple[int, str], float] = defaultdict(float)
        by_subject: defaultdict[tuple[int, str], dict[int, float]] = defaultdict(dict)
        by_verb: defaultdict[tuple[int, str, int], dict[str, float]] = defaultdict(dict)
        for (c, frame, s, verb), p in choices.items():
            opening[c, frame] += p
            by_subject[c, frame][s] = by_subject[c, frame].get(s, 0.0) + p
            by_verb[c, frame, s][verb] = p

        sentences: dict[_Symbols, float] = {
            (*_words(cues[c].en, "cue"), ("subject", c, frame)): p
            for (c, frame), p in opening.items()
        }
        yield ("sentence",), _alternatives(sentences)
        for (c, frame), weights in by_subject.items():
            said: dict[_Symbols, float] = {
                (Word(subjects[s].en, "subject"), ("verb", c, frame, s)): p
                for s, p in weights.items()
            }
            yield ("subject", c, frame), _alternatives(said)
        for (c, frame, s), shares in by_verb.items():
            predicates: dict[_Symbols, float] = {
                (*self._predicate("en", frame, s, verb), ("rest", c, frame, s, verb)): p
                for verb, p in shares.items()
            }
            yield ("verb", c, frame, s), _alternatives(predicates)
            for verb in shares:
                rests: dict[_Symbols, float] = {
                    (
                        *_words(pair.en, "complement"),
                        Word(ARROW, "arrow"),
                        *_words(cues[c].es, "Spanish cue"),
                        ("clause", frame, s, verb, k),  # the cue has been translated: forget it
                    ): pair.probability
                    for k, pair in enumerate(verbs[verb].complements)
                }
                yield ("rest", c, frame, s, verb), _alternatives(rests)
        for frame, s, verb in {choice[1:]: None for choice in choices}:
            for k, pair in enumerate(verbs[verb].complements):
                clauses: dict[_Symbols, float] = {
                    (
                        *_words(said.pronoun, "Spanish subject"),
                        *self._predicate("es", frame, s, verb, said.person),
                        *_words(pair.es, "Spanish complement"),
                    ): said.probability
                    for said in subjects[s].es
                }
                yield ("clause", frame, s, verb, k), _alternatives(clauses)

    def _predicate(
        self, side: str, frame: str, subject: int, verb: str, person: str | None = None
    ) -> tuple[Word, ...]:
        """The helping words and the verb's form; `person` defaults to the subject's."""
        i = PERSONS.index(person or self._tables.subjects[subject].person)
        prefix, how = (
            ("", self._tables.frames[frame].en)
            if side == "en"
            else ("Spanish ", self._tables.frames[frame].es)
        )
        form = self._tables.verbs[verb].forms[side][how.form][i]
        return (*_words(how.auxiliary[i], f"{prefix}auxiliary"), Word(form, f"{prefix}verb"))

    def _all_words(self) -> set[str]:
        """The vocabulary of every part of the language, *goed* included, which no part says."""
        tables = self._tables
        texts = [ARROW]
        for cue in tables.cues:
            texts += [cue.en, cue.es]
        for subject in tables.subjects:
            texts += [subject.en, *(said.pronoun for said in subject.es)]
        for frame in tables.frames.values():
            texts += [*frame.en.auxiliary, *frame.es.auxiliary]
        for verb in self.verbs:
            texts += [*self._forms(verb, "en"), *self._forms(verb, "es")]
            for pair in tables.verbs[verb].complements:
                texts += [pair.en, pair.es]
        return {word for text in texts for word in text.split()}

    def _forms(self, verb: str, side: str) -> set[str]:
        """Every form of the verb, the overregularised one included."""
        facts = self._tables.verbs[verb]
        forms = set(itertools.chain.from_iterable(facts.forms[side].values()))
        return forms | {facts.overregularised} if side == "en" and facts.overregularised else forms

    # --- minimal pairs ---------------------------------------------------------------------

    def minimal_pairs(self) -> list[MinimalPair]:
        """For each cell, right forms against wrong forms of the same verb, after real prefixes.

        English: *she works* over *she work*, *she went* over *she goed*; Spanish: *comió* over
        *comí* after the English sentence.  A form counts as wrong only where the full language
        gives it probability zero, so that every pair has a right answer.

        Each cell, subject and wrong form is asked about once on each side, in the likeliest
        context (cue, frame) where that form is wrong; the Spanish follows the likeliest complement
        and the likeliest translation of the subject.
        """
        pairs: dict[tuple[Cell, int, str, str], MinimalPair] = {}
        for choice in sorted(self._choices, key=self._choices.__getitem__, reverse=True):
            cell = self.cell_of(choice.frame, choice.subject, choice.verb)
            for side, (prefix, right) in self._questions(choice).items():
                wrong_forms = [
                    form
                    for form in sorted(self._forms(choice.verb, side) - {right})
                    if (cell, choice.subject, side, form) not in pairs
                ]
                if not wrong_forms:
                    continue
                language = self.full
                ids = language.word_ids
                encoded = tuple(ids[word] for word in prefix)
                possible = language.next_token_distribution(encoded)
                for wrong in wrong_forms:
                    if possible[ids[wrong]] == 0.0:
                        pairs[cell, choice.subject, side, wrong] = MinimalPair(
                            cell,
                            "english" if side == "en" else "spanish",
                            self._tables.verbs[choice.verb].regular,
                            encoded,
                            ids[right],
                            ids[wrong],
                        )
        return list(pairs.values())

    def _questions(self, choice: _Choice) -> dict[str, tuple[list[str], str]]:
        """On each side, the words before the verb's form, and the form."""
        c, frame, s, verb = choice
        cue, subject = self._tables.cues[c], self._tables.subjects[s]
        *helping, right = (word.text for word in self._predicate("en", frame, s, verb))
        english = [*cue.en.split(), subject.en, *helping]
        said = max(subject.es, key=lambda translation: translation.probability)
        predicate = self._predicate("es", frame, s, verb, said.person)
        *helping_es, right_es = (word.text for word in predicate)
        complement = max(self._tables.verbs[verb].complements, key=lambda pair: pair.probability)
        spanish = [*english, right, *complement.en.split(), ARROW, *cue.es.split()]
        spanish += [*said.pronoun.split(), *helping_es]
        return {"en": (english, right), "es": (spanish, right_es)}


@cache
def _words(text: str, slot: str) -> tuple[Word, ...]:
    return tuple(Word(word, slot) for word in text.split())


def _alternatives(weights: Mapping[_Symbols, float]) -> list[Production]:
    """Productions whose probabilities are the weights, normalised over the alternatives."""
    total = sum(weights.values())
    return [Production(weight / total, symbols) for symbols, weight in weights.items()]
