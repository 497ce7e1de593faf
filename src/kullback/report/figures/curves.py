"""Where in the window, at which confidence, how often how much: curves and distributions.

As in :mod:`kullback.report.figures.lab`, ``prepare_*`` picks plain arrays out of the results and
``plot_*`` draws them.  What a scale cannot show (no number, zero on a log axis) is left out of the
drawing.  Ink is a model by itself, vermilion the KL between two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from kullback.report.figures.reliability import Reliability
from kullback.report.numbers import count
from kullback.report.numbers import power_of_ten as _power_of_ten
from kullback.report.svg import LIGHT, house_style
from kullback.results.evaluation import Curve, Histogram, ReliabilityBin

__all__ = [
    "CurveData",
    "FloatArray",
    "HistogramData",
    "finite",
    "plain_ticks",
    "plot_curve",
    "plot_histogram",
    "power_of_ten",
    "prepare_curve",
    "prepare_histogram",
    "prepare_reliability",
]

FloatArray = NDArray[np.float64]

WIDTH = 6.6  # inches, as in the other figures


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
    found = CurveData(*(finite(getattr(curve, key)) for key in ("x", "mean", "low", "high")))
    return found if np.isfinite(found.mean).any() else None


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
        # A place between two without an interval has no band: it gets a bar of its own.
        axes.vlines(curve.x[known], curve.low[known], curve.high[known], LIGHT[colour], alpha=0.35)
        axes.plot(curve.x, curve.mean, "o-", color=LIGHT[colour], linewidth=1.5, markersize=3)
        if log_x:
            axes.set_xscale("symlog", linthresh=1.0, linscale=0.35)
            axes.set_xticks(_powers_of_four(float(np.nanmax(curve.x))))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
            axes.set_xlim(left=min(0.0, float(np.nanmin(curve.x))))
        else:
            axes.xaxis.set_major_formatter(plain_ticks())
        _from_zero(axes, np.concatenate([curve.mean, curve.high]))
        axes.yaxis.set_major_formatter(plain_ticks())
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

    >>> found = prepare_histogram(Histogram((0.0, 1.0, float("inf")), (0.75, 0.25)))
    >>> found.edges.tolist(), found.open_right
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
    """Shares of tokens; `marks` are places to point out, in the unit of the x axis."""
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
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: power_of_ten(x)))
        else:
            axes.xaxis.set_major_formatter(plain_ticks())
        axes.set_xlabel(x_label)
        axes.set_title("tokens, %")
        axes.grid(axis="y")
    return figure


def prepare_reliability(
    bins: Sequence[ReliabilityBin], ece: float | None, title: str = "the most probable token"
) -> Reliability | None:
    """A panel for `kullback.report.figures.lab.plot_reliability`; None where no bin is filled."""
    filled = [each for each in bins if each.weight > 0]
    if not filled:
        return None
    confidence, accuracy, weight = (
        np.array([getattr(each, key) for each in filled], dtype=np.float64)
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
    """Infinities too become NaN: no axis reaches them."""
    found = np.array([np.nan if x is None else x for x in values], dtype=np.float64)
    found[np.isinf(found)] = np.nan
    return found


def plain_ticks() -> FuncFormatter:
    """Tick labels without trailing zeros and without powers of ten in a corner."""
    return FuncFormatter(lambda value, _: _tick(value))


def _tick(value: float) -> str:
    mantissa, _, power = f"{value:.4g}".partition("e")
    text = mantissa.replace("-", "−")
    return f"{text} × {_power_of_ten(int(power))}" if power else text


def power_of_ten(exponent: float) -> str:
    """0.001 to 1000 as they are read, others as powers."""
    whole = round(exponent)
    if -3 <= whole <= 3:
        return f"{10.0**whole:g}"
    return _power_of_ten(whole)


def _powers_of_four(last: float) -> list[float]:
    return [0.0, *(4.0**k for k in range(int(np.log(max(last, 1.0)) / np.log(4)) + 1))]


def _from_zero(axes: Axes, values: FloatArray) -> None:
    """A y axis that begins at zero, unless something lies below."""
    known = values[np.isfinite(values)]
    axes.set_ylim(min(0.0, float(known.min())), 1.05 * max(float(known.max()), 1e-12))
