"""KL by candidate, layer and class of tokens.

``prepare_*`` picks arrays out of the results, ``plot_*`` draws them.  Vermilion is KL, purple the
sums of parts, which are the KL of no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from kullback.report.figures.axes import WIDTH, FloatArray, NumberTicks
from kullback.report.figures.curves import finite
from kullback.report.numbers import byte_size
from kullback.report.svg import LIGHT, house_style
from kullback.results.comparison import LayerSensitivity, RankedCandidate
from kullback.results.measurement import Measurement
from kullback.runtime.escaping import visible

__all__ = [
    "Bars",
    "CandidateSizes",
    "plot_bars",
    "plot_candidates",
    "plot_layers",
    "prepare_candidates",
    "prepare_classes",
    "prepare_layers",
]

_MOST_BARS = 40  # more would not fit a screen; the table has them all
_LONGEST_LABEL = 36


# --- parts: classes of tokens, layers ------------------------------------------------------


@dataclass(frozen=True)
class Bars:
    """Values with intervals by name; NaN where there is none."""

    names: tuple[str, ...]
    value: FloatArray
    low: FloatArray
    high: FloatArray
    left_out: int = 0
    """Further parts that the figure has no room for."""


def prepare_classes(classes: Mapping[str, Measurement]) -> Bars | None:
    """KL by class of token, the costliest first; None where there is no finite one."""
    ordered = sorted(classes.items(), key=lambda item: -_or_nan(item[1].value, -np.inf))
    return _bars(ordered)


def prepare_layers(layers: Sequence[LayerSensitivity]) -> Bars | None:
    """KL by layer in the order given; None where there is no finite one."""
    return _bars([(_short(layer.layer), layer.kl) for layer in layers])


def _bars(parts: Sequence[tuple[str, Measurement]]) -> Bars | None:
    shown = parts[:_MOST_BARS]
    value = finite([kl.value for _, kl in shown])
    if not np.isfinite(value).any():
        return None
    ends = finite([end for _, kl in shown for end in kl.interval])
    names = tuple(visible(name) for name, _ in shown)
    return Bars(names, value, ends[::2], ends[1::2], len(parts) - len(shown))


def plot_bars(bars: Bars) -> Figure:
    """A bar for each part, with its interval."""
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.24 * len(bars.names)))
        _draw_bars(figure.subplots(), bars, LIGHT["kl"])
    return figure


def plot_layers(bars: Bars, total: float | None, together: float | None) -> Figure:
    """A bar for each layer; below, on a scale of their own, their sum and all together."""
    pair = {"sum of the groups": total, "all together": together}
    known = {name: x for name, x in pair.items() if x is not None and np.isfinite(x)}
    if not known:
        return plot_bars(bars)
    rows = len(bars.names)
    none = np.full(len(known), np.nan)
    with house_style():
        figure = Figure(figsize=(WIDTH, 1.7 + 0.24 * (rows + len(known))))
        top, bottom = figure.subplots(2, 1, height_ratios=(rows, len(known) + 0.4))
        _draw_bars(top, bars, LIGHT["kl"])
        both = Bars(tuple(known), np.array(list(known.values())), none, none)
        _draw_bars(bottom, both, LIGHT["other"])
    return figure


def _draw_bars(axes: Axes, bars: Bars, colour: str) -> None:
    rows = np.arange(len(bars.names))
    axes.barh(rows, np.nan_to_num(bars.value), height=0.66, color=colour)
    known = np.isfinite(bars.low) & np.isfinite(bars.high)
    axes.hlines(rows[known], bars.low[known], bars.high[known], color=LIGHT["ink"], linewidth=1.1)
    axes.set_yticks(rows, bars.names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    largest = np.nanmax(np.concatenate([bars.value, bars.high]))
    axes.set_xlim(min(0.0, float(np.nanmin(bars.value))), 1.03 * max(float(largest), 1e-12))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(NumberTicks())
    axes.set_xlabel("KL, nats/token")
    axes.grid(axis="x")


# --- size against KL -----------------------------------------------------------------------


@dataclass(frozen=True)
class CandidateSizes:
    """One entry for each candidate that both log axes can show, from small to large."""

    names: tuple[str, ...]
    sizes: FloatArray
    kl: FloatArray
    low: FloatArray
    """NaN where the interval is unknown or not above zero."""
    high: FloatArray
    on_front: NDArray[np.bool_]
    left_out: tuple[str, ...]
    """Candidates whose KL is zero, infinite or unknown, or whose size is unknown."""


def prepare_candidates(
    ranked: Sequence[RankedCandidate], short: Mapping[str, str]
) -> CandidateSizes | None:
    """KL against size, under short names; None where no candidate has a KL above zero."""
    ordered = sorted(ranked, key=lambda candidate: candidate.size_bytes or 0)
    kl = finite([candidate.kl.value for candidate in ordered])
    sizes = np.array([candidate.size_bytes or 0 for candidate in ordered], dtype=np.float64)
    shown = np.flatnonzero((kl > 0) & (sizes > 0))
    if not len(shown):
        return None
    names = [_short(short[candidate.name]) for candidate in ordered]
    ends = finite([end for candidate in ordered for end in candidate.kl.interval])
    ends[~(ends > 0)] = np.nan
    return CandidateSizes(
        names=tuple(names[i] for i in shown),
        sizes=sizes[shown],
        kl=kl[shown],
        low=ends[::2][shown],
        high=ends[1::2][shown],
        on_front=np.array([ordered[i].dominated_by is None for i in shown], dtype=np.bool_),
        left_out=tuple(names[i] for i in range(len(names)) if i not in shown),
    )


def plot_candidates(candidates: CandidateSizes) -> Figure:
    """KL against size, both on log scales, with the Pareto front as a staircase."""
    front = candidates.on_front
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.6))
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        # Between two candidates of the front the nearer is not to be had: steps, not slopes.
        axes.step(
            candidates.sizes[front], candidates.kl[front], where="post", color=LIGHT["kl"],
            linewidth=1.1, alpha=0.6,
        )  # fmt: skip
        known = np.isfinite(candidates.low) & np.isfinite(candidates.high)
        low, high = candidates.low[known], candidates.high[known]
        axes.vlines(candidates.sizes[known], low, high, color=LIGHT["muted"])
        for here, face, label in (
            (front, LIGHT["kl"], "on the Pareto front"),
            (~front, LIGHT["paper"], "dominated: another is smaller and nearer"),
        ):
            if here.any():
                axes.plot(
                    candidates.sizes[here], candidates.kl[here], "o", color=LIGHT["kl"],
                    markerfacecolor=face, markersize=6, label=label,
                )  # fmt: skip
        middle = np.sqrt(candidates.sizes.min() * candidates.sizes.max())
        for name, x, y in zip(candidates.names, candidates.sizes, candidates.kl, strict=True):
            left = x > middle
            axes.annotate(
                name, (x, y), xytext=(-7 if left else 7, 5), textcoords="offset points",
                ha="right" if left else "left", size=8,
            )  # fmt: skip
        _scale(axes, candidates)
        if not front.all():
            axes.legend(loc="lower left")  # nothing is smaller and nearer than the front
    return figure


def _scale(axes: Axes, candidates: CandidateSizes) -> None:
    """Limits, ticks and labels of both axes."""
    ends = np.concatenate([candidates.kl, candidates.low, candidates.high])
    axes.set_xlim(*_log_limits(candidates.sizes, 1.5))
    axes.set_ylim(*_log_limits(ends[np.isfinite(ends)], 10.0))
    ticks = _apart(candidates.sizes)
    axes.set_xticks(ticks, [byte_size(x) for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if high < 100 * low:  # decades alone would be one tick or two
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(NumberTicks())
    axes.set_xlabel("size of the weights (log scale)")
    axes.set_title("KL, nats/token (log scale)")
    axes.grid(axis="y")


def _or_nan(value: float, otherwise: float) -> float:
    return otherwise if np.isnan(value) else value


def _short(name: str) -> str:
    """The end of a long name, which tells layers and candidates apart."""
    return name if len(name) <= _LONGEST_LABEL else f"…{name[1 - _LONGEST_LABEL :]}"


def _log_limits(values: FloatArray, least: float) -> tuple[float, float]:
    """Limits of a log axis that leave some room, and span a factor of `least` or more."""
    low, high = float(values.min()), float(values.max())
    room = max((high / low) ** 0.1, (least * low / high) ** 0.5, 1.05)
    return low / room, high * room


def _apart(sizes: FloatArray) -> list[float]:
    """Those of the sizes that labels on a log axis do not overlap at."""
    kept: list[float] = []
    room = np.log(sizes.max() / sizes.min()) / 7
    for size in sorted(set(sizes.tolist())):
        if not kept or np.log(size / kept[-1]) > room:
            kept.append(size)
    return kept
