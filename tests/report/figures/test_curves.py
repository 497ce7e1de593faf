"""What the figures of a text, and of a comparison, are drawn from."""

from __future__ import annotations

import math

import numpy as np
from msgspec.structs import replace
from text_samples import curve, text_results

from kullback.report.figures.curves import (
    plot_curve,
    plot_histogram,
    prepare_curve,
    prepare_histogram,
    prepare_reliability,
)
from kullback.report.figures.reliability import plot_reliability
from kullback.results.evaluation import Histogram


def test_a_curve_keeps_its_gaps():
    """Places without a mean or an interval are NaN, and so is infinity."""
    data = prepare_curve(replace(curve(), high=(math.inf, None, None)))
    assert data is not None
    assert np.isnan(data.mean).tolist() == [False, False, True]
    assert np.isnan(data.high).all()
    plot_curve(data, "ink", "", True, "").draw_without_rendering()


def test_infinite_edges_are_one_bin_wide():
    """A histogram with two open ends is drawn with finite ones, and says that they are open."""
    edges = (-math.inf, 0.0, 0.5, 1.0, math.inf)
    data = prepare_histogram(Histogram(edges, (0.1, 0.2, 0.3, 0.4)))
    assert data is not None
    assert data.edges.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert (data.open_left, data.open_right) == (True, True)


def test_trimming_leaves_out_empty_bins_at_the_ends_only():
    """Empty bins between filled ones stay."""
    data = prepare_histogram(
        Histogram((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), (0.0, 0.5, 0.0, 0.5, 0.0)), trim=True
    )
    assert data is not None
    assert data.edges.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert data.share.tolist() == [0.5, 0.0, 0.5]
    axes = plot_histogram(data, "kl", "", marks={"inside": 2.0, "outside": 9.0}).axes[0]
    assert [each.get_text() for each in axes.texts] == ["inside"]


def test_reliability_leaves_out_empty_bins():
    """Only bins with predictions are dots; without any there is no figure."""
    data = prepare_reliability(text_results().reliability, 0.1, "top-1 token")
    assert data is not None
    assert data.confidence.tolist() == [0.25, 0.75]
    assert prepare_reliability([], None) is None
    target = prepare_reliability(text_results().target_reliability, None, "the target")
    assert target is not None
    shown = plot_reliability([[data, target]], "expected", "found").axes
    titles = [axes.get_title("left").partition("\n")[0] for axes in shown]
    assert titles == ["top-1 token", "the target"]
    assert (shown[0].get_xlabel(), shown[0].get_ylabel()) == ("expected", "found")
