"""The HTML report and the figure of a scaling ladder."""

from __future__ import annotations

import numpy as np
import pytest
from html_page import Page
from scaling_samples import EXACT, scaling_results

from kullback.report import render_html
from kullback.report.figures.scaling import plot_scaling, prepare_scaling


def test_the_page_has_the_law_the_rungs_and_the_exact_entropy():
    """Every number of the law and of a rung, and one figure with a legend for each line."""
    html = render_html(scaling_results())
    page = Page(html)
    for words in ("0.6900", "0.6800 to 0.7000", "0.694100", "contains", "133,184", "out/rung-5"):
        assert words in page.words
    assert "loss − E" in page.words
    for name in ("E, 95 %", "exact entropy", "fit", "rungs"):
        assert name in html.partition("<svg")[2].partition("</svg>")[0]


def test_a_text_has_no_exact_entropy_and_its_name_is_no_markup():
    """The line is absent from the legend, and a tag of a file's name is text."""
    html = render_html(scaling_results(on_text=True))
    assert "exact entropy" not in Page(html).words
    assert "<b>book" not in html
    assert "\x1b" not in html


def test_the_curve_is_the_law_and_goes_beyond_the_last_rung():
    """It begins at the first rung and ends at four times the last x."""
    result = scaling_results()
    data = prepare_scaling(result)
    assert data.curve_x[0] == pytest.approx(result.rungs[0].tokens)
    assert data.curve_x[-1] == pytest.approx(4 * result.rungs[-1].tokens)
    np.testing.assert_allclose(data.curve, 0.69 + 40 * data.curve_x**-0.4)
    assert data.exact == EXACT


def test_a_band_that_says_nothing_does_not_flatten_the_losses():
    """The axis ends just above the losses, whatever the interval of E."""
    figure = plot_scaling(prepare_scaling(scaling_results(identified=False)))
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylim()[1] < 1.2 * scaling_results().rungs[0].loss
