"""The HTML report of a comparison."""

from __future__ import annotations

import math
import re
from functools import cache

import pytest
from html_page import Page
from msgspec.structs import replace
from text_samples import (
    comparison_results,
    measured,
    nearly_empty_stored,
    several_candidates,
    stored_results,
    with_candidate,
)

from kullback.report.html.comparison import render_comparison
from kullback.report.html.comparison_figures import candidate_figures
from kullback.report.html.token_colours import KL_STEPS
from kullback.results.comparison import MOVED_IS_NOT_WORSE
from kullback.results.evaluation import Curve, Histogram


@cache
def one_candidate() -> str:
    """The report of the ordinary sample."""
    return render_comparison(comparison_results())


@cache
def several() -> str:
    """That of five candidates."""
    return render_comparison(several_candidates())


@cache
def files() -> str:
    """That of two files."""
    return render_comparison(stored_results())


def test_the_verdict_is_first_and_the_table_above_the_detail():
    """A line for each candidate, the conclusion, the table with the reference first, the detail."""
    shown = Page(several()).words
    order = [
        *("int4: 1.00 MB of 4.00 MB", "int8: 2.00 MB", "Smallest candidate", "Candidates"),
        *("modelreference 4.00 MB", "int8 2.00 MB 50 %", "Candidate in detail", "Measures"),
    ]
    places = []
    for part in order:
        places.append(shown.index(part, places[-1] if places else 0))
    assert places == sorted(places)


def test_dominated_and_chosen_candidates_are_named_as_such():
    """Below their names in the table."""
    shown = Page(several()).words
    assert "nf4dominated by int4" in shown.replace("nf4 ", "nf4")
    assert "smallest within 0.01 nats/token" in shown


def test_sizes_are_said_to_be_packed():
    """Once, below the table: a saved folder takes a byte for every integer."""
    assert Page(several()).words.count("packed to their bits") == 1


def test_joint_intervals_are_said_to_be_joint():
    """The titles of the columns and a sentence say so for several candidates alone."""
    assert "ΔCE, nats/token (joint 95 %)" in Page(several()).words
    assert Page(several()).words.count("intervals are joint") == 1
    assert "intervals are joint" not in Page(one_candidate()).words
    assert "ΔCE, nats/token (95 %)" in Page(one_candidate()).words


def test_a_radio_button_selects_the_candidate():
    """Each candidate has a button, and a rule that hides the detail of the others; one has none."""
    parsed = Page(several())
    buttons = [attrs for tag, attrs in parsed.tags if tag == "input"]
    assert [button["id"] for button in buttons] == [f"pick{i}" for i in range(1, 6)]
    assert ["checked" in button for button in buttons] == [True, *[False] * 4]
    for i in range(1, 6):
        assert f"body:has(#pick{i}:checked) .of:not(.of{i})" in several()
        assert any(f"of{i}" in (attrs.get("class") or "").split() for _, attrs in parsed.tags)
    assert "<input" not in one_candidate()
    assert ":has(#pick" not in one_candidate()


def test_tokens_have_a_colour_for_each_candidate():
    """The classes of a token are the levels of its KL, one letter a candidate."""
    classes = [
        attrs["class"] for _, attrs in Page(one_candidate()).tags if attrs.get("tabindex") == "0"
    ]
    assert classes == ["t a2", "t a6", "t a6"]
    classes = [attrs["class"] for _, attrs in Page(several()).tags if attrs.get("tabindex") == "0"]
    assert classes[0] == "t a2 b2 c2 d2 e2"
    assert "body:has(#pick2:checked) .b6 {" in several()


def test_every_level_is_in_the_legend_and_has_a_colour():
    """Legend and style sheet have as many levels as the scale."""
    levels = len(KL_STEPS) + 1
    classes = [attrs.get("class") or "" for tag, attrs in Page(one_candidate()).tags if tag == "li"]
    assert [name for name in classes if re.fullmatch(r"k\d", name)] == [
        f"k{level}" for level in range(levels)
    ]
    assert all(f".k{level} {{" in one_candidate() for level in range(1, levels))


def test_what_was_measured_is_drawn():
    """Six figures for one candidate; without ranking and layers four, and no such sections."""
    assert one_candidate().count("<svg") == 6
    shown = Page(one_candidate()).words
    assert "0.01100 nats/token" in shown
    assert "0.01230" in shown
    without = render_comparison(replace(comparison_results(), ranked=(), sensitivity=()))
    assert without.count("<svg") == 4
    assert not {"candidates", "layers"} & set(Page(without).attributes("id"))


def test_candidates_without_a_place_on_a_logarithmic_scale_are_named():
    """Of KL zero or infinity, or of unknown size, below the figure."""
    assert "logarithmic scale: broken, bf16." in Page(several()).words
    ranked = several_candidates().ranked
    unknown = (ranked[0], replace(ranked[1], size_bytes=None, share_of_original=None), *ranked[2:])
    result = replace(several_candidates(), ranked=unknown)
    shown = Page(render_comparison(result)).words
    assert "logarithmic scale: int8, broken, bf16." in shown
    assert "int8 – – 0.00100" in shown


def test_candidates_that_are_not_above_the_noise_are_marked():
    """The mark is at the KL of those alone, and one line below the table explains it."""
    shown = Page(several()).words
    assert "100 % 0 ≈± 0" in shown.replace("≈ ±", "≈±")
    assert shown.count("≈") == 2
    assert "≈" not in Page(one_candidate()).words


def test_the_noise_floor_is_shown():
    """A floor of rounding alone is only bounded."""
    assert "batch shape(3.21 ± 0.43) × 10⁻⁷ nats/token" in Page(one_candidate()).words
    floor = {"batch shape": measured(1e-15, 1e-16)}
    result = replace(stored_results(), ranked=comparison_results().ranked, noise_floor=floor)
    result = with_candidate(result, operand=comparison_results().candidates[0].operand)
    assert "batch shape< 10⁻¹³ nats/token" in Page(render_comparison(result)).words


def test_the_caveat_is_said_once():
    """What KL does not say is at the top, and not among the notes."""
    result = replace(stored_results(), notes=(MOVED_IS_NOT_WORSE, "another note"))
    shown = Page(render_comparison(result)).words
    assert shown.count(MOVED_IS_NOT_WORSE) == 1
    assert "another note" in shown


def test_identical_models_have_no_worst_tokens_and_no_figures():
    """The verdict says that they are identical, and the detail is one line."""
    result = with_candidate(replace(comparison_results(), sensitivity=()), identical=True)
    page = render_comparison(result)
    assert "identical: every KL is 0" in Page(page).words
    assert not {"worst", "distribution", "where"} & set(Page(page).attributes("id"))


def test_files_are_shown_with_both_origins():
    """Measures, quantiles, spans, what llama.cpp prints, and each operand's fingerprint."""
    shown = Page(files()).words
    for words in (
        "KL, lower bound",
        "0.01234 0.01178 to 0.01290 nats/token",
        "12,345 tokens scored",
        "median0.00300",
        "␣book.rec book.rec, 99 0.5000 ∞",
        "Mean KLD: 0.5",
        "Reference: a.rec, fedcba9876543210",
        "book.rec, 0123456789abcdef",
        "kullback compare a.rec book.rec",
    ):
        assert words in shown, words
    nothing = Page(render_comparison(nearly_empty_stored())).words
    assert "fingerprint" not in nothing
    assert "llama.cpp" not in nothing


def test_of_a_candidate_only_the_parts_that_differ_are_listed():
    """The reference has every part of its protocol, the candidate what is its own."""
    shown = Page(files()).words
    assert shown.count("protocol.window") == 1
    assert "bfloat16" in shown


def test_worst_tokens_have_both_models_beside_each_other():
    """The context with the token marked, KL, both nll, and both lists of alternatives."""
    shown = Page(one_candidate()).words
    assert "before book.txtbook.txtbook.txt after" in shown
    assert "<mark>book.txt</mark>" in one_candidate()
    assert "KL 5.0000 nll of the reference 0.5000 of the candidate ∞" in shown


def test_missing_numbers_leave_a_page():
    """An infinite KL and a curve of nothing make a page without those marks."""
    result = with_candidate(
        replace(comparison_results(), ranked=(), sensitivity=()),
        measures={"kl": measured(math.inf, None)},
        kl_by_position=Curve((1.0,), (None,), (None,), (None,), (0,)),
    )
    page = render_comparison(result)
    assert "KL ∞ nats/token" in Page(page).words
    assert page.count("<svg") == 3


def test_an_identical_candidate_keeps_its_place_among_the_tokens():
    """The buttons count all candidates: what is shown of the second is that of the second."""
    result = with_candidate(several_candidates(), identical=True)
    page = render_comparison(result)
    classes = re.findall(r'<span class="t ([^"]*)"', page)
    assert classes
    letters = "abcdefgh"[: len(result.candidates)]
    assert all("".join(name[0] for name in each.split()) == letters for each in classes)


def test_a_group_of_layers_whose_kl_is_rounding_is_bounded():
    """As in the terminal."""
    result = comparison_results()
    layers = (replace(result.sensitivity[0], kl=measured(1e-16, 1e-17)),)
    assert "< 10⁻¹³" in Page(render_comparison(replace(result, sensitivity=layers))).words


@pytest.mark.parametrize("outer", [(0.0, 0.0), (0.25, 0.0), (0.0, 0.25), (0.25, 0.25)])
def test_the_open_bars_of_a_distribution_are_named(outer):
    """The first contains 0, and the last infinity, where there are such tokens."""
    inner = 1 - sum(outer)
    histogram = Histogram((-math.inf, -4.0, -2.0, math.inf), (outer[0], inner, outer[1]))
    candidate = replace(comparison_results().candidates[0], kl_histogram=histogram, identical=False)
    _, words = candidate_figures(candidate, 1)["distribution-1"]
    assert ("first bar" in words and "and 0" in words) == (outer[0] > 0)
    assert ("last bar" in words and "infinity" in words) == (outer[1] > 0)
