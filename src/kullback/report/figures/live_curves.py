"""Curves of a running training as SVG, written without matplotlib: a page takes milliseconds.

``x`` is the training step.  A panel has at most `MOST_POINTS` points of each series; the highest
values of its first steps, which would flatten the rest, are cut off at the upper edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from kullback.report.numbers import count, ticks
from kullback.report.svg import LIGHT

__all__ = ["Series", "panel"]

MOST_POINTS = 300
# Of the steps, at the beginning: their values do not set the scale.
BEGINNING = 0.05
WIDTH, HEIGHT = 560, 190
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 26, 30


@dataclass(frozen=True)
class Series:
    """A curve: steps and values, its colour in the palette of reports, and its name."""

    name: str
    colour: str
    points: Sequence[tuple[int, float]]
    dashed: bool = False


def panel(title: str, series: Sequence[Series], steps: int) -> str:
    """An SVG element with the curves over the steps from 0 to `steps`; empty without a number."""
    kept = [
        Series(s.name, s.colour, _thinned([p for p in s.points if math.isfinite(p[1])]), s.dashed)
        for s in series
    ]
    kept = [s for s in kept if s.points]
    if not kept:
        return ""
    low, high = _limits(kept, steps)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(step: float) -> float:
        return LEFT + (right - LEFT) * step / max(steps, 1)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (min(max(value, low), high) - low) / (high - low)

    marks = _nice(low, high)
    parts = [_text(0, 13, title, "ink", weight="600")]
    for value, label in zip(marks, ticks(marks), strict=True):
        parts.append(_line([(LEFT, y(value)), (right, y(value))], "rule", 0.6))
        parts.append(_text(LEFT - 7, y(value) + 3.5, label, "muted", "end"))
    for step in _nice(0.0, float(max(steps, 1))):
        parts.append(_text(x(step), bottom + 16, count(step), "muted", "middle"))
    place = float(right)
    for s in reversed(kept):
        parts.append(_line([(x(step), y(value)) for step, value in s.points], s.colour, 1.6, s))
        if len(kept) > 1:
            parts.append(_text(place, 13, s.name, s.colour, "end"))
            place -= 7.4 * len(s.name) + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `MOST_POINTS` at equal distances, the last one among them."""
    every = -(-len(points) // MOST_POINTS)
    return list(points[::-1][:: max(every, 1)][::-1])


def _limits(series: Sequence[Series], steps: int) -> tuple[float, float]:
    """The lowest value, and the highest after the beginning; never equal."""
    last = max(step for s in series for step, _ in s.points)
    late = [v for s in series for step, v in s.points if step >= BEGINNING * min(last, steps)]
    low, high = min(v for s in series for _, v in s.points), max(late)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _nice(low: float, high: float) -> list[float]:
    """Three to six round numbers between the limits."""
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    distance = next(k * power for k in (5, 2, 1) if (high - low) / (k * power) >= 2.5)
    first = math.ceil(low / distance)
    return [round(k * distance, 12) for k in range(first, math.floor(high / distance) + 1)]


def _line(
    points: Sequence[tuple[float, float]], colour: str, width: float, series: Series | None = None
) -> str:
    """A line; a single point is a dot."""
    dash = ' stroke-dasharray="5 3"' if series is not None and series.dashed else ""
    if len(points) == 1:
        (x, y) = points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{LIGHT[colour]}" />'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{LIGHT[colour]}" '
        f'stroke-width="{width}"{dash} />'
    )


def _text(
    x: float, y: float, words: str, colour: str, anchor: str = "start", weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{LIGHT[colour]}">{escape(words)}</text>'
    )
