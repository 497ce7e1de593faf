"""The grammar of the conjugation source: choices, their probabilities, and rules.

A sentence is generated in this order: cue, frame, subject, verb, complement, arrow, Spanish cue,
translation of the subject.  A rule's key contains the choices made so far that still matter.
Probabilities are those of ``data/verbs.toml``; verbs have Zipf weights.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from kullback.sources.grammar import Production, Word
from kullback.sources.verbs import PERSONS, VerbTables

__all__ = [
    "ARROW", "Cell", "Choice", "all_words", "cell_of", "choice_probabilities", "forms_of",
    "predicate", "sentence_rules",
]  # fmt: skip

ARROW = "→"

# What an alternative of a rule writes: words, and keys of rules.
_Symbols = tuple[Hashable, ...]


class Cell(NamedTuple):
    """A cell of the conjugation table."""

    verb: str
    tense: str
    person: str


class Choice(NamedTuple):
    """The choices up to the verb; `cue` and `subject` are indices into the tables."""

    cue: int
    frame: str
    subject: int
    verb: str


def cell_of(tables: VerbTables, choice: Choice) -> Cell:
    """The cell of the conjugation table that a choice uses."""
    tense = tables.frames[choice.frame].tense
    return Cell(choice.verb, tense, tables.subjects[choice.subject].person)


def choice_probabilities(tables: VerbTables, verbs: Sequence[str]) -> dict[Choice, float]:
    """P(cue, frame, subject, verb) of the full language."""
    choices: dict[Choice, float] = {}
    for s, subject in enumerate(tables.subjects):
        weights = {
            verb: 1.0 / rank
            for rank, verb in enumerate(verbs, start=1)
            if subject.en != "it" or tables.verbs[verb].allows_it
        }
        if not weights:  # no verb allows *it*: then *it* never occurs
            continue
        total = sum(weights.values())
        for c, cue in enumerate(tables.cues):
            for frame, p_frame in cue.frames.items():
                p = cue.probability * p_frame * subject.probability / total
                for verb, weight in weights.items():
                    choices[Choice(c, frame, s, verb)] = p * weight
    return choices


def sentence_rules(
    tables: VerbTables, choices: Mapping[Choice, float]
) -> Iterator[tuple[Hashable, list[Production]]]:
    """The rules of the language of these choices, normalised over the choices given."""
    cues, subjects = tables.cues, tables.subjects
    opening: defaultdict[tuple[int, str], float] = defaultdict(float)
    by_subject: defaultdict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    by_verb: defaultdict[tuple[int, str, int], dict[str, float]] = defaultdict(dict)
    for (c, frame, s, verb), p in choices.items():
        opening[c, frame] += p
        by_subject[c, frame][s] = by_subject[c, frame].get(s, 0.0) + p
        by_verb[c, frame, s][verb] = p

    sentences: dict[_Symbols, float] = {
        (*_words(cues[c].en, "cue"), ("subject", c, frame)): p for (c, frame), p in opening.items()
    }
    yield ("sentence",), _alternatives(sentences)
    for (c, frame), weights in by_subject.items():
        nouns: dict[_Symbols, float] = {
            (Word(subjects[s].en, "subject"), ("verb", c, frame, s)): p for s, p in weights.items()
        }
        yield ("subject", c, frame), _alternatives(nouns)
    for (c, frame, s), shares in by_verb.items():
        predicates: dict[_Symbols, float] = {
            (*predicate(tables, "en", frame, s, verb), ("rest", c, frame, s, verb)): p
            for verb, p in shares.items()
        }
        yield ("verb", c, frame, s), _alternatives(predicates)
        for verb in shares:
            yield ("rest", c, frame, s, verb), _complements(tables, c, frame, s, verb)
    for frame, s, verb in {choice[1:]: None for choice in choices}:
        for k, complement in enumerate(tables.verbs[verb].complements):
            clauses: dict[_Symbols, float] = {
                (
                    *_words(translation.pronoun, "Spanish subject"),
                    *predicate(tables, "es", frame, s, verb, translation.person),
                    *_words(complement.es, "Spanish complement"),
                ): translation.probability
                for translation in subjects[s].es
            }
            yield ("clause", frame, s, verb, k), _alternatives(clauses)


def _complements(
    tables: VerbTables, cue: int, frame: str, subject: int, verb: str
) -> list[Production]:
    rests: dict[_Symbols, float] = {
        (
            *_words(complement.en, "complement"),
            Word(ARROW, "arrow"),
            *_words(tables.cues[cue].es, "Spanish cue"),
            ("clause", frame, subject, verb, k),  # without the cue, which matters no longer
        ): complement.probability
        for k, complement in enumerate(tables.verbs[verb].complements)
    }
    return _alternatives(rests)


def predicate(
    tables: VerbTables,
    language: str,
    frame: str,
    subject: int,
    verb: str,
    person: str | None = None,
) -> tuple[Word, ...]:
    """The auxiliaries and the verb's form; `person` defaults to the subject's."""
    i = PERSONS.index(person or tables.subjects[subject].person)
    prefix, phrase = (
        ("", tables.frames[frame].en) if language == "en" else ("Spanish ", tables.frames[frame].es)
    )
    form = tables.verbs[verb].forms[language][phrase.form][i]
    return (*_words(phrase.auxiliary[i], f"{prefix}auxiliary"), Word(form, f"{prefix}verb"))


def forms_of(tables: VerbTables, verb: str, language: str) -> set[str]:
    """Every form of the verb in one language, the overregularised past (*goed*) included."""
    facts = tables.verbs[verb]
    forms = set(itertools.chain.from_iterable(facts.forms[language].values()))
    overregularised = facts.overregularised if language == "en" else None
    return forms | {overregularised} if overregularised else forms


def all_words(tables: VerbTables, verbs: Sequence[str]) -> set[str]:
    """The vocabulary: every word that a cell can need, and the overregularised pasts."""
    texts = [ARROW]
    for cue in tables.cues:
        texts += [cue.en, cue.es]
    for subject in tables.subjects:
        texts += [subject.en, *(translation.pronoun for translation in subject.es)]
    for frame in tables.frames.values():
        texts += [*frame.en.auxiliary, *frame.es.auxiliary]
    for verb in verbs:
        texts += [*forms_of(tables, verb, "en"), *forms_of(tables, verb, "es")]
        for complement in tables.verbs[verb].complements:
            texts += [complement.en, complement.es]
    return {word for text in texts for word in text.split()}


@cache
def _words(text: str, slot: str) -> tuple[Word, ...]:
    return tuple(Word(word, slot) for word in text.split())


def _alternatives(weights: Mapping[_Symbols, float]) -> list[Production]:
    """Productions whose probabilities are the weights, normalised over the alternatives."""
    total = sum(weights.values())
    return [Production(weight / total, symbols) for symbols, weight in weights.items()]
