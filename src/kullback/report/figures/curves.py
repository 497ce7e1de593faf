"""Curves over position and confidence, and distributions over tokens.

As in :mod:`kullback.report.figures.lab`, ``prepare_*`` picks arrays out of the results and
``plot_*`` draws them.  What a scale cannot show (no number, zero on a log axis) is left out of the
drawing.  Ink is one model, vermilion the KL between two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from kullback.report.figures.axes import WIDTH, FloatArray, NumberTicks
from kullback.report.figures.reliability import Reliability
from kullback.report.numbers import count, ticks
from kullback.report.svg import LIGHT, house_style
from kullback.results.evaluation import Curve, Histogram, ReliabilityBin

__all__ = [
    "CurveData",
    "HistogramData",
    "finite",
    "plot_curve",
    "plot_histogram",
    "prepare_curve",
    "prepare_histogram",
    "prepare_reliability",
]

# --- means by place ------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveData:
    """Means by place, NaN where there is none."""

    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def prepare_curve(curve: Curve) -> CurveData | None:
    """The curve as arrays; None where no place has a finite mean.

    >>> prepare_curve(Curve((0.0,), (None,), (None,), (None,), (0,)))
    """
    data = CurveData(*(finite(getattr(curve, key)) for key in ("x", "mean", "low", "high")))
    return data if np.isfinite(data.mean).any() else None


def plot_curve(curve: CurveData, colour: str, x_label: str, log_x: bool, title: str) -> Figure:
    """Means with their intervals against place; `colour` is a name of the palette."""
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.0))
        axes = figure.subplots()
        known = np.isfinite(curve.low) & np.isfinite(curve.high)
        axes.fill_between(
            curve.x, curve.low, curve.high, where=known.tolist(), color=LIGHT[colour], alpha=0.18,
            linewidth=0,
        )  # fmt: skip
        # A bin between two without an interval has no band: it gets a bar of its own.
        axes.vlines(curve.x[known], curve.low[known], curve.high[known], LIGHT[colour], alpha=0.35)
        axes.plot(curve.x, curve.mean, "o-", color=LIGHT[colour], linewidth=1.5, markersize=3)
        if log_x:
            axes.set_xscale("symlog", linthresh=1.0, linscale=0.35)
            axes.set_xticks(_powers_of_four(float(np.nanmax(curve.x))))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
            axes.set_xlim(left=min(0.0, float(np.nanmin(curve.x))))
        else:
            axes.xaxis.set_major_formatter(NumberTicks())
        _from_zero(axes, np.concatenate([curve.mean, curve.high]))
        axes.yaxis.set_major_formatter(NumberTicks())
        axes.set_xlabel(x_label)
        axes.set_title(title)
        axes.grid(axis="y")
    return figure


# --- distributions -------------------------------------------------------------------------


@dataclass(frozen=True)
class HistogramData:
    """Shares of tokens between edges, which are finite; the outer bins may hold all beyond."""

    edges: FloatArray
    share: FloatArray
    open_left: bool
    open_right: bool


def prepare_histogram(histogram: Histogram, trim: bool = False) -> HistogramData | None:
    """The histogram with finite edges; None where it is empty.

    An infinite edge becomes one bin's width beyond its neighbour.  `trim` leaves out empty bins
    at both ends.

    >>> data = prepare_histogram(Histogram((0.0, 1.0, float("inf")), (0.75, 0.25)))
    >>> data.edges.tolist(), data.open_right
    ([0.0, 1.0, 2.0], True)
    """
    share = np.array(histogram.share, dtype=np.float64)
    edges = np.array(histogram.edges, dtype=np.float64)
    occupied = np.flatnonzero(share > 0)
    if not len(occupied) or not np.isfinite(edges).any():
        return None
    width = float(np.median(np.diff(edges[np.isfinite(edges)]))) if len(edges) > 3 else 1.0
    open_left, open_right = bool(np.isinf(edges[0])), bool(np.isinf(edges[-1]))
    if open_left:
        edges[0] = edges[1] - width
    if open_right:
        edges[-1] = edges[-2] + width
    if trim:
        first, last = int(occupied[0]), int(occupied[-1])
        open_left, open_right = open_left and first == 0, open_right and last == len(share) - 1
        edges, share = edges[first : last + 2], share[first : last + 1]
    return HistogramData(edges, share, open_left, open_right)


def plot_histogram(
    histogram: HistogramData,
    colour: str,
    x_label: str,
    decades: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Shares of tokens; `marks` are values to point out, in the unit of the x axis.

    With `decades` the x axis is a base-10 logarithm.
    """
    edges, share = histogram.edges, 100 * histogram.share
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.9))
        axes = figure.subplots()
        axes.bar(
            edges[:-1], share, np.diff(edges), align="edge", color=LIGHT[colour], alpha=0.8,
            edgecolor=LIGHT["paper"], linewidth=0.6,
        )  # fmt: skip
        tallest = float(share.max())
        inside = sorted(
            (x, name) for name, x in (marks or {}).items() if edges[0] <= x <= edges[-1]
        )
        for place, (x, name) in enumerate(inside):
            y = tallest * (1.16, 1.08)[place % 2]
            axes.vlines(x, 0, y, LIGHT["ink"], linewidth=1.0, linestyle=(0, (3, 2)))
            # Away from the other mark; one by itself to where there is more room.
            alone = len(inside) == 1
            left = x > (edges[0] + edges[-1]) / 2 if alone else place == 0
            axes.annotate(
                name, (x, y), xytext=(-4 if left else 4, 0), textcoords="offset points",
                ha="right" if left else "left", va="center", size=8,
            )  # fmt: skip
        axes.set_xlim(float(edges[0]), float(edges[-1]))
        axes.set_ylim(0, tallest * (1.24 if marks else 1.05))
        if decades:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.xaxis.set_major_formatter(_DecadeTicks())
        else:
            axes.xaxis.set_major_formatter(NumberTicks())
        axes.set_xlabel(x_label)
        axes.set_title("tokens, %")
        axes.grid(axis="y")
    return figure


def prepare_reliability(
    bins: Sequence[ReliabilityBin], ece: float | None, title: str = "the most probable token"
) -> Reliability | None:
    """A panel of a reliability diagram; None where no bin contains a forecast."""
    filled = [forecasts for forecasts in bins if forecasts.weight > 0]
    if not filled:
        return None
    confidence, accuracy, weight = (
        np.array([getattr(forecasts, key) for forecasts in filled], dtype=np.float64)
        for key in ("confidence", "accuracy", "weight")
    )
    return Reliability(
        title=title,
        is_baseline=False,
        confidence=confidence,
        accuracy=accuracy,
        weight=weight,
        ece=float("nan") if ece is None else ece,
    )


# --- what the figures share ----------------------------------------------------------------


def finite(values: Sequence[float | None]) -> FloatArray:
    """The values with NaN for what no axis shows: None and infinities."""
    array = np.array([np.nan if x is None else x for x in values], dtype=np.float64)
    array[np.isinf(array)] = np.nan
    return array


class _DecadeTicks(NumberTicks):
    """Labels of a base-10 logarithm: the numbers themselves."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks."""
        return ticks([10.0**value for value in values])


def _powers_of_four(last: float) -> list[float]:
    return [0.0, *(4.0**k for k in range(int(np.log(max(last, 1.0)) / np.log(4)) + 1))]


def _from_zero(axes: Axes, values: FloatArray) -> None:
    """A y axis that begins at zero, unless something lies below."""
    known = values[np.isfinite(values)]
    axes.set_ylim(min(0.0, float(known.min())), 1.05 * max(float(known.max()), 1e-12))
