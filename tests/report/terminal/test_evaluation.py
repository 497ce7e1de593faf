"""The terminal's summary of an evaluation on text."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from terminal_text import cells, printed
from text_samples import measured, nearly_empty_text, text_results

from kullback.report import plain_text
from kullback.report.terminal.evaluation import evaluation_summary

RESULTS = {
    "ordinary": text_results,
    "hostile": lambda: text_results(hostile=True),
    "nearly empty": nearly_empty_text,
}


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("kind", RESULTS)
def test_no_line_is_wider_than_the_terminal_or_100_columns(kind, verbose):
    """On a terminal of 200 columns no line takes more than 100, and on one of 80 none over 80."""
    for width, most in ((200, 100), (80, 80)):
        lines = printed(evaluation_summary(RESULTS[kind](), verbose), width).splitlines()
        assert lines
        assert max(cell_len(line) for line in lines) <= most


def test_a_text_cannot_steer_the_terminal():
    """Escapes and marks of direction are shown as pictures, and markup of styles as it is."""
    shown = printed(evaluation_summary(text_results(hostile=True)))
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert "␛[31m" in shown
    assert "[red]" in shown
    assert "{{7*7}}" in shown


@pytest.mark.parametrize("width", [80, 100])
def test_values_have_the_digits_that_their_interval_warrants(width):
    """Two significant digits of the half interval, and the value with the same decimals."""
    shown = printed(evaluation_summary(text_results(), verbose=True), width)
    assert cells(shown, "Cross-entropy") == ["2.512", "±", "0.034", "nats/token", "4", "250"]
    assert cells(shown, "Bits per byte") == ["0.812", "±", "0.012", "bits/byte", "4", "250"]
    assert cells(shown, "Perplexity") == ["12.30", "[11.90,", "13.10]", "4", "250"]
    assert cells(shown, "Top-1 accuracy") == ["45.1", "±", "1.2", "%", "4", "250"]
    assert cells(shown, "Word perplexity") == ["∞", "–", "–"]
    assert cells(shown, "Overconfidence") == ["–", "–", "–"]


def test_design_effects_are_shown_on_request():
    """Without `verbose` a row ends with its unit."""
    shown = printed(evaluation_summary(text_results()))
    assert "design" not in shown
    assert cells(shown, "Cross-entropy") == ["2.512", "±", "0.034", "nats/token"]


def test_the_headline_is_above_the_table():
    """Bits per byte, perplexity and top-1 accuracy in one line."""
    lines = printed(evaluation_summary(text_results())).splitlines()
    headline = next(i for i, line in enumerate(lines) if line.startswith("0.812 ± 0.012 bits/byte"))
    table = next(i for i, line in enumerate(lines) if line.startswith("Cross-entropy"))
    assert headline < table


def test_the_protocol_is_one_line_with_the_short_fingerprint():
    """Preset, window, BOS, type and device without hashes, and 16 digits of the fingerprint."""
    result = replace(text_results(), fingerprint="0123456789abcdef" * 4)
    shown = printed(evaluation_summary(result))
    settings = "sliding, window 512, bos book.txt, float32, cpu, fingerprint 0123456789abcdef\n"
    assert settings in shown
    assert "a" * 64 not in shown


def test_notes_and_methods_are_shown_once():
    """The method of all intervals is one line; each note is another."""
    shown = printed(evaluation_summary(text_results()))
    assert shown.count("• 20 documents: ratio of sums\n") == 1
    assert "• book.txt\n" in shown


def test_what_an_interval_is_for_is_said():
    """Once, however probable the difference of the documents is in each measure."""
    result = text_results()
    note = "the interval is for these documents; these differ (p = {})"
    measures = {
        name: replace(measured(), note=note.format(p))
        for name, p in (("cross_entropy", 0.001), ("entropy", 2e-5))
    }
    shown = plain_text(replace(result, measures=measures))
    assert shown.count("the interval is for these documents; these differ") == 1
