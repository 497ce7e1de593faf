"""The n-gram model of a text as a source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kullback.errors import InvalidValueError
from kullback.sources.catalogue import open_any_source, open_source, source_from_spec
from kullback.sources.ngram_text import ngram_language

TEXT = "the cat sat\n\nthe dog sat on the cat\na cat ran\nthe cat ran\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return the path of a text of four lines."""
    path = tmp_path / "cats.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("unit", ["characters", "words"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_entropy_is_that_of_the_solved_automaton(text: Path, order: int, unit):
    """The visits taken from the counts are those of the linear equations."""
    language = ngram_language(text, order, unit)
    solved = replace(language, known_visits=None)
    assert language.expected_visits == pytest.approx(solved.expected_visits, abs=1e-10)
    assert language.entropy_per_token == pytest.approx(solved.entropy_per_token, abs=1e-12)
    words = TEXT.split()
    tokens = len(words) + 4 if unit == "words" else len(TEXT) - 1
    assert language.tokens_per_sentence == pytest.approx(tokens / 4, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab c", min_size=1), min_size=1, max_size=6), st.integers(1, 4))
def test_probabilities_are_the_counts(tmp_path_factory, lines: list[str], order: int):
    """p(token | context) is the share of the text, for every position of every line."""
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    kept = ["▁".join(line.split()) for line in lines if line.split()]
    if not kept:
        with pytest.raises(InvalidValueError, match="no line"):
            ngram_language(path, order, "characters")
        return
    language = ngram_language(path, order, "characters")
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for line in kept:
        padded = ["<s>"] * (order - 1) + [*line, "</s>"]
        for i in range(order - 1, len(padded)):
            row = counts.setdefault(tuple(padded[i - order + 1 : i]), {})
            row[padded[i]] = row.get(padded[i], 0) + 1
    for line in kept:
        for i in range(len(line) + 1):
            context = tuple((["<s>"] * (order - 1) + list(line[:i]))[i : i + order - 1])
            row = counts[context]
            p = language.next_token_distribution([language.token_ids[c] for c in line[:i]])
            expected = np.zeros(len(language.vocabulary))
            for token, count in row.items():
                expected[language.token_ids[token]] = count / sum(row.values())
            assert p == pytest.approx(expected, abs=1e-12)


def test_a_high_order_is_the_text_itself(text: Path):
    """With the whole line as context, a sample has no sentence that is not a line."""
    language = ngram_language(text, 12, "words")
    lines = {line for line in TEXT.splitlines() if line}
    assert set(language.sample(50, np.random.default_rng(0)).texts()) <= lines
    assert language.is_finite


def test_the_spec_builds_it_again(text: Path):
    """What a run folder stores gives the same source."""
    source = open_any_source(str(text), order=2, unit="words")
    again = source_from_spec(source.spec)
    assert again.fingerprint() == source.fingerprint()
    assert open_source(str(text)).spec["order"] == 3


@pytest.mark.parametrize(
    ("content", "order", "unit", "word"),
    [
        (b"\xff\xfe", 2, "words", "UTF-8"),
        (b"\n \n", 2, "words", "no line"),
        (b"a <s> b", 2, "words", "<s>"),
        (b"a", 0, "words", "order is 0"),
        (b"a b " * 400, 2, "words", "lines"),
        (b"a", 2, "bytes", "unit is 'bytes'"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, content: bytes, order: int, unit, word: str):
    """The error names what is wrong."""
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=word):
        ngram_language(path, order, unit)
    with pytest.raises(InvalidValueError, match="missing"):
        ngram_language(tmp_path / "missing.txt", 2, "words")


def test_order_belongs_to_a_text():
    """An order for another source is refused."""
    with pytest.raises(InvalidValueError, match="order is 2"):
        open_any_source("conjugation", order=2)
