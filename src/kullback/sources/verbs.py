"""The facts of the conjugation language: ``data/verbs.toml``, read once and checked.

Grammar has three tables here.  A :class:`Verb` has its forms in both languages and what it is said
with.  A :class:`Frame` is a way to use a verb: the tense that it belongs to, the helping words of
each person and the form that follows them (*has* + participle).  A :class:`Subject` has a person,
and its Spanish counterparts.  A :class:`Cue` opens the sentence and says which frames fit.

Forms are kept for five persons, in the order of `PERSONS`; a form that does not change with the
person (*went*, *comido*) is written once in the file and repeated here.

A file that is malformed is a `GrammarError` that names the place, as ``verbs.go.en.present``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from kullback.errors import GrammarError

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
"""The forms that a verb has on the English and on the Spanish side."""

# Probabilities in the file are short decimals, so their sums are exact but for float64's rounding.
SUM_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Cue:
    """The words that open a sentence, and P(frame | cue)."""

    en: str
    es: str
    probability: float
    frames: Mapping[str, float]


@dataclass(frozen=True)
class Translation:
    """One Spanish counterpart of a subject; `pronoun` is empty where it is left out."""

    pronoun: str
    person: str
    probability: float


@dataclass(frozen=True)
class Subject:
    """Who does it."""

    en: str
    person: str
    probability: float
    es: tuple[Translation, ...]


@dataclass(frozen=True)
class Phrase:
    """The helping words of each person (empty where there are none) and the form after them."""

    auxiliary: tuple[str, ...]
    form: str


@dataclass(frozen=True)
class Frame:
    """A way to use a verb, in both languages."""

    tense: str
    en: Phrase
    es: Phrase


@dataclass(frozen=True)
class Complement:
    """What follows the verb, in both languages."""

    en: str
    es: str
    probability: float


@dataclass(frozen=True)
class Verb:
    """A verb's forms on each side: ``forms["es"]["past"]`` holds one for each person."""

    regular: bool
    said_of_it: bool
    """Whether *it* can be its subject."""
    forms: Mapping[str, Mapping[str, tuple[str, ...]]]
    overregularised: str | None
    """The past by rule of an irregular verb (*goed*), which nobody says; None if regular."""
    complements: tuple[Complement, ...]


@dataclass(frozen=True)
class VerbTables:
    """Everything that the file says."""

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
    """The tables of a TOML file; `GrammarError` says what is malformed and where."""
    try:
        top = _Table(tomllib.loads(path.read_text(encoding="utf-8")), path.name)
    except OSError as error:
        raise GrammarError(
            f"the verbs {path} cannot be read: {error.strerror}; check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GrammarError(f"{path} is not a TOML file: {error}") from None
    frames = {name: _frame(table) for name, table in top.named_tables("frames")}
    shares = top.numbers("complement_probabilities")
    _check_sum(top, "complement_probabilities", shares)
    cues = tuple(_cue(table, frames) for table in top.tables("cues"))
    _check_sum(top, "cues", (cue.probability for cue in cues))
    subjects = tuple(_subject(table) for table in top.tables("subjects"))
    _check_sum(top, "subjects", (subject.probability for subject in subjects))
    verbs = {name: _verb(name, table, shares) for name, table in top.named_tables("verbs")}
    return VerbTables(cues, subjects, frames, verbs)


def _cue(table: _Table, frames: Mapping[str, Frame]) -> Cue:
    allowed = table.table("frames")
    shares = {frame: allowed.number(frame) for frame in allowed.keys_among(frames)}
    _check_sum(table, "frames", shares.values())
    return Cue(table.string("en"), table.string("es"), table.number("probability"), shares)


def _subject(table: _Table) -> Subject:
    translations = tuple(
        Translation(t.string("pronoun"), t.one_of("person", PERSONS), t.number("probability"))
        for t in table.tables("es")
    )
    _check_sum(table, "es", (translation.probability for translation in translations))
    return Subject(
        table.string("en"),
        table.one_of("person", PERSONS),
        table.number("probability"),
        translations,
    )


def _frame(table: _Table) -> Frame:
    phrases = {}
    for side, forms in FORMS.items():
        half = table.table(side)
        phrases[side] = Phrase(half.per_person("auxiliary", default=""), half.one_of("form", forms))
    return Frame(table.one_of("tense", TENSES), phrases["en"], phrases["es"])


def _verb(name: str, table: _Table, shares: tuple[float, ...]) -> Verb:
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
        table.boolean("said_of_it", default=False),
        {
            "en": {
                "infinitive": (name,) * len(PERSONS),
                **{form: en.per_person(form) for form in FORMS["en"] if form != "infinitive"},
            },
            "es": {form: es.per_person(form) for form in FORMS["es"]},
        },
        None if regular else en.string("overregularised"),
        tuple(
            Complement(pair.string("en"), pair.string("es"), share)
            for pair, share in zip(pairs, shares, strict=True)
        ),
    )


def _check_sum(table: _Table, key: str, probabilities: Iterable[float]) -> None:
    total = sum(probabilities)
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise GrammarError(
            f"{table.where}.{key}: the probabilities sum to {total:.12g}; make them sum to 1"
        )


class _Table:
    """A TOML table that knows where it stands, and gives only values of the type asked for."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise GrammarError(f"{where} is {data!r}: it must be a table")
        self.data: dict[str, object] = data
        self.where = where

    def _get(self, key: str, default: object = None) -> object:
        value = self.data.get(key, default)
        if value is None:
            raise GrammarError(f"{self.where} has no {key!r}: add it")
        return value

    def _wrong(self, key: str, wanted: str) -> GrammarError:
        return GrammarError(f"{self.where}.{key} is {self.data[key]!r}: it must be {wanted}")

    def string(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.string(key)
        if value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def number(self, key: str) -> float:
        value = self._get(key)
        if not isinstance(value, int | float) or not 0.0 < value <= 1.0:
            raise self._wrong(key, "a probability in (0, 1]")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        values = self._get(key)
        if not isinstance(values, list) or not all(
            isinstance(value, float) and 0.0 < value <= 1.0 for value in values
        ):
            raise self._wrong(key, "a list of probabilities in (0, 1]")
        return tuple(values)

    def per_person(self, key: str, default: str | None = None) -> tuple[str, ...]:
        """One string for each person; a single string stands for all of them."""
        value = self._get(key, default)
        forms = [value] * len(PERSONS) if isinstance(value, str) else value
        if not isinstance(forms, list) or len(forms) != len(PERSONS):
            raise self._wrong(key, f"a string, or {len(PERSONS)} of them, for {', '.join(PERSONS)}")
        for form in forms:
            if not isinstance(form, str):
                raise self._wrong(key, "made of strings")
        return tuple(forms)

    def table(self, key: str) -> _Table:
        return _Table(self._get(key), f"{self.where}.{key}")

    def tables(self, key: str) -> list[_Table]:
        values = self._get(key)
        if not isinstance(values, list) or not values:
            raise self._wrong(key, "a list of tables")
        return [_Table(value, f"{self.where}.{key}[{i}]") for i, value in enumerate(values)]

    def named_tables(self, key: str) -> Iterator[tuple[str, _Table]]:
        named = self.table(key)
        for name in named.data:
            yield name, named.table(name)

    def keys_among(self, known: Mapping[str, object]) -> Iterator[str]:
        for key in self.data:
            if key not in known:
                raise GrammarError(
                    f"{self.where} has {key!r}, which is unknown: it must be one of "
                    f"{', '.join(known)}"
                )
            yield key
