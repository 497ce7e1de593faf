"""What the figures of a lab are drawn from, and that they show it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from lab_samples import evaluation, lab_results, nearly_empty_lab, sentences
from matplotlib.figure import Figure

from kullback.report.figures.lab import (
    plot_quantisation,
    plot_reliability,
    plot_slots,
    plot_training,
    prepare_quantisation,
    prepare_reliability,
    prepare_slots,
    prepare_training,
)
from kullback.report.html.token_colours import sentences_svg
from kullback.report.svg import DARK, LIGHT, inline, to_svg


def words(figure: Figure) -> list[str]:
    """All texts of a figure."""
    svg = ElementTree.fromstring(to_svg(figure, "some", "a figure"))
    return ["".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


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
    (area,) = (path for one in top.collections for path in one.get_paths())
    heights = area.vertices[:, 1]
    assert curve.floor in heights
    assert set(curve.cross_entropy) <= set(heights)


def test_shares_of_slots_add_up_to_the_token():
    """The bars of entropy and KL sum to the entropy and the KL of the evaluation."""
    whole = evaluation("model", "training", 0.012, "cue")
    shares = prepare_slots(whole)
    assert shares is not None
    assert shares.entropy.sum() == pytest.approx(whole["entropy"])
    assert shares.kl.sum() == pytest.approx(whole["kl"])
    assert {"cue", "verb", "entropy"} <= set(words(plot_slots(shares)))


def test_reliability_has_a_panel_for_each_model_and_part():
    """Rows are parts of the language, columns models; empty bins are left out."""
    rows = prepare_reliability(lab_results())
    assert [[panel.title for panel in row] for row in rows] == [
        ["mini-GPT, training", "3-gram, training"],
        ["mini-GPT, held out"],
    ]
    assert [panel.is_baseline for panel in rows[0]] == [False, True]
    assert rows[0][0].confidence.tolist() == [0.3, 0.9]
    shown = [axes for axes in plot_reliability(rows).axes if axes.get_visible()]
    assert len(shown) == 3


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


def test_each_word_of_a_sentence_is_drawn_with_its_tooltip():
    """Words in order, wrapped within the width; a tooltip has both distributions."""
    root = ElementTree.fromstring(sentences_svg(sentences()))
    space = "{http://www.w3.org/2000/svg}"
    drawn = [text.text for text in root.iter(f"{space}text")]
    assert drawn[-26:] == [*(["she", "works"] * 12), "held out:", "works"]
    tips = [tip.text or "" for tip in root.iter(f"{space}title")]
    assert len(tips) == 25
    assert "the model expects: works 0.750, work 0.200" in tips[1]
    assert tips[1].endswith("the truth is: works 0.750")
    width = float(root.attrib["width"])
    boxes = [box for box in root.iter(f"{space}rect") if "x" in box.attrib]
    assert max(float(box.attrib["x"]) + float(box.attrib["width"]) for box in boxes) <= width
    assert len({box.attrib["y"] for box in boxes}) > 3
    assert sum(box.attrib["fill"] == LIGHT["kl"] for box in boxes) == 13 + 1  # and the legend


def test_figures_are_the_same_bytes_every_time():
    """Equal numbers give equal SVG, without a date and with ids of their own."""
    curve = prepare_training(lab_results())
    assert curve is not None
    one, two = (to_svg(plot_training(curve), "curve", "words") for _ in range(2))
    assert one == two
    assert "<metadata" not in one
    assert all(name.startswith("curve-") for name in re.findall(r' id="([^"]*)"', one))
    assert LIGHT["ink"] not in inline(one)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_every_colour(palette):
    """Each step of the scale, and the paper, have a contrast of at least 4.5 to their text."""
    pairs = [(f"s{level}", "on-low" if level < 4 else "on-high") for level in range(7)]
    pairs += [("paper", name) for name in ("ink", "muted", "entropy", "kl", "other")]
    for ground, text in pairs:
        light, dark = sorted((luminance(palette[ground]), luminance(palette[text])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, text)


def test_an_infinite_kl_can_be_drawn():
    """Infinite parts are left out of the bars and of the curve."""
    worst = evaluation("model", "training", math.inf, "cue")
    shares = prepare_slots(worst)
    assert shares is not None
    plot_slots(shares).draw_without_rendering()
    curve = prepare_training({**lab_results(), "evaluations": [worst]})
    assert curve is not None
    plot_training(curve).draw_without_rendering()
