"""Grammar files: what a good one means, and what is said about a bad one."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from kullback.errors import GrammarError
from kullback.sources.grammar import Grammar, Production, Word
from kullback.sources.language import Language
from kullback.text.special_tokens import EOS

WEATHER = """
name = "weather"
start = "sentence"

[rules]
sky = ["it rains", "the sun shines"]
sentence = [
  { p = 0.7, then = "today <sky>" },
  { p = 0.3, then = "ayer <cielo> <tail>" },
]
cielo = ["llovió", ""]
tail = [{ p = 0.25, then = "mucho <tail>" }, { p = 0.75, then = "" }]
"""


def written(folder: Path, text: str, name: str = "grammar.toml") -> Path:
    """Write a grammar file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def probability(language: Language, text: str) -> float:
    """P(sentence)."""
    return math.exp(language.sentence_log_prob([*language.encode(text), 1]))


@pytest.fixture
def weather(tmp_path: Path) -> Language:
    """Read, compile and determinise the weather."""
    return Grammar.read(written(tmp_path, WEATHER)).compile().determinise()


def test_a_good_file_is_the_language_it_says(weather: Language):
    """Words, shares with and without p, empty alternatives and loops mean what they say."""
    assert weather.name == "weather"
    assert probability(weather, "today it rains") == pytest.approx(0.35, rel=1e-14)
    assert probability(weather, "today the sun shines") == pytest.approx(0.35, rel=1e-14)
    assert probability(weather, "ayer") == pytest.approx(0.3 * 0.5 * 0.75, rel=1e-14)
    assert probability(weather, "ayer llovió mucho mucho") == pytest.approx(
        0.3 * 0.5 * 0.25**2 * 0.75, rel=1e-14
    )


def test_entropy_of_a_file(weather: Language):
    """Independent choices add up: H(cue) + 0.7 H(sky) + 0.3 (H(cielo) + H(tail) / 0.75)."""

    def h(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    expected = h(0.7) + 0.7 * h(0.5) + 0.3 * (h(0.5) + h(0.75) / 0.75)
    assert weather.entropy_per_sentence == pytest.approx(expected, rel=1e-13)


def test_slots_are_the_rules(weather: Language):
    """A word's slot is the rule that writes it."""
    assert set(weather.entropy_by_slot()) == {"sentence", "sky", "cielo", "tail", "end"}


def test_defaults(tmp_path: Path):
    """Without a name the file's is used, without a start the first rule."""
    path = written(tmp_path, '[rules]\nfirst = ["<second>"]\nsecond = ["b"]', "pair.toml")
    grammar = Grammar.read(str(path))
    assert (grammar.name, grammar.start) == ("pair", "first")
    assert list(grammar.compile().determinise().enumerate()[0].texts()) == ["b"]


def test_a_loop_may_begin_with_a_rule_that_writes(tmp_path: Path):
    """A rule may come back to itself behind another rule, if that one always writes a word."""
    path = written(tmp_path, '[rules]\nlist = ["<noun> <list>", "end"]\nnoun = ["cat", "dog"]')
    language = Grammar.read(path).compile().determinise()
    assert probability(language, "cat dog end") == pytest.approx((0.5 * 0.5) ** 2 * 0.5)


def test_rules_in_code():
    """A grammar made of productions, its keys any hashable, compiles as one from a file."""
    rules = {
        0: [
            Production(0.5, (Word("a", "letter"), ("tail", 1))),
            Production(0.5, (("tail", 1),)),
        ],
        ("tail", 1): [Production(1.0, (Word("b", "letter"),))],
    }
    language = Grammar("pair", 0, rules).compile(extra_words=["c"]).determinise()
    assert language.vocabulary == ("<s>", EOS, "a", "b", "c")
    assert probability(language, "a b") == probability(language, "b") == 0.5


MALFORMED = {
    "bad TOML": ("rules = [", "is not a TOML file: "),
    "no rules": (
        'name = "x"',
        'has no table [rules]; write one, e.g. [rules] and under it sentence = ["it rains"',
    ),
    "rules that are no table": ("rules = 3", "has no table [rules]; write one"),
    "unknown start": (
        'start = "s"\n[rules]\na = ["x"]\nb = ["y"]',
        "start is 's', which is not among the rules; the rules are a, b",
    ),
    "start that is no name": (
        'start = ["s"]\n[rules]\na = ["x"]',
        "start is ['s'], which is not among the rules; the rules are a",
    ),
    "undefined reference": (
        '[rules]\na = ["x <b>"]\nc = ["y"]',
        "the rule 'a' refers to <b>, which is not defined; the rules are a, c",
    ),
    "p above 1": (
        '[rules]\na = [{p = 1.5, then = "x"}]',
        "alternative 0 of the rule 'a' has p = 1.5: it must lie in (0, 1]; leave out",
    ),
    "p of 0": (
        '[rules]\na = [{p = 1.0, then = "x"}, {p = 0, then = "y"}]',
        "alternative 1 of the rule 'a' has p = 0.0: it must lie in (0, 1]; leave out",
    ),
    "p is nan": (
        '[rules]\na = [{p = nan, then = "x"}]',
        "alternative 0 of the rule 'a' has p = nan: it must lie in (0, 1]",
    ),
    "sum 0.9": (
        '[rules]\na = [{p = 0.4, then = "x"}, {p = 0.5, then = "y"}]',
        "the probabilities of the rule 'a' sum to 0.9, not 1; change them, or leave every p out",
    ),
    "mixed p": (
        '[rules]\na = [{p = 0.5, then = "x"}, "y", "z"]',
        "1 of the 3 alternatives of the rule 'a' have a p: give one to every alternative or to",
    ),
    "p without then": (
        "[rules]\na = [{p = 1.0}]",
        "alternative 0 of the rule 'a' is {'p': 1.0}: write a string, or { p = 0.5, then =",
    ),
    "p is true": (
        '[rules]\na = [{p = true, then = "x"}]',
        "alternative 0 of the rule 'a' is {'p': True, 'then': 'x'}: write a string, or",
    ),
    "misspelled key": (
        '[rules]\na = [{p = 1.0, then = "x", slott = "y"}]',
        "'slott': 'y'}: write a string, or { p = 0.5, then =",
    ),
    "empty rule": (
        "[rules]\na = []",
        "the rule 'a' is []: it must be a list of alternatives, e.g.",
    ),
    "rule that is a string": (
        '[rules]\na = "x"',
        "the rule 'a' is 'x': it must be a list of alternatives, e.g. a = [",
    ),
    "self-embedding": (
        '[rules]\na = ["x <a> y", "z"]',
        "the rule 'a' comes back to itself before its end (through <a>): a finite automaton "
        "cannot nest; move the reference to the end",
    ),
    "indirect self-embedding": (
        '[rules]\na = ["x <b> y", "z"]\nb = ["w <a>"]',
        "the rule 'a' comes back to itself before its end (through <b>)",
    ),
    "left recursion": (
        '[rules]\na = ["<a> x", "y"]',
        "the rule 'a' comes back to itself before its end (through <a>)",
    ),
    "loop without a word": (
        '[rules]\na = ["<b>", "y"]\nb = ["<a>"]',
        "the rule 'a' comes back to itself (through <b>) without writing a word; write one before",
    ),
    "loop behind an empty rule": (
        '[rules]\na = ["<nothing> <a>", "y"]\nnothing = ["", "x"]',
        "the rule 'a' comes back to itself (through <a>) without writing a word",
    ),
    "never ends": (
        '[rules]\nsentence = ["go <a>", "stop"]\na = ["x <a>"]',
        "the rule 'a' never ends: every alternative comes back to a rule that never ends; give",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files(tmp_path: Path, kind: str):
    """Each malformed file is a `GrammarError` that shows the value and what to write instead."""
    text, message = MALFORMED[kind]
    path = written(tmp_path, text)
    with pytest.raises(GrammarError, match=re.escape(message)) as caught:
        Grammar.read(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path):
    """A file that is not there is a `GrammarError` that names it and the reason."""
    with pytest.raises(GrammarError, match=r"the grammar .*nowhere\.toml cannot be read: No such"):
        Grammar.read(tmp_path / "nowhere.toml")


def test_file_that_is_not_utf8(tmp_path: Path):
    """A file in another encoding is a `GrammarError`."""
    path = tmp_path / "latin.toml"
    path.write_bytes('[rules]\na = ["llovió"]'.encode("latin-1"))
    with pytest.raises(GrammarError, match="is not a TOML file: 'utf-8' codec"):
        Grammar.read(path)


@pytest.mark.parametrize(
    ("start", "rules", "message"),
    [
        ("b", {"a": [Production(1.0, ())]}, "start is 'b', which is not among the rules"),
        ("a", {"a": []}, "the rule 'a' has no alternatives; write at least one"),
        ("a", {"a": [Production(1.0, ("b",))]}, "the rule 'a' refers to <b>, which is not defined"),
        ("a", {"a": [Production(0.5, ())]}, "the probabilities of the rule 'a' sum to 0.5, not 1"),
    ],
)
def test_malformed_rules_in_code(start: str, rules: dict, message: str):
    """A malformed grammar made in code is found out when it is compiled."""
    with pytest.raises(GrammarError, match=re.escape(message)):
        Grammar("code", start, rules).compile()
