"""The HTML report of a lab."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from html_page import Page
from lab_samples import exact, lab_results, nearly_empty_lab
from msgspec.structs import replace

from kullback.errors import InvalidValueError
from kullback.report.html.lab import render_figures, render_lab_report, write_lab_report
from kullback.report.html.token_colours import SURPRISAL_STEPS
from kullback.results.lab import LabResults
from kullback.results.measurement import Measurement

FIGURES = {"training", "slots", "calibration", "quantisation"}


def rendered(results: LabResults) -> str:
    """The page with its figures."""
    return render_lab_report(results)


LABS: dict[str, Callable[[], LabResults]] = {
    "whole": lab_results,
    "hostile": lambda: lab_results(hostile=True),
    "empty": nearly_empty_lab,
}


@cache
def page_of(kind: str) -> str:
    """The page of that lab, drawn once."""
    return rendered(LABS[kind]())


@pytest.fixture(params=LABS)
def page(request: pytest.FixtureRequest) -> str:
    """Each page."""
    return page_of(request.param)


@pytest.fixture
def whole() -> str:
    """The ordinary page."""
    return page_of("whole")


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


def test_what_a_vocabulary_says_is_shown_and_not_obeyed():
    """Markup, template code, control characters and marks of direction arrive as visible text."""
    page = page_of("hostile")
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\ufffe]", page)
    shown = Page(page).words
    assert "<script>alert(1)</script>{{7*7}}{% raw %}\"'&amp;␀␈␛[31m▒▒[red]▒" in shown
    page.encode()  # a lone half of a surrogate pair would raise


def test_the_headline_is_the_identity_and_its_printed_terms_add_up(whole):
    """The three numbers on top are CE = H + KL of the model, as printed."""
    numbers = re.findall(r'class="number[^"]*">([^<]*)<', whole)
    assert numbers == ["0.6100", "0.6000", "0.0100"]
    assert float(numbers[0]) == pytest.approx(float(numbers[1]) + float(numbers[2]))


def test_every_evaluation_has_a_column(whole):
    """Each model and part is in the table, with infinity where KL is infinite."""
    shown = Page(whole).words
    assert re.search(r"KL ?KL\(truth‖model\)[^.]*\. 0\.0100 0\.7000 ∞", shown)
    assert "2026-01-02 03:04:05 UTC" in shown


def test_hovering_shows_both_distributions(whole):
    """Each token takes the focus and has a card with the tokens that model and truth expect."""
    parsed = Page(whole)
    tokens = [attrs for tag, attrs in parsed.tags if attrs.get("tabindex") == "0"]
    cards = [attrs for tag, attrs in parsed.tags if attrs.get("role") == "tooltip"]
    assert len(tokens) == sum(len(sentence.tokens) for sentence in lab_results().sentences)
    assert [card["id"] for card in cards] == [token["aria-describedby"] for token in tokens]
    card = "works verb surprisal ∞ true surprisal 0.2500 KL here 0.0500 nats model "
    assert card + "works 0.750" in parsed.words
    assert ".token:hover > .card, .token:focus > .card { display: block; }" in whole


def test_tokens_are_coloured_by_surprisal_and_marked_by_kl(whole):
    """A certain token has level 0, an impossible one the last, and a large KL is underlined."""
    classes = [attrs["class"] for _, attrs in Page(whole).tags if attrs.get("tabindex") == "0"]
    last = len(SURPRISAL_STEPS)
    assert set(classes) == {"token level-0", f"token level-{last} large-kl"}
    assert all(f".level-{level} {{" in whole for level in range(last + 1))


def test_pages_know_light_and_dark(page):
    """Colours of both schemes are defined, and the figures take theirs from the page."""
    assert "prefers-color-scheme: dark" in page
    for name in ("paper", "ink", "kl", "s0", "s6", "on-high"):
        assert page.count(f"--{name}: #") == 2
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "var(--" in svg
        assert re.findall(r"#[0-9a-f]{6}", svg) == []


def test_what_is_not_known_leaves_no_section():
    """Without curve, slots, pairs, quantisations and sentences there is a page without them."""
    results = nearly_empty_lab()
    assert render_figures(results) == {}
    ids = set(Page(rendered(results)).attributes("id"))
    assert {"numbers", "source"} <= ids
    assert ids.isdisjoint({*FIGURES, "sentences", "minimal-pairs"})


def test_results_read_back_give_the_same_bytes():
    """A report is a function of its results, and JSON carries them completely."""
    results = lab_results()
    assert rendered(results) == rendered(LabResults.from_json(results.to_json()))


def test_page_and_figures_are_written(tmp_path):
    """The page, and each figure as an SVG file that stands alone, and nothing else."""
    path = tmp_path / "new" / "report.html"
    write_lab_report(lab_results(), path)
    Page(path.read_text(encoding="utf-8"))
    names = {file.name for file in (path.parent / "figures").iterdir()}
    assert names == {f"{name}.svg" for name in FIGURES}
    for name in names:
        root = ElementTree.parse(path.parent / "figures" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-label")
    assert {file.name for file in path.parent.iterdir()} == {"report.html", "figures"}


def test_a_failure_leaves_the_old_report(tmp_path):
    """A folder in the file's place, a file in the folder's, or broken results change nothing."""
    path = tmp_path / "report.html"
    write_lab_report(lab_results(), path)
    before = path.read_bytes()
    with pytest.raises(InvalidValueError, match="name of a file"):
        write_lab_report(lab_results(), tmp_path)
    with pytest.raises(InvalidValueError, match="not a writable folder"):
        write_lab_report(lab_results(), Path(path, "below a file.html"))
    held_out = replace(lab_results(), evaluations=lab_results().evaluations[1:2])
    with pytest.raises(InvalidValueError, match="training"):
        write_lab_report(held_out, path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("**/.*")) == []


def test_an_infinite_kl_leaves_a_page():
    """A model that excludes what the language says has ∞ on top and a page below."""
    results = lab_results()
    infinite = exact(math.inf)
    worst = replace(results.evaluations[0], cross_entropy=infinite, kl=infinite)
    shown = Page(rendered(replace(results, evaluations=(worst,)))).words
    assert "∞cross-entropy" in shown.replace(" ", "")


def test_contents_link_to_every_section(whole):
    """The contents name all sections in order, and those alone."""
    parsed = Page(whole)
    sections = [attrs["id"] for tag, attrs in parsed.tags if tag == "section"]
    assert parsed.attributes("href") == [f"#{name}" for name in sections]


def test_a_sampled_evaluation_shows_its_intervals():
    """Numbers of a sample have ± half of their interval, and are called sampled."""
    results = lab_results()
    sampled = Measurement(0.61, "nats/token", 0.01, 900, 30, "sentences", bounds=(0.59, 0.63))
    part = replace(results.evaluations[0], exact=False, cross_entropy=sampled)
    shown = Page(rendered(replace(results, evaluations=(part,)))).words
    assert "0.610 ± 0.020" in shown
    assert "sampled" in shown


def test_values_of_a_card_say_which_column_they_are_from(whole):
    """On a narrow screen each value of the first table carries its model and part."""
    labels = Page(whole).attributes("data-label")
    columns = ["mini-GPT, training", "mini-GPT, held out", "3-gram, training"]
    assert labels == columns * (len(labels) // 3)


def test_files_of_others_stay_unless_they_are_forced(tmp_path):
    """A figure of somebody else keeps the report from being written, too."""
    figure = tmp_path / "figures" / "training.svg"
    figure.parent.mkdir()
    figure.write_text("my drawing")
    with pytest.raises(InvalidValueError, match=r"training\.svg.*--force"):
        write_lab_report(lab_results(), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    assert figure.read_text() == "my drawing"
    write_lab_report(lab_results(), tmp_path / "report.html", force=True)
    assert "<svg" in figure.read_text()
