"""Grammars that would need more memory or time than a machine has are refused in a sentence."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kullback.cli import main
from kullback.errors import GrammarError
from kullback.sources.catalogue import open_source


def chain(n: int, rule: str, backwards: bool = False) -> Iterator[str]:
    """Rules of which each refers to the next, `rule`, and the last writes a word."""
    rules = [f"r{i} = [{rule.replace('>', f'{i + 1}>')}]" for i in range(n)]
    rules.append(f'r{n} = ["a"]')
    yield "\n".join(rules[::-1] if backwards else rules)


def automaton(steps: int) -> Iterator[str]:
    """The words "a" and "b" at will, but an "a" so many steps before the end."""
    yield 's = ["a <s>", "b <s>", "a <q1>"]'
    for i in range(1, steps):
        yield f'q{i} = ["a <q{i + 1}>", "b <q{i + 1}>"]'
    yield f'q{steps} = ["a"]'


def grammar(folder: Path, rules: Iterator[str] | str, start: str = "") -> Path:
    """A grammar file."""
    path = folder / "g.toml"
    text = rules if isinstance(rules, str) else "\n".join(rules)
    path.write_text(f"{start}\n[rules]\n{text}\n")
    return path


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (chain(30, '"<r> <r>"'), "more than 500,000 states"),
        (chain(30, '"<r>", "<r>"'), "more than 500,000 states"),
        (chain(30, '"<r> <r>", ""'), "more than 500,000 states"),
        (automaton(22), "entries of beliefs"),
        ('s = ["' + "a " * 50_000 + '"]', "too long"),
        ("s = " + "[" * 5000, "nested"),
        (".".join("a" * 3000) + " = 1", "nested"),
        ('s = [{ p = nan, then = "a" }]', "p = nan"),
        ('s = [{ p = inf, then = "a" }]', "p = inf"),
        ('s = [{ p = 1e-320, then = "a" }, { p = 1.0, then = "b <s>" }]', "expected length"),
        (
            's = [{ p = 1e-200, then = "<t>" }, { p = 1.0, then = "b" }]\n'
            't = [{ p = 1e-200, then = "a" }, { p = 1.0, then = "b" }]',
            "'t' has a probability of 1e-200 × 1e-200",
        ),
        (
            's = [{ p = 1e-200, then = "a <t>" }, { p = 1.0, then = "a b" }]\n'
            't = [{ p = 1e-200, then = "c" }, { p = 1.0, then = "b" }]',
            "the word 'c' has a probability that is too small",
        ),
        ("s = [1" + "0" * 5000 + "]", "more than 4,300 digits"),
        ('s = ["<t>"]\n' + "\n".join(f'r{i} = ["a"]' for i in range(999)), "980 more"),
    ],
    ids=[
        "doubled words", "doubled derivations", "doubled empty words", "automaton", "long sentence",
        "nested lists", "nested tables", "NaN", "infinity", "endless", "product", "belief",
        "digits", "many rules",
    ],
)  # fmt: skip
def test_what_does_not_end_is_refused(
    rules: Iterator[str] | str, words: str, tmp_path: Path
) -> None:
    """One sentence of reasonable length names the reason."""
    with pytest.raises(GrammarError, match=words) as error:
        open_source(str(grammar(tmp_path, rules)))
    assert len(str(error.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("rule", ['"a <r>"', '"<r>"', '"a <r>", "b <r>"'])
def test_five_thousand_chained_rules_are_a_language(
    rule: str, backwards: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In whatever order they are; the entropy is exact, and the table is shown."""
    path = grammar(tmp_path, chain(5000, rule, backwards), 'start = "r0"')
    language = open_source(str(path)).training
    choices = 5000 if "b" in rule else 0
    assert language.entropy_per_sentence == pytest.approx(choices * math.log(2))
    assert language.number_of_sentences == 2**choices
    assert main(["source", "describe", str(path)]) == 0
    assert ("10¹⁵⁰⁵" in capsys.readouterr().out) == bool(choices)


def test_numbers_with_too_many_digits_for_python_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has a string in their place."""
    path = grammar(tmp_path, chain(14_000, '"a <r>", "b <r>"'))
    assert main(["source", "describe", "--json", str(path)]) == 0
    assert '"number_of_sentences": "10^4214.' in capsys.readouterr().out


def test_a_pipe_is_no_grammar(tmp_path: Path) -> None:
    """It is refused without waiting for a writer."""
    os.mkfifo(tmp_path / "g.toml")
    with pytest.raises(GrammarError, match="named pipe"):
        open_source(str(tmp_path / "g.toml"))
