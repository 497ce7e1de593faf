"""Figures as SVG, and the palette."""

from __future__ import annotations

import re

import pytest
from lab_samples import lab_results

from kullback.report.figures.lab import plot_training, prepare_training
from kullback.report.html.token_colours import SURPRISAL_STEPS
from kullback.report.svg import DARK, LIGHT, inline, to_svg


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_figures_are_the_same_bytes_every_time():
    """Equal numbers give equal SVG, without a date and with ids of their own."""
    curve = prepare_training(lab_results())
    assert curve is not None
    first, second = (to_svg(plot_training(curve), "curve", "words") for _ in range(2))
    assert first == second
    assert "<metadata" not in first
    assert all(name.startswith("curve-") for name in re.findall(r' id="([^"]*)"', first))
    assert LIGHT["ink"] not in inline(first)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_every_colour(palette):
    """Each step of the scale, and the paper, have a contrast of at least 4.5 to their text."""
    pairs = [
        (f"s{level}", "on-low" if level < 4 else "on-high")
        for level in range(len(SURPRISAL_STEPS) + 1)
    ]
    pairs += [("paper", name) for name in ("ink", "muted", "entropy", "kl", "other")]
    for ground, text in pairs:
        light, dark = sorted((luminance(palette[ground]), luminance(palette[text])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, text)
