"""The HTML report of a training run, while it runs and after it."""

from __future__ import annotations

import math

from html_page import Page

from kullback.report.figures.live_curves import MOST_POINTS, Series, panel
from kullback.report.html.training import render_training
from kullback.results.training import StepMetrics


def lines(count: int, on_text: bool = False) -> list[StepMetrics]:
    """Lines of metrics of a source, or of a text."""
    return [
        StepMetrics(
            10 * i, 400 * i, 2.0 + 1 / i, None if on_text else 2.0, None if on_text else 1 / i,
            None if on_text else 0.1 / i, 5e4, 90.0 - i, 0.02,
            2.25 + 1 / i if i % 2 == 0 else None, None,
            1.5 if on_text and i % 2 == 0 else None,
        )
        for i in range(1, count + 1)
    ]  # fmt: skip


def test_a_running_page_reads_itself_again_and_loads_nothing() -> None:
    """It has a refresh, the last numbers, and nothing from elsewhere; names are escaped."""
    html = render_training("<b>run", lines(40), 1000, 2.0)
    page = Page(html)
    refresh = [attrs for tag, attrs in page.tags if attrs.get("http-equiv") == "refresh"]
    assert len(refresh) == 1
    assert "<b>" not in html
    for words in ("<b>run", "step 400 of 1,000", "50.0 s left", "2.0250", "floor", "KL"):
        assert words in page.words
    assert not page.attributes("src")
    assert not page.attributes("href")


def test_a_finished_page_is_static() -> None:
    """No refresh, no time left; the result's table is on it."""
    page = Page(render_training("run", lines(40), 400, 2.0, "finished", "a < b"))
    assert not [1 for _, attrs in page.tags if attrs.get("http-equiv") == "refresh"]
    assert "finished" in page.words
    assert "a < b" in page.words
    assert "left" not in page.words


def test_a_text_has_bits_per_byte_and_no_kl() -> None:
    """The panels are those that the metrics have numbers for."""
    of_text = Page(render_training("run", lines(4, on_text=True), 100, None))
    of_source = Page(render_training("run", lines(4), 100, 2.0))
    assert "bits per byte, validation" in of_text.attributes("aria-label")
    assert "KL, nats/token" not in of_text.attributes("aria-label")
    assert "KL, nats/token" in of_source.attributes("aria-label")
    assert "bits per byte, validation" not in of_source.attributes("aria-label")


def test_a_page_before_the_first_line() -> None:
    """It says that no step was done."""
    assert "step 0 of 100" in Page(render_training("run", [], 100, None)).words


def test_curves_are_thinned_and_keep_their_last_point() -> None:
    """A long curve has few points; NaN, a constant and a single value are drawn or left out."""
    svg = panel("p", [Series("a", "ink", [(i, math.sin(i)) for i in range(1, 100_001)])], 100_000)
    curve = next(part for part in svg.split("<polyline ") if 'stroke-width="1.6"' in part)
    points = curve.split('points="')[1].split('"')[0].split()
    assert len(points) <= MOST_POINTS
    assert points[-1].startswith("548.0,")
    assert panel("p", [Series("a", "ink", [(1, math.nan)])], 10) == ""
    assert "<circle" in panel("p", [Series("a", "ink", [(1, 3.0)])], 10)
    assert "<polyline" in panel("p", [Series("a", "ink", [(1, 0.0), (2, 0.0)])], 10)
