"""What holds of the HTML report of every evaluation and comparison."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from html_page import Page
from text_samples import (
    HOSTILE,
    comparison_results,
    nearly_empty_comparison,
    nearly_empty_stored,
    nearly_empty_text,
    several_candidates,
    stored_results,
    text_results,
)

from kullback.errors import InvalidValueError
from kullback.report import render_html, save_html
from kullback.results.base import Result

RESULTS: dict[str, Callable[[], Result]] = {
    "evaluation": text_results,
    "hostile evaluation": lambda: text_results(hostile=True),
    "empty evaluation": nearly_empty_text,
    "comparison": comparison_results,
    "several": several_candidates,
    "hostile comparison": lambda: comparison_results(hostile=True),
    "empty comparison": nearly_empty_comparison,
    "files": stored_results,
    "hostile files": lambda: stored_results(hostile=True),
    "empty files": nearly_empty_stored,
}


@cache
def page_of(kind: str) -> str:
    """The report of that kind, drawn once."""
    return render_html(RESULTS[kind]())


@pytest.fixture(params=RESULTS)
def page(request: pytest.FixtureRequest) -> str:
    """Each report."""
    return page_of(request.param)


def test_the_check_of_tags_can_fail():
    """A page with a tag that is not closed, or closed twice, does not pass for balanced."""
    for bad in ("<p><b></p>", "<p>", "</p>"):
        with pytest.raises(AssertionError):
            Page(bad)


def test_pages_are_balanced_html_with_one_of_each_id(page):
    """Every tag is closed where it belongs, no id occurs twice, and every link has its target."""
    parsed = Page(page)
    assert page.lstrip().startswith("<!DOCTYPE html>")
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {target[1:] for target in parsed.attributes("href")}
    assert targets <= set(ids)


def test_contents_lead_to_every_section(page):
    """Each section has an anchor, and the contents have a link to each."""
    parsed = Page(page)
    sections = [attrs["id"] for tag, attrs in parsed.tags if tag == "section"]
    links = [attrs.get("href") for tag, attrs in parsed.tags if tag == "a"]
    assert sections
    assert [f"#{section}" for section in sections] == links[: len(sections)]


def test_pages_load_nothing(page):
    """No script, no image, no address but those that name SVG, and a policy against all others."""
    parsed = Page(page)
    names = {tag for tag, _ in parsed.tags}
    assert names.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "form", "base"})
    assert all(target.startswith("#") for target in parsed.attributes("href"))
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


@pytest.mark.parametrize("make", [text_results, comparison_results, stored_results])
def test_equal_results_give_equal_bytes(make):
    """A report is a function of its result."""
    assert render_html(make()) == render_html(make())


def test_pages_know_light_and_dark(page):
    """Colours of both schemes are defined, and the figures take theirs from the page."""
    assert "prefers-color-scheme: dark" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "var(--" in svg
        assert not re.findall(r"#[0-9a-f]{6}", svg)


def test_folded_parts_are_open_on_paper(page):
    """The style for print opens what a screen folds."""
    printed = page[page.index("@media print") :]
    assert "details::details-content" in printed


@pytest.mark.parametrize("make", [text_results, stored_results])
def test_files_are_complete_or_absent(make, tmp_path):
    """Folders are made, a folder in the file's place is refused, and nothing is left beside."""
    result = make()
    path = tmp_path / "new" / "report.html"
    save_html(result, path)
    Page(path.read_text(encoding="utf-8"))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(InvalidValueError, match="name of a file"):
        save_html(result, path.parent)
    with pytest.raises(InvalidValueError, match="not a writable folder"):
        save_html(result, Path(path, "below a file.html"))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_hostile_sample_is_hostile():
    """The sample that the reports are tried with would do harm if it were written as it is."""
    with pytest.raises(UnicodeEncodeError):
        HOSTILE.encode()
    with pytest.raises(AssertionError):
        Page(f"<p>{HOSTILE}</p>".replace("</script>", ""))
