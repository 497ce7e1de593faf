"""What the figures of a comparison are drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from text_samples import comparison_results, measured, several_candidates

from kullback.report.figures.comparison import (
    plot_candidates,
    plot_layers,
    prepare_candidates,
    prepare_classes,
    prepare_layers,
)
from kullback.report.names import candidate_names

NAMES = candidate_names(several_candidates())


def test_candidates_without_a_place_are_named():
    """Zero and infinity have no place on a log axis; the others are from small to large."""
    data = prepare_candidates(several_candidates().ranked, NAMES)
    assert data is not None
    assert data.names == ("int4", "nf4", "int8")
    assert data.left_out == ("broken", "bf16")
    assert data.on_front.tolist() == [True, False, True]
    assert prepare_candidates([several_candidates().ranked[0]], NAMES) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_candidate_is_inside_the_axes(count):
    """One candidate, or several of almost the same size and KL, have axes of some width."""
    first = several_candidates().ranked[1]
    candidates = [
        replace(first, size_bytes=first.size_bytes + i, kl=measured(0.02, 0.001))
        for i in range(count)
    ]
    data = prepare_candidates(candidates, NAMES)
    assert data is not None
    axes = plot_candidates(data).axes[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert right > 1.4 * left
    assert left < data.sizes.min() <= data.sizes.max() < right
    assert low < data.low.min() < data.high.max() < high
    assert any(low < tick < high for tick in axes.get_yticks())


def test_classes_come_costliest_first_and_layers_as_given():
    """Order, values and intervals of the bars; those beyond the fortieth are counted."""
    classes = prepare_classes({"a": measured(1.0, 0.5), "b": measured(2.0, None)})
    assert classes is not None
    assert classes.names == ("b", "a")
    assert np.isnan(classes.low).tolist() == [True, False]
    layer = comparison_results().sensitivity[0]
    layers = prepare_layers([replace(layer, layer=f"layer {i}") for i in range(50)])
    assert layers is not None
    assert (layers.names[0], len(layers.names), layers.left_out) == ("layer 0", 40, 10)
    assert prepare_layers([replace(layer, kl=measured(math.inf, None))]) is None


@pytest.mark.parametrize(("total", "together", "rows"), [(0.3, 0.2, 2), (None, 0.2, 1)])
def test_the_sum_of_the_groups_is_beside_all_together(total, together, rows):
    """On an axis of their own, with as many bars as are known."""
    layers = prepare_layers(comparison_results().sensitivity)
    assert layers is not None
    assert len(plot_layers(layers, total, together).axes[1].get_yticks()) == rows
    assert len(plot_layers(layers, None, None).axes) == 1
