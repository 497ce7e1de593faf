"""What the figures of a text, and of a comparison, are drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from text_samples import comparison_results, curve, measured, several_candidates, text_results

from kullback.report.figures.comparison import (
    plot_schemes,
    prepare_classes,
    prepare_layers,
    prepare_schemes,
)
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
    found = prepare_curve(replace(curve(), high=(math.inf, None, None)))
    assert found is not None
    assert np.isnan(found.mean).tolist() == [False, False, True]
    assert np.isnan(found.high).all()
    plot_curve(found, "ink", "", True, "").draw_without_rendering()


def test_infinite_edges_are_one_bin_wide():
    """A histogram with two open ends is drawn with finite ones, and says that they are open."""
    edges = (-math.inf, 0.0, 0.5, 1.0, math.inf)
    found = prepare_histogram(Histogram(edges, (0.1, 0.2, 0.3, 0.4)))
    assert found is not None
    assert found.edges.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert (found.open_left, found.open_right) == (True, True)


def test_trimming_leaves_out_empty_bins_at_the_ends_only():
    """Empty bins between filled ones stay."""
    found = prepare_histogram(
        Histogram((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), (0.0, 0.5, 0.0, 0.5, 0.0)), trim=True
    )
    assert found is not None
    assert found.edges.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert found.share.tolist() == [0.5, 0.0, 0.5]
    axes = plot_histogram(found, "kl", "", marks={"inside": 2.0, "outside": 9.0}).axes[0]
    assert [each.get_text() for each in axes.texts] == ["inside"]


def test_reliability_leaves_out_empty_bins():
    """Only bins with predictions are dots; without any there is no figure."""
    found = prepare_reliability(text_results().reliability, 0.1)
    assert found is not None
    assert found.confidence.tolist() == [0.25, 0.75]
    assert prepare_reliability([], None) is None
    target = prepare_reliability(text_results().target_reliability, None, "the target")
    assert target is not None
    shown = plot_reliability([[found, target]], "expected", "found").axes
    titles = [axes.get_title("left").partition("\n")[0] for axes in shown]
    assert titles == ["the first guess", "the target"]
    assert (shown[0].get_xlabel(), shown[0].get_ylabel()) == ("expected", "found")


def test_schemes_without_a_place_are_named():
    """Zero and infinity have no place on a log axis; the others stand from small to large."""
    found = prepare_schemes(several_candidates().ranked)
    assert found is not None
    assert found.names == ("int4", "nf4", "int8")
    assert found.left_out == ("broken", "bf16")
    assert found.on_front.tolist() == [True, False, True]
    assert prepare_schemes([several_candidates().ranked[0]]) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_scheme_lies_inside_its_axes(count):
    """One scheme, or several of almost the same size and KL, have axes of some width, and ticks."""
    one = several_candidates().ranked[1]
    schemes = [
        replace(one, size_bytes=one.size_bytes + i, kl=measured(0.02, 0.001)) for i in range(count)
    ]
    found = prepare_schemes(schemes)
    assert found is not None
    axes = plot_schemes(found).axes[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert right > 1.4 * left
    assert left < found.sizes.min() <= found.sizes.max() < right
    assert low < found.low.min() < found.high.max() < high
    assert any(low < tick < high for tick in axes.get_yticks())


def test_classes_come_costliest_first_and_layers_as_given():
    """Order, values and intervals of the bars; those beyond the fortieth are counted."""
    classes = prepare_classes({"a": measured(1.0, 0.5), "b": measured(2.0, None)})
    assert classes is not None
    assert classes.names == ("b", "a")
    assert np.isnan(classes.low).tolist() == [True, False]
    one = comparison_results().sensitivity[0]
    layers = prepare_layers([replace(one, layer=f"layer {i}") for i in range(50)])
    assert layers is not None
    assert (layers.names[0], len(layers.names), layers.left_out) == ("layer 0", 40, 10)
    assert prepare_layers([replace(one, kl=measured(math.inf, None))]) is None
