"""Files of chains and hidden Markov processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources import open_process
from kullback.sources.catalogue import open_any_source, open_source
from kullback.sources.known_processes import known_process
from kullback.sources.process import Process

CHAIN = """
[chain]
sun = { sun = 0.8, rain = 0.2 }
rain = { sun = 0.4, rain = 0.6 }
"""
SECOND_ORDER = """
[chain]
"a a" = { a = 0.1, b = 0.9 }
"a b" = { a = 1 }
"b a" = { a = 0.5, b = 0.5 }
"""
GOLDEN = """
name = "golden"
[states]
A = [{ p = 0.5, write = "1", then = "A" }, { p = 0.5, write = "0", then = "B" }]
B = [{ p = 1, write = "1", then = "A" }]
"""


def opened(folder: Path, content: str) -> Process:
    """The process of a file with that content."""
    path = folder / "mine.toml"
    path.write_text(content, encoding="utf-8")
    source = open_any_source(str(path))
    assert isinstance(source, Process)
    return source


def binary_entropy(p: float) -> float:
    """H(p) in nats."""
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_a_chain_has_the_entropy_rate_of_its_rows(tmp_path: Path):
    """The rate of a Markov chain is the mean entropy of its rows (Cover & Thomas 2006, 4.2.4)."""
    chain = opened(tmp_path, CHAIN)
    assert chain.name == "mine"
    expected = 2 / 3 * binary_entropy(0.2) + 1 / 3 * binary_entropy(0.4)
    assert chain.entropy_rate.value == pytest.approx(expected, abs=1e-14)
    assert chain.conditional_entropies(2)[1].value == pytest.approx(expected, abs=1e-14)


def test_a_context_may_have_several_symbols(tmp_path: Path):
    """A chain of order 2 reaches its rate after two symbols, and not before."""
    chain = opened(tmp_path, SECOND_ORDER)
    entropies = [h.value for h in chain.conditional_entropies(4)]
    assert entropies[1] > entropies[2] + 0.01
    assert entropies[2:] == pytest.approx([chain.entropy_rate.value] * 2, abs=1e-13)


def test_states_are_those_of_the_embedded_process(tmp_path: Path):
    """The golden mean process, written out, has the table of the embedded one."""
    process = opened(tmp_path, GOLDEN)
    assert (process.transitions == known_process("golden-mean").transitions).all()
    assert process.name == "golden"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[chain]\nsun = 3", ("sun", "3")),
        ("[chain]\nsun = { sun = 'x' }", ("sun", "probability")),
        ("[chain]\nsun = { rain = 1.0 }", ("'rain'",)),
        ("[chain]\n'a b' = { a = 1.0 }\na = { a = 1.0 }", ("1, 2", "symbols")),
        ("[states]\nA = [{ p = 1, write = 'x' }]", ("step 0", "'A'")),
        ("[states]\nA = 1", ("'A'", "list")),
        ("chain = 1", ("chain is 1",)),
        ("[chain]\na = { a = 1 }\n[rules]\ns = ['a']", ("chain, rules",)),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: str, words: tuple[str, ...]):
    """The error names the file and what is wrong."""
    with pytest.raises(GrammarError) as error:
        opened(tmp_path, content)
    for word in ("mine", *words):
        assert word in str(error.value)


def test_a_process_has_no_sentences():
    """Where sentences are needed a process is refused, with what to do."""
    with pytest.raises(InvalidValueError, match="kullback source export even"):
        open_source("even")
    assert open_process("even").name == "even"
    with pytest.raises(InvalidValueError, match="open_source"):
        open_process("conjugation")
