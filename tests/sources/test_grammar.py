"""Grammar files: the language of a valid file, and the error for a malformed one."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest

from kullback.errors import GrammarError
from kullback.runtime.progress import Note
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


def test_a_valid_file_defines_its_language(weather: Language):
    """Words, probabilities with and without p, empty alternatives and loops are as written."""
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
    """A rule may refer to itself after another rule, if that one always writes a word."""
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


# The text of a file, and a pattern of the names and values that its error must contain.
MALFORMED = {
    "bad TOML": ("rules = [", "TOML"),
    "no rules": ('name = "x"', r"\[rules\]"),
    "rules that are no table": ("rules = 3", r"\[rules\]"),
    "unknown start": ('start = "s"\n[rules]\na = ["x"]\nb = ["y"]', "'s'.* a, b$"),
    "start that is no name": ('start = ["s"]\n[rules]\na = ["x"]', r"\['s'\].* a$"),
    "undefined reference": ('[rules]\na = ["x <b>"]\nc = ["y"]', "'a' .*<b>.* a, c$"),
    "p above 1": ('[rules]\na = [{p = 1.5, then = "x"}]', r"alternative 0 .*'a'.*1\.5.*\(0, 1\]"),
    "p of 0": (
        '[rules]\na = [{p = 1.0, then = "x"}, {p = 0, then = "y"}]',
        r"alternative 1 .*'a'.*0\.0.*\(0, 1\]",
    ),
    "p is nan": ('[rules]\na = [{p = nan, then = "x"}]', r"alternative 0 .*'a'.*nan.*\(0, 1\]"),
    "sum 0.9": (
        '[rules]\na = [{p = 0.4, then = "x"}, {p = 0.5, then = "y"}]',
        r"'a' sum to 0\.9, not 1",
    ),
    "mixed p": ('[rules]\na = [{p = 0.5, then = "x"}, "y", "z"]', "1 of the 3 .*'a'"),
    "p without then": ("[rules]\na = [{p = 1.0}]", "alternative 0 .*'a' is {'p': 1.0}"),
    "p is true": ('[rules]\na = [{p = true, then = "x"}]', "alternative 0 .*'a'.*True"),
    "misspelled key": ('[rules]\na = [{p = 1.0, then = "x", slott = "y"}]', "'slott': 'y'"),
    "empty rule": ("[rules]\na = []", r"'a' is \[\]"),
    "rule that is a string": ('[rules]\na = "x"', "'a' is 'x'"),
    "self-embedding": ('[rules]\na = ["x <a> y", "z"]', "'a' .*before its end .*<a>"),
    "indirect self-embedding": (
        '[rules]\na = ["x <b> y", "z"]\nb = ["w <a>"]',
        "'a' .*before its end .*<b>",
    ),
    "left recursion": ('[rules]\na = ["<a> x", "y"]', "'a' .*before its end .*<a>"),
    "loop without a word": (
        '[rules]\na = ["<b>", "y"]\nb = ["<a>"]',
        "'a' .*<b>.*without writing a word",
    ),
    "loop after an empty rule": (
        '[rules]\na = ["<nothing> <a>", "y"]\nnothing = ["", "x"]',
        "'a' .*<a>.*without writing a word",
    ),
    "never ends": ('[rules]\nsentence = ["go <a>", "stop"]\na = ["x <a>"]', "'a' never ends"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files(tmp_path: Path, kind: str):
    """Each malformed file raises a `GrammarError` that names the file, the rule and the value."""
    text, message = MALFORMED[kind]
    path = written(tmp_path, text)
    with pytest.raises(GrammarError, match=message) as caught:
        Grammar.read(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path):
    """A file that is not there is a `GrammarError` that names it and the reason."""
    with pytest.raises(GrammarError, match=r"grammar .*nowhere\.toml .*No such"):
        Grammar.read(tmp_path / "nowhere.toml")


def test_a_byte_order_mark_is_no_content(tmp_path: Path):
    """Some editors begin a file with one."""
    path = tmp_path / "marked.toml"
    path.write_text('[rules]\na = ["b"]', encoding="utf-8-sig")
    assert Grammar.read(path).start == "a"


def test_file_that_is_not_utf8(tmp_path: Path):
    """A file in another encoding is a `GrammarError`."""
    path = tmp_path / "latin.toml"
    path.write_bytes('[rules]\na = ["llovió"]'.encode("latin-1"))
    with pytest.raises(GrammarError, match="TOML file: 'utf-8' codec"):
        Grammar.read(path)


@pytest.mark.parametrize(
    ("start", "rules", "message"),
    [
        ("b", {"a": [Production(1.0, ())]}, "start is 'b'"),
        ("a", {"a": []}, "'a' has no alternatives"),
        ("a", {"a": [Production(1.0, ("b",))]}, "'a' refers to <b>"),
        ("a", {"a": [Production(0.5, ())]}, r"'a' sum to 0\.5"),
    ],
)
def test_malformed_rules_in_code(start: str, rules: dict, message: str):
    """A malformed grammar made in code raises when it is compiled."""
    with pytest.raises(GrammarError, match=message):
        Grammar("code", start, rules).compile()


def test_the_message_for_a_malformed_rule(tmp_path: Path):
    """The golden message of this family: the file, the rule, the value, and the remedy."""
    path = written(tmp_path, '[rules]\na = [{p = 0.4, then = "x"}, {p = 0.5, then = "y"}]')
    with pytest.raises(GrammarError) as caught:
        Grammar.read(path)
    assert str(caught.value) == (
        f"{path}: the probabilities of the rule 'a' sum to 0.9, not 1; change them, or omit "
        "every p to make the alternatives equally likely"
    )


def test_rules_in_no_sentence_are_noted(tmp_path: Path):
    """Those that the start does not lead to, by name; the language is that of the others."""
    rules = 'start = "a"\n[rules]\na = ["x <b>", "y"]\nb = ["z"]\n'
    path = tmp_path / "grammar.toml"
    path.write_text(rules)
    with warnings.catch_warnings(action="error"):
        expected = Grammar.read(path)
    path.write_text(rules + 'c = ["z <d>"]\nd = ["z"]\n')
    with pytest.warns(Note, match=r"the rules c, d are in no sentence.*<a> leads to"):
        grammar = Grammar.read(path)
    ours, theirs = (g.compile().determinise() for g in (grammar, expected))
    assert ours.entropy_per_sentence == theirs.entropy_per_sentence
    assert ours.vocabulary == theirs.vocabulary
