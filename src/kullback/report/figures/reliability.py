"""Reliability diagrams: accuracy against confidence, a panel for each model.

``prepare_reliability`` picks arrays out of the results, ``plot_reliability`` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kullback.report.figures.axes import WIDTH, FloatArray
from kullback.report.numbers import percent
from kullback.report.svg import LIGHT, house_style
from kullback.results.lab import LabResults
from kullback.results.source import PartEvaluation
from kullback.runtime.escaping import visible

__all__ = ["Reliability", "plot_reliability", "prepare_reliability"]

_LARGEST_DOT = 260.0  # square points, for a bin that holds every prediction


@dataclass(frozen=True)
class Reliability:
    """One panel of `plot_reliability`."""

    title: str
    is_baseline: bool
    confidence: FloatArray
    accuracy: FloatArray
    weight: FloatArray
    ece: float


def prepare_reliability(results: LabResults) -> tuple[tuple[Reliability, ...], ...]:
    """A row of panels for each part of the language, a panel for each model; without empty bins."""
    name = results.headline.name
    rows = []
    for language in ("training", "held out"):
        panels = tuple(
            _reliability(evaluation, evaluation.name != name)
            for evaluation in results.evaluations
            if evaluation.language == language and evaluation.reliability
        )
        if panels:
            rows.append(panels)
    return tuple(rows)


def _reliability(evaluation: PartEvaluation, is_baseline: bool) -> Reliability:
    bins = [b for b in evaluation.reliability if b.weight > 0]
    return Reliability(
        title=f"{visible(evaluation.name)}, {evaluation.language}",
        is_baseline=is_baseline,
        confidence=np.array([b.confidence for b in bins], dtype=np.float64),
        accuracy=np.array([b.accuracy for b in bins], dtype=np.float64),
        weight=np.array([b.weight for b in bins], dtype=np.float64),
        ece=evaluation.ece,
    )


def plot_reliability(
    rows: Sequence[Sequence[Reliability]],
    x_label: str = "confidence",
    y_label: str = "top-1 accuracy",
) -> Figure:
    """Accuracy against confidence: a dot for each bin (low, high], at the bin's means.

    Its area is the bin's weight, its stem the gap.
    """
    columns = max(len(row) for row in rows)
    with house_style():
        side = min(3.1, WIDTH / columns)
        figure = Figure(figsize=(side * columns, (side + 0.15) * len(rows)))
        grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
        for row, axes_row in zip(rows, grid, strict=True):
            for axes in axes_row[len(row) :]:
                axes.set_visible(False)
            for panel, axes in zip(row, axes_row, strict=False):
                _draw_reliability(axes, panel)
        for axes in grid[-1]:
            axes.set_xlabel(x_label)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
    return figure


def _draw_reliability(axes: Axes, panel: Reliability) -> None:
    colour = LIGHT["other"] if panel.is_baseline else LIGHT["ink"]
    axes.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
    axes.vlines(
        panel.confidence, panel.confidence, panel.accuracy, color=LIGHT["kl"], linewidth=1.4
    )
    area = np.maximum(_LARGEST_DOT * panel.weight, 5.0)
    axes.scatter(
        panel.confidence,
        panel.accuracy,
        s=area,
        color=colour,
        alpha=0.75,
        linewidth=0,
        clip_on=False,
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    quarters = np.linspace(0, 1, 5).tolist(), ["0", "¼", "½", "¾", "1"]
    axes.set_xticks(*quarters)
    axes.set_yticks(*quarters)
    axes.grid()
    axes.set_title(f"{panel.title}\nECE {percent(panel.ece)}", color=colour)
