"""Tables and sentences that fit the terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from terminal_text import printed

from kullback.report.terminal.fitted import Column, FittedTable, Sentence


def table() -> FittedTable:
    """A name that folds, numbers in two forms, and a column that may be left out."""
    fitted = FittedTable(
        [
            Column("name", "left", folds=True),
            Column("value\nnats"),
            Column("per-\nhaps", dropped=1),
        ]
    )
    fitted.add(
        ["a long name of many words", ("123456.789 ± 0.012", "123456.789\n± 0.012"), "98.7654321 %"]
    )
    return fitted


@pytest.mark.parametrize("width", [120, 56, 40, 30, 26])
def test_numbers_are_whole_at_every_width(width):
    """Words fold, intervals go below their values, columns are left out; a number is never cut."""
    shown = printed(table(), width)
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    assert "123456.789" in shown
    assert "± 0.012" in shown
    assert "98.7654321 %" in shown or "columns left out: perhaps" in " ".join(shown.split())
    assert all(word in shown for word in ("long", "many", "words"))


def test_a_wide_terminal_shows_the_wide_form():
    """Value and interval are on one line where they fit."""
    assert "123456.789 ± 0.012" in printed(table(), 100)
    assert "123456.789 ± 0.012" not in printed(table(), 40)


def test_a_sentence_does_not_break_inside_a_quantity():
    """A no-break space keeps number and unit on one line, and is printed as a space."""
    for width in range(12, 40):
        shown = printed(Sentence("the size is 220\u00a0MB of 538\u00a0MB", indent="  "), width)
        assert "220 MB" in shown
        assert "538 MB" in shown
        assert "\u00a0" not in shown
