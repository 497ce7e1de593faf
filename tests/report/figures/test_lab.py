"""What the figures of a lab are drawn from, and that they show it."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from lab_samples import evaluation, lab_results, nearly_empty_lab
from matplotlib.figure import Figure
from msgspec.structs import replace

from kullback.report.figures.lab import (
    plot_quantisation,
    plot_slots,
    plot_training,
    prepare_quantisation,
    prepare_slots,
    prepare_training,
)
from kullback.report.svg import to_svg


def words(figure: Figure) -> list[str]:
    """All texts of a figure."""
    svg = ElementTree.fromstring(to_svg(figure, "some", "a figure"))
    return ["".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_the_curve_is_the_floor_plus_the_live_kl():
    """The drawn cross-entropy is floor + KL; what a log axis cannot show is a gap."""
    curve = prepare_training(lab_results())
    assert curve is not None
    assert curve.cross_entropy == pytest.approx([6.4, 1.1, 0.5995])
    assert np.isnan(curve.kl).tolist() == [False, False, True]
    assert (curve.kl_low[0], curve.kl_high[0]) == pytest.approx((5.799, 5.801))
    assert prepare_training(nearly_empty_lab()) is None


def test_the_area_above_the_floor_is_named_kl():
    """The floor is a line with its number, and the area above it is called KL."""
    curve = prepare_training(lab_results())
    assert curve is not None
    figure = plot_training(curve)
    top = figure.axes[0]
    assert any(np.all(np.asarray(line.get_ydata()) == curve.floor) for line in top.lines)
    shown = words(figure)
    assert any(text.startswith("KL") for text in shown)
    assert {"entropy", "0.6000", "log V"} <= set("\n".join(shown).split("\n"))
    (area,) = (path for area in top.collections for path in area.get_paths())
    heights = area.vertices[:, 1]
    assert curve.floor in heights
    assert set(curve.cross_entropy) <= set(heights)


def test_shares_of_slots_add_up_to_the_token():
    """The bars of entropy and KL sum to the entropy and the KL of the evaluation."""
    part = evaluation("model", "training", 0.012, "cue")
    shares = prepare_slots(part.by_slot)
    assert shares is not None
    assert shares.entropy.sum() == pytest.approx(part.entropy.value)
    assert shares.kl.sum() == pytest.approx(part.kl.value)
    assert {"cue", "verb", "entropy"} <= set(words(plot_slots(shares)))


def test_schemes_stand_from_small_to_large():
    """Sizes rise, the original's KL from itself has no place, its KL from the truth is a line."""
    sizes = prepare_quantisation(lab_results())
    assert sizes is not None
    assert sizes.schemes == ("int4", "int8", "float32")
    assert np.isnan(sizes.kl_original).tolist() == [False, False, True]
    assert sizes.original_kl_truth == 0.01
    shown = words(plot_quantisation(sizes))
    assert {"int4", "int8", "float32"} <= set("\n".join(shown).split("\n"))
    assert not any("e−" in text for text in shown)
    assert prepare_quantisation(nearly_empty_lab()) is None


def test_an_infinite_kl_can_be_drawn():
    """Infinite parts are left out of the bars and of the curve."""
    worst = evaluation("model", "training", math.inf, "cue")
    shares = prepare_slots(worst.by_slot)
    assert shares is not None
    plot_slots(shares).draw_without_rendering()
    curve = prepare_training(replace(lab_results(), evaluations=(worst,)))
    assert curve is not None
    plot_training(curve).draw_without_rendering()
