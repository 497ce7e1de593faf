"""The verb tables of the conjugation source: ``data/verbs.toml``, read once and checked.

A :class:`Verb` has its forms in both languages and its complements.  A :class:`Frame` is a verb
phrase: the tense that it belongs to, the auxiliaries of each person and the form that follows them
(*has* + participle).  A :class:`Subject` has a person and its Spanish translations.  A :class:`Cue`
opens the sentence and has a distribution over frames.

Forms are stored for five persons, in the order of `PERSONS`; a form that does not depend on the
person (*went*, *comido*) is written once in the file and repeated here.

A malformed file raises `GrammarError`, which names the place, such as ``verbs.go.en.present``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from kullback.errors import GrammarError
from kullback.sources._checks import check_sum, read_toml
from kullback.sources._toml_table import TomlTable

__all__ = [
    "FORMS",
    "PERSONS",
    "TENSES",
    "Complement",
    "Cue",
    "Frame",
    "Phrase",
    "Subject",
    "Translation",
    "Verb",
    "VerbTables",
    "embedded_tables",
    "read_tables",
]

PERSONS = ("I", "you", "he/she/it", "we", "they")
TENSES = ("infinitive", "present", "past", "participle", "future")

FORMS = {
    "en": ("infinitive", "present", "past", "participle"),
    "es": ("infinitive", "present", "past", "participle", "future"),
}
"""The forms that the table of a verb has in English and in Spanish."""


@dataclass(frozen=True)
class Cue:
    """The words that open a sentence, and P(frame | cue)."""

    en: str
    es: str
    probability: float
    frames: Mapping[str, float]


@dataclass(frozen=True)
class Translation:
    """A Spanish translation of a subject; `pronoun` is empty where it is omitted."""

    pronoun: str
    person: str
    probability: float


@dataclass(frozen=True)
class Subject:
    """The subject of a sentence, with its Spanish translations."""

    en: str
    person: str
    probability: float
    es: tuple[Translation, ...]


@dataclass(frozen=True)
class Phrase:
    """The auxiliaries of each person (empty where there are none) and the form after them."""

    auxiliary: tuple[str, ...]
    form: str


@dataclass(frozen=True)
class Frame:
    """A verb phrase in both languages, and the tense of its cell."""

    tense: str
    en: Phrase
    es: Phrase


@dataclass(frozen=True)
class Complement:
    """The words that follow the verb, in both languages."""

    en: str
    es: str
    probability: float


@dataclass(frozen=True)
class Verb:
    """A verb: ``forms["es"]["past"]`` contains a form for each person."""

    regular: bool
    allows_it: bool
    """Whether *it* can be its subject."""
    forms: Mapping[str, Mapping[str, tuple[str, ...]]]
    overregularised: str | None
    """The past by rule of an irregular verb (*goed*), which never occurs; None if regular."""
    complements: tuple[Complement, ...]


@dataclass(frozen=True)
class VerbTables:
    """The content of ``data/verbs.toml``."""

    cues: tuple[Cue, ...]
    subjects: tuple[Subject, ...]
    frames: Mapping[str, Frame]
    verbs: Mapping[str, Verb]


@cache
def embedded_tables() -> VerbTables:
    """The tables that come with the package.

    >>> embedded_tables().verbs["go"].forms["es"]["past"]
    ('fui', 'fuiste', 'fue', 'fuimos', 'fueron')
    """
    return read_tables(resources.files("kullback.sources") / "data" / "verbs.toml")


def read_tables(path: Path | Traversable) -> VerbTables:
    """The tables of a TOML file; a `GrammarError` names what is malformed and where."""
    top = TomlTable(read_toml(path, "verb tables"), path.name)
    frames = {name: _frame(table) for name, table in top.named_tables("frames")}
    shares = top.probabilities("complement_probabilities")
    _check_sum(top, "complement_probabilities", shares)
    cues = tuple(_cue(table, frames) for table in top.tables("cues"))
    _check_sum(top, "cues", (cue.probability for cue in cues))
    subjects = tuple(_subject(table) for table in top.tables("subjects"))
    _check_sum(top, "subjects", (subject.probability for subject in subjects))
    verbs = {name: _verb(name, table, shares) for name, table in top.named_tables("verbs")}
    return VerbTables(cues, subjects, frames, verbs)


def _cue(table: TomlTable, frames: Mapping[str, Frame]) -> Cue:
    allowed = table.table("frames")
    shares = {frame: allowed.probability(frame) for frame in allowed.keys_among(frames)}
    _check_sum(table, "frames", shares.values())
    return Cue(table.string("en"), table.string("es"), table.probability("probability"), shares)


def _subject(table: TomlTable) -> Subject:
    translations = tuple(
        Translation(t.string("pronoun"), t.one_of("person", PERSONS), t.probability("probability"))
        for t in table.tables("es")
    )
    _check_sum(table, "es", (translation.probability for translation in translations))
    return Subject(
        table.string("en"),
        table.one_of("person", PERSONS),
        table.probability("probability"),
        translations,
    )


def _frame(table: TomlTable) -> Frame:
    phrases = {}
    for language, forms in FORMS.items():
        phrase = table.table(language)
        auxiliary = phrase.strings("auxiliary", PERSONS, default="")
        phrases[language] = Phrase(auxiliary, phrase.one_of("form", forms))
    return Frame(table.one_of("tense", TENSES), phrases["en"], phrases["es"])


def _verb(name: str, table: TomlTable, shares: tuple[float, ...]) -> Verb:
    en, es = table.table("en"), table.table("es")
    pairs = table.tables("complements")
    if len(pairs) != len(shares):
        raise GrammarError(
            f"{table.where}.complements has {len(pairs)} entries: it must have {len(shares)}, as "
            "complement_probabilities"
        )
    regular = table.boolean("regular")
    return Verb(
        regular,
        table.boolean("allows_it", default=False),
        {
            "en": {
                "infinitive": (name,) * len(PERSONS),
                **{form: en.strings(form, PERSONS) for form in FORMS["en"] if form != "infinitive"},
            },
            "es": {form: es.strings(form, PERSONS) for form in FORMS["es"]},
        },
        None if regular else en.string("overregularised"),
        tuple(
            Complement(pair.string("en"), pair.string("es"), share)
            for pair, share in zip(pairs, shares, strict=True)
        ),
    )


def _check_sum(table: TomlTable, key: str, probabilities: Iterable[float]) -> None:
    check_sum(f"{table.where}.{key}: the probabilities", probabilities, "change them to sum to 1")
