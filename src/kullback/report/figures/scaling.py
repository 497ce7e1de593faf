"""The figure of a ladder: rungs with intervals, the fitted curve, E's band, the exact entropy.

As in :mod:`kullback.report.figures.lab`, ``prepare_*`` picks arrays out of the result and
``plot_*`` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kullback.report.figures.axes import WIDTH, FloatArray, NumberTicks
from kullback.report.numbers import write_number
from kullback.report.svg import LIGHT, house_style
from kullback.results.scaling import Scaling

__all__ = ["ScalingCurve", "plot_scaling", "prepare_scaling"]

# Of x, beyond the last rung: where the curve is going.
BEYOND = 4.0
POINTS = 120


@dataclass(frozen=True)
class ScalingCurve:
    """Losses by x, and the law."""

    x_name: str
    x: FloatArray
    loss: FloatArray
    low: FloatArray
    high: FloatArray
    curve_x: FloatArray
    curve: FloatArray
    floor: float
    floor_low: float
    floor_high: float
    exact: float | None


def prepare_scaling(result: Scaling) -> ScalingCurve:
    """The rungs, and the curve from the first one to beyond the last."""
    x = np.array([result.x(rung) for rung in result.rungs], dtype=np.float64)
    ends = np.array([rung.loss_interval for rung in result.rungs], dtype=np.float64)
    curve_x = np.geomspace(x.min(), BEYOND * x.max(), POINTS)
    law = result.law
    low, high = law.floor_interval
    return ScalingCurve(
        x_name="training tokens" if result.vary == "data" else "parameters",
        x=x,
        loss=np.array([rung.loss for rung in result.rungs], dtype=np.float64),
        low=ends[:, 0],
        high=ends[:, 1],
        curve_x=curve_x,
        curve=law.floor + law.scale * curve_x**-law.exponent,
        floor=law.floor,
        floor_low=low,
        floor_high=high,
        exact=result.exact_entropy,
    )


def plot_scaling(data: ScalingCurve) -> Figure:
    """Loss against x, which is logarithmic."""
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.6))
        axes = figure.subplots()
        top = max(float(data.high.max()), float(data.curve.max()))
        # An interval of E that says nothing would flatten the losses: it is cut at the edge.
        axes.axhspan(
            max(data.floor_low, 0.0), min(data.floor_high, 1.08 * top), color=LIGHT["other"],
            alpha=0.15, linewidth=0, label="E, 95 %",
        )  # fmt: skip
        axes.axhline(data.floor, color=LIGHT["other"], linewidth=1.2, label="E")
        if data.exact is not None:
            axes.axhline(
                data.exact, color=LIGHT["entropy"], linewidth=1.4, linestyle=(0, (4, 3)),
                label="exact entropy",
            )  # fmt: skip
        axes.plot(data.curve_x, data.curve, color=LIGHT["muted"], linewidth=1.4, label="fit")
        axes.vlines(data.x, data.low, data.high, LIGHT["ink"], linewidth=1.6)
        axes.plot(data.x, data.loss, "o", color=LIGHT["ink"], markersize=4, label="rungs")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: write_number(x, 1)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        lowest = [data.floor, *([data.exact] if data.exact is not None else [])]
        lowest.append(max(data.floor_low, 0.0))
        axes.set_ylim(max(0.0, 0.95 * min(lowest)), 1.08 * top)
        axes.yaxis.set_major_formatter(NumberTicks())
        axes.set_xlabel(data.x_name)
        axes.set_title("cross-entropy, nats/token")
        axes.grid(axis="y")
        axes.legend(loc="upper right", ncols=2)
    return figure
