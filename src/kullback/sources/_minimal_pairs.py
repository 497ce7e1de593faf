"""Minimal pairs of the conjugation source: a prefix with one possible and one impossible form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kullback.sources._conjugation_rules import ARROW, Cell, Choice, cell_of, forms_of, predicate
from kullback.sources.language import Language
from kullback.sources.verbs import VerbTables

__all__ = ["MinimalPair", "minimal_pairs"]


class MinimalPair(NamedTuple):
    """A prefix, a form that can follow, and a form of the same verb that cannot."""

    cell: Cell
    language: str
    """``"english"`` or ``"spanish"``."""
    regular: bool
    """Whether the verb is regular *in English*."""
    prefix: tuple[int, ...]
    """Token ids."""
    right: int
    wrong: int


def minimal_pairs(
    tables: VerbTables, choices: Mapping[Choice, float], full: Language
) -> list[MinimalPair]:
    """The pairs of all cells; see `ConjugationSource.minimal_pairs`."""
    ids = full.token_ids
    pairs: dict[tuple[Cell, int, str, str], MinimalPair] = {}
    for choice in sorted(choices, key=choices.__getitem__, reverse=True):
        cell = cell_of(tables, choice)
        for language, (prefix, right) in _questions(tables, choice).items():
            wrong_forms = [
                form
                for form in sorted(forms_of(tables, choice.verb, language) - {right})
                if (cell, choice.subject, language, form) not in pairs
            ]
            if not wrong_forms:
                continue
            encoded = tuple(ids[word] for word in prefix)
            possible = full.next_token_distribution(encoded)
            for wrong in wrong_forms:
                if possible[ids[wrong]] == 0.0:
                    pairs[cell, choice.subject, language, wrong] = MinimalPair(
                        cell,
                        "english" if language == "en" else "spanish",
                        tables.verbs[choice.verb].regular,
                        encoded,
                        ids[right],
                        ids[wrong],
                    )
    return list(pairs.values())


def _questions(tables: VerbTables, choice: Choice) -> dict[str, tuple[list[str], str]]:
    """For English and Spanish, the words before the verb's form, and the form."""
    cue, subject = tables.cues[choice.cue], tables.subjects[choice.subject]
    verb_phrase = choice.frame, choice.subject, choice.verb
    *auxiliaries, right = (word.text for word in predicate(tables, "en", *verb_phrase))
    english = [*cue.en.split(), subject.en, *auxiliaries]
    translation = max(subject.es, key=lambda candidate: candidate.probability)
    spanish_predicate = predicate(tables, "es", *verb_phrase, translation.person)
    *auxiliaries_es, right_es = (word.text for word in spanish_predicate)
    complements = tables.verbs[choice.verb].complements
    complement = max(complements, key=lambda candidate: candidate.probability)
    spanish = [*english, right, *complement.en.split(), ARROW, *cue.es.split()]
    spanish += [*translation.pronoun.split(), *auxiliaries_es]
    return {"en": (english, right), "es": (spanish, right_es)}
