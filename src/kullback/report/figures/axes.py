"""Size, arrays and tick labels of all figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import Formatter
from numpy.typing import NDArray

from kullback.report.numbers import ticks

__all__ = ["WIDTH", "FloatArray", "NumberTicks"]

FloatArray = NDArray[np.float64]

#: Inches; 475 points, which a phone shows at about two thirds.
WIDTH = 6.6


class NumberTicks(Formatter):
    """Tick labels in one style an axis, without trailing zeros or a power of ten in a corner."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one tick."""
        return ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks; those outside of the axis, which are not drawn, are empty."""
        if self.axis is None:
            return ticks(values)
        low, high = sorted(self.axis.get_view_interval())
        inside = [value for value in values if low <= value <= high]
        labels = dict(zip(inside, ticks(inside), strict=True))
        return [labels.get(value, "") for value in values]
