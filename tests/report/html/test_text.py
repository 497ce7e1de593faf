"""The pages of an evaluation on text and of a comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from html_page import Page
from msgspec.structs import replace
from text_samples import (
    HOSTILE,
    measured,
    nearly_empty_comparison,
    nearly_empty_stored,
    nearly_empty_text,
    stored_results,
    text_results,
    with_candidate,
)
from text_samples import (
    several_candidates as comparison_results,
)

from kullback.errors import InvalidValueError, RunError
from kullback.report import save_html
from kullback.report.html.text import (
    MOVED_NOT_WORSE,
    render_comparison_report,
    render_stored_report,
    render_text_report,
)
from kullback.report.html.token_colours import (
    KL_STEPS,
    SURPRISAL_STEPS,
    surprisal_level,
)
from kullback.results.evaluation import Curve

PAGES: dict[str, Callable[[], str]] = {
    "evaluation": lambda: render_text_report(text_results()),
    "hostile evaluation": lambda: render_text_report(text_results(hostile=True)),
    "empty evaluation": lambda: render_text_report(nearly_empty_text()),
    "comparison": lambda: render_comparison_report(comparison_results()),
    "hostile comparison": lambda: render_comparison_report(comparison_results(hostile=True)),
    "empty comparison": lambda: render_comparison_report(nearly_empty_comparison()),
    "files": lambda: render_stored_report(stored_results()),
    "hostile files": lambda: render_stored_report(stored_results(hostile=True)),
    "empty files": lambda: render_stored_report(nearly_empty_stored()),
}


@cache
def page_of(kind: str) -> str:
    """The page of that kind, drawn once."""
    return PAGES[kind]()


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    """Each page."""
    return page_of(request.param)


def test_the_check_of_tags_can_fail():
    """A page with a tag that is not closed, or closed twice, does not pass for balanced."""
    for bad in ("<p><b></p>", "<p>", "</p>"):
        with pytest.raises(AssertionError):
            Page(bad)


def test_pages_are_balanced_html_with_one_of_each_id(page):
    """Every tag is closed where it belongs, no id occurs twice, and every reference has its aim."""
    parsed = Page(page)
    assert page.lstrip().startswith("<!DOCTYPE html>")
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids))
    aims = [*parsed.attributes("aria-describedby"), *(a[1:] for a in parsed.attributes("href"))]
    assert set(aims) <= set(ids)


def test_pages_load_nothing(page):
    """No script, no image, no address but those that name SVG, and a policy against all others."""
    parsed = Page(page)
    names = {tag for tag, _ in parsed.tags}
    assert names.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "form", "base"})
    assert all(aim.startswith("#") for aim in parsed.attributes("href"))
    assert parsed.attributes("src") == []
    addresses = set(re.findall(r"https?://[^\"' <]*", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "default-src 'none'; style-src 'unsafe-inline'" in parsed.attributes("content")


@pytest.mark.parametrize("kind", ["hostile evaluation", "hostile comparison", "hostile files"])
def test_what_a_text_says_is_shown_and_not_obeyed(kind):
    """Markup, template code, control characters and marks of direction arrive as visible text."""
    page = page_of(kind)
    assert "<script" not in page
    assert "49" not in re.findall(r"alert\(1\)</script>(\d+)", page)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\ufffe]", page)
    shown = Page(page).words
    assert "<script>alert(1)</script>{{7*7}}{% raw %}\"'&amp;␀␈␛[31m▒▒[red]▒" in shown
    page.encode()  # a lone half of a surrogate pair would raise


def test_equal_results_give_equal_bytes():
    """A page is a function of its results."""
    for render, make in (
        (render_text_report, text_results),
        (render_comparison_report, comparison_results),
        (render_stored_report, stored_results),
    ):
        assert render(make()) == render(make())


def test_evaluation_shows_each_measure_with_its_interval_and_unit():
    """Value, interval, unit, design effect and effective n stand in one row for each measure."""
    shown = Page(page_of("evaluation")).words
    for row in (
        "2.512 2.478 to 2.547 nats/token 4 250",
        "0.812 0.800 to 0.825 bits/byte 4 250",
        "12.30 11.90 to 13.10 4 250",
        "45.1 % 43.9 to 46.3 % 4 250",
        "∞ – – –",
        "– – – –",
    ):
        assert row in shown, row


def test_evaluation_has_its_figures_protocol_and_fingerprint():
    """Position, distribution and reliability are drawn; the protocol is listed part by part."""
    page = page_of("evaluation")
    drawn = [label for label in Page(page).attributes("aria-label") if "nll" in label]
    assert page.count("<svg") == 3
    assert len(drawn) == 2
    shown = Page(page).words
    assert "0123456789abcdef" in shown
    assert "protocol.window512" in shown.replace(" ", "")
    assert "protocol.joinedno" in shown.replace(" ", "")
    assert "versions.torch–" in shown.replace(" ", "")


def test_tokens_are_coloured_by_surprisal_and_can_be_reached():
    """Each scored token has the lab's level, takes the focus and has a card; others do not."""
    page = Page(page_of("evaluation"))
    spans = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("tabindex") == "0"]
    scored = text_results().passages[0].tokens[1:]
    assert [each["class"] for each in spans] == [
        f"t level-{surprisal_level(token.nll)}" for token in scored
    ]
    cards = [attrs for tag, attrs in page.tags if attrs.get("class") == "c"]
    assert [card["id"] for card in cards] == [each["aria-describedby"] for each in spans]
    assert "nll 5.5000 nats rank 12,345" in page.words
    assert "␣the0.500" in page.words


def test_headline_of_a_comparison_says_where_the_noise_is():
    """KL with its interval, beside the floor, and whether it rises above it."""
    kl, floor = "0.01234 ± 0.00056 nats/token", "(3.21 ± 0.43) × 10⁻⁷ nats/token"
    for above, words in (
        (True, f"KL(reference‖candidate) = {kl}, above the noise floor of {floor}."),
        (False, f"KL(reference‖candidate) = {kl}, not above the noise floor of {floor}."),
        (None, f"KL(reference‖candidate) = {kl}, beside a noise floor of {floor}."),
    ):
        shown = Page(
            render_comparison_report(with_candidate(comparison_results(), above_noise=above))
        ).words
        assert words in shown
        assert shown.count(MOVED_NOT_WORSE) == 1
    unknown = with_candidate(replace(comparison_results(), noise_floor={}), above_noise=None)
    assert "the noise floor was not measured" in Page(render_comparison_report(unknown)).words


def test_the_line_about_kl_is_not_said_twice():
    """Where the notes hold the sentence that stands at the top, they leave it to the top."""
    results = replace(comparison_results(), notes=(MOVED_NOT_WORSE.rstrip("."), "another note"))
    shown = Page(render_comparison_report(results)).words
    assert shown.count("not that it is worse") == 1
    assert "another note" in shown


def test_comparison_draws_what_was_measured():
    """Six figures where all was measured; without schemes and layers, four and no such sections."""
    page = page_of("comparison")
    assert page.count("<svg") == 6
    shown = Page(page).words
    assert "The parts add up to 0.01100 nats/token; all together cost 0.01230." in shown
    assert "With no place on a logarithmic scale: broken, bf16." in shown
    results = replace(comparison_results(), ranked=(), sensitivity=())
    without = render_comparison_report(results)
    assert without.count("<svg") == 4
    ids = Page(without).attributes("id")
    assert not {"schemes", "layers"} & set(ids)


def test_schemes_that_are_not_above_the_noise_are_marked():
    """The mark stands at the KL of those alone, and one line below the table explains it."""
    shown = Page(page_of("comparison")).words
    assert "bf16 4.00 MB 0 ± 0 ≈ +0.010" in shown
    assert shown.count("≈") == 2
    assert "≈ not above the noise floor: rounding alone makes as large a KL." in shown
    schemes = tuple(replace(each, above_noise=None) for each in comparison_results().ranked)
    unknown = render_comparison_report(replace(comparison_results(), ranked=schemes))
    assert "≈" not in Page(unknown).words


def test_a_scheme_of_unknown_size_has_a_row_and_no_dot():
    """A recording that does not say its size stands in the table, and is named below the figure."""
    ranked = comparison_results().ranked
    schemes = (ranked[0], replace(ranked[1], size_bytes=None), *ranked[2:])
    shown = Page(render_comparison_report(replace(comparison_results(), ranked=schemes))).words
    assert "int8 – 0.00100 ± 0.00020" in shown
    assert "With no place on a logarithmic scale: int8, broken, bf16." in shown


def test_files_are_shown_with_both_origins():
    """Measures, quantiles, spans, what llama.cpp prints, and each side's fingerprint and parts."""
    shown = Page(page_of("files")).words
    for words in (
        "KL, lower bound",
        "0.01234 0.01178 to 0.01290 nats/token",
        "12,345 tokens scored",
        "median0.00300",
        "␣book.rec book.rec, 99 0.5000 ∞",
        "Mean KLD: 0.5",
        "The reference fedcba9876543210",
        "The candidate 0123456789abcdef",
        "kullback compare a.rec book.rec",
    ):
        assert words in shown, words
    nothing = Page(page_of("empty files")).words
    assert "What the numbers depend on" not in nothing
    assert "llama.cpp" not in nothing


def test_one_scheme_is_shown_under_its_whole_name():
    """A single candidate has a table and a figure; there is nothing to rank and nothing shared."""
    results = replace(comparison_results(), ranked=comparison_results().ranked[1:2])
    page = render_comparison_report(results)
    shown = Page(page).words
    assert page.count("<svg") == 6
    assert shown.count("runs/model@int8") == 2
    assert "hold for all candidates" not in shown


def test_worst_tokens_have_both_models_beside_each_other():
    """The context with the token marked, KL, both nll, and both lists of alternatives."""
    page = page_of("comparison")
    shown = Page(page).words
    assert "before book.txtbook.txtbook.txt after" in shown
    assert "<mark>book.txt</mark>" in page
    assert "KL 5.0000 nll of the reference 0.5000 of the candidate ∞" in shown


def test_tokens_are_coloured_by_kl_on_a_scale_of_its_own():
    """The levels rise at the steps of the legend."""
    page = Page(page_of("comparison"))
    classes = [attrs["class"] for _, attrs in page.tags if attrs.get("tabindex") == "0"]
    assert classes == ["t k2", "t k6", "t k6"]


@pytest.mark.parametrize(("kind", "letter"), [("evaluation", "level-"), ("comparison", "k")])
def test_every_level_is_in_the_legend_and_has_a_colour(kind, letter):
    """Legend and style sheet know as many levels as the scale has."""
    page = page_of(kind)
    levels = len(SURPRISAL_STEPS if kind == "evaluation" else KL_STEPS) + 1
    classes = [attrs.get("class") or "" for tag, attrs in Page(page).tags if tag == "li"]
    assert [name for name in classes if re.fullmatch(letter + r"\d", name)] == [
        f"{letter}{level}" for level in range(levels)
    ]
    assert all(f".{letter}{level} {{" in page for level in range(levels))


def test_pages_know_light_and_dark(page):
    """Colours of both schemes are defined, and the figures take theirs from the page."""
    assert "prefers-color-scheme: dark" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "var(--" in svg
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= set()


def test_missing_numbers_leave_a_page():
    """An infinite KL and cross-entropy, and curves of nothing, make a page without those marks."""
    compared = with_candidate(
        replace(comparison_results(), ranked=comparison_results().ranked[-1:]),
        measures={"kl": measured(math.inf, None)},
        kl_by_position=Curve((1.0,), (None,), (None,), (None,), (0,)),
    )
    shown = Page(render_comparison_report(compared)).words
    assert "KL(reference‖candidate) = ∞ nats/token" in shown
    text = replace(text_results(), measures={"cross_entropy": measured(math.inf, None)})
    assert "∞ nats/token no interval" in Page(render_text_report(text)).words


@pytest.mark.parametrize("make", [text_results, comparison_results, stored_results])
def test_files_are_complete_or_absent(make, tmp_path):
    """Folders are made, a folder in the file's place is refused, and nothing is left beside."""
    results = make()
    path = tmp_path / "new" / "report.html"
    save_html(results, path)
    Page(path.read_text(encoding="utf-8"))
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(InvalidValueError, match="must name a file"):
        save_html(results, path.parent)
    with pytest.raises(RunError, match="cannot be written"):
        save_html(results, Path(path, "below a file.html"))
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_hostile_sample_is_hostile():
    """The sample that the pages are tried with would do harm if it were written as it is."""
    with pytest.raises(UnicodeEncodeError):
        HOSTILE.encode()
    with pytest.raises(AssertionError):
        Page(f"<p>{HOSTILE}</p>".replace("</script>", ""))
