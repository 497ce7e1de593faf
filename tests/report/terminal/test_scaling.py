"""The terminal's summary of a scaling ladder."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from scaling_samples import scaling_results
from terminal_text import cells, printed

from kullback.report.terminal.scaling import scaling_summary


@pytest.mark.parametrize("width", [80, 100])
def test_law_and_rungs_are_shown(width: int):
    """E beside the exact entropy, and a row for each rung, none of its numbers cut."""
    shown = printed(scaling_summary(scaling_results()), width)
    assert cells(shown, "E, irreducible loss") == ["0.6900", "0.6800", "to", "0.7000"]
    law = shown.partition("\nLaw")[2]
    assert cells(law, "exact entropy") == ["0.694100"]
    assert cells(shown, "5 ")[:3] == ["133,184", "160", "160,000"]
    assert "contains the exact entropy" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= width


def test_what_is_not_identified_is_said_first():
    """Neither the value of E nor whether its interval contains the entropy is claimed."""
    shown = printed(scaling_summary(scaling_results(identified=False)))
    verdict = shown.splitlines()[1]
    assert "not identified" in verdict
    assert "contain" not in verdict


def test_an_interval_without_the_entropy_is_explained():
    """The distance is said, and what may cause it."""
    shown = printed(scaling_summary(replace(scaling_results(), exact_entropy=0.65)))
    said = " ".join(shown.split())
    assert "exact entropy 0.650000 is outside the interval by 0.0300" in said
    assert "E is 0.0400 above it" in said
    assert "(133,184 parameters)" in said


def test_a_text_has_no_exact_entropy():
    """It is unknown, which the verdict says."""
    shown = printed(scaling_summary(scaling_results(on_text=True)))
    assert "unknown" in shown
    assert "exact entropy" not in shown
    assert "\x1b" not in shown
