"""The HTML report of an evaluation on text."""

from __future__ import annotations

import math
import re
from functools import cache

from html_page import Page
from msgspec.structs import replace
from text_samples import measured, text_results

from kullback.report.html.evaluation import render_evaluation
from kullback.report.html.token_colours import SURPRISAL_STEPS, surprisal_level


@cache
def page() -> str:
    """The report of the ordinary sample."""
    return render_evaluation(text_results())


def test_each_measure_has_its_interval_and_unit():
    """Value, interval, unit, design effect and effective n are in one row for each measure."""
    shown = Page(page()).words
    for row in (
        "2.512 2.478 to 2.547 nats/token 4 250",
        "0.812 0.800 to 0.825 bits/byte 4 250",
        "12.30 11.90 to 13.10 4 250",
        "45.1 % 43.9 to 46.3 % 4 250",
        "∞ – – –",
        "– – – –",
    ):
        assert row in shown, row


def test_figures_protocol_and_fingerprint():
    """Position, distribution and reliability are drawn; the protocol is listed part by part."""
    drawn = [label for label in Page(page()).attributes("aria-label") if "nll" in label]
    assert page().count("<svg") == 3
    assert len(drawn) == 2
    shown = Page(page()).words
    assert "0123456789abcdef" in shown
    for part in ("protocol.window512", "protocol.joinedno", "versions.torch–"):
        assert part in shown.replace(" ", "")


def test_tokens_are_coloured_by_surprisal_and_can_be_reached():
    """Each scored token has its level, takes the focus and has a card; others do not."""
    parsed = Page(page())
    spans = [attrs for _, attrs in parsed.tags if attrs.get("tabindex") == "0"]
    scored = text_results().passages[0].tokens[1:]
    assert [span["class"] for span in spans] == [
        f"t level-{surprisal_level(token.nll)}" for token in scored
    ]
    cards = [attrs for _, attrs in parsed.tags if attrs.get("class") == "c"]
    assert len(cards) == len(spans)
    assert "nll 5.500, rank 12,345" in parsed.words
    assert "0.500 ␣the" in parsed.words


def test_every_level_is_in_the_legend_and_has_a_colour():
    """Legend and style sheet have as many levels as the scale."""
    levels = len(SURPRISAL_STEPS) + 1
    classes = [attrs.get("class") or "" for tag, attrs in Page(page()).tags if tag == "li"]
    assert [name for name in classes if re.fullmatch(r"level-\d", name)] == [
        f"level-{level}" for level in range(levels)
    ]
    assert all(f".level-{level} {{" in page() for level in range(levels))


def test_missing_numbers_leave_a_page():
    """An infinite cross-entropy has no interval and no mark in the distribution."""
    result = replace(text_results(), measures={"cross_entropy": measured(math.inf, None)})
    shown = Page(render_evaluation(result)).words
    assert "∞ Cross-entropy, nats/token no interval" in shown


def test_why_there_is_no_interval_is_said():
    """The note of the measure, and not always that pieces are too few."""
    result = text_results()
    infinite = replace(
        measured(math.inf, None), note="no interval: a value is infinite", method="no interval"
    )
    short = replace(
        measured(2.0, None), note="no interval: one document of 9 tokens; give more", method="none"
    )
    measures = result.measures | {"cross_entropy": infinite, "bits_per_byte": short}
    shown = Page(render_evaluation(replace(result, measures=measures))).words
    assert "no interval: a value is infinite" in shown
    assert "no interval: one document of 9 tokens" in shown
    assert "no interval: too few" not in shown


def test_what_an_interval_is_for_is_beside_its_method():
    """The note of a measure that has an interval."""
    result = text_results()
    of_these = replace(measured(), note="the interval is for more text of these documents")
    shown = Page(render_evaluation(replace(result, measures={"cross_entropy": of_these}))).words
    assert "; the interval is for more text of these documents" in shown
