"""A plot of measured points and a predicted line in characters, with both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from kullback.report.numbers import count, ticks

__all__ = ["log_log_plot"]

_WIDTH, _HEIGHT = 64, 13  # in characters, without the axes
_LABELLED_ROWS = (0, _HEIGHT // 2, _HEIGHT - 1)


def log_log_plot(x: Sequence[float], predicted: Sequence[float], measured: Sequence[float]) -> Text:
    """Measured points (●) over a predicted line (·).

    All numbers must be positive; ``x`` and ``predicted`` must have at least two different values.
    """
    low_x, high_x = math.log10(min(x)), math.log10(max(x))
    heights = [math.log10(y) for y in (*predicted, *measured)]
    low_y, high_y = min(heights), max(heights)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]

    def column(log_x: float) -> int:
        return round((log_x - low_x) / (high_x - low_x) * (_WIDTH - 1))

    def row(log_y: float) -> int:
        return round((high_y - log_y) / (high_y - low_y) * (_HEIGHT - 1))

    corners = [(math.log10(a), math.log10(b)) for a, b in zip(x, predicted, strict=True)]
    for (x0, y0), (x1, y1) in pairwise(corners):
        for place in range(column(x0), column(x1) + 1):
            share = (place - column(x0)) / max(1, column(x1) - column(x0))
            grid[row(y0 + share * (y1 - y0))][place] = "·"
    for a, b in zip(x, measured, strict=True):
        grid[row(math.log10(b))][column(math.log10(a))] = "●"

    levels = [10 ** (high_y - i / (_HEIGHT - 1) * (high_y - low_y)) for i in _LABELLED_ROWS]
    texts = ticks([float(f"{level:.0e}") for level in levels])
    margin = max(map(len, texts))
    labels = dict(zip(_LABELLED_ROWS, texts, strict=True))
    lines = [f"{labels.get(i, ''):>{margin}} │{''.join(cells)}" for i, cells in enumerate(grid)]
    lines.append(" " * (margin + 1) + "└" + "─" * _WIDTH)
    left, right = f"N = {count(min(x))}", count(max(x))
    lines.append(" " * (margin + 2) + left + right.rjust(_WIDTH - len(left)))
    return Text("\n".join(lines))
