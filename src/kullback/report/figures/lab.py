"""Where did the nats go, in four figures: over time, over slots, over confidence, over bits?

Each figure is made in two steps.  ``prepare_*`` computes: it picks numbers out of a `LabResults`
and returns plain arrays, so that what is drawn can be tested without looking.  ``plot_*`` draws
them on a `matplotlib.figure.Figure` of its own: no window, no pyplot, no state that is shared.

One colour, one meaning, in every figure: blue is entropy, vermilion is KL, ink is the model and
purple the baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from kullback.report.escaping import visible
from kullback.report.figures.axes import NumberTicks
from kullback.report.numbers import byte_size, count, nats, percent
from kullback.report.svg import LIGHT, house_style
from kullback.results.lab import Evaluation, LabResults, Quantisation, headline_evaluation

__all__ = [
    "QuantisationSizes",
    "Reliability",
    "SlotShares",
    "TrainingCurve",
    "plot_quantisation",
    "plot_reliability",
    "plot_slots",
    "plot_training",
    "prepare_quantisation",
    "prepare_reliability",
    "prepare_slots",
    "prepare_training",
]

FloatArray = NDArray[np.float64]

_WIDTH = 6.6  # inches; 475 points, which a phone shows at about two thirds
_LARGEST_DOT = 260.0  # square points, for a bin that holds every prediction


# --- training ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingCurve:
    """What `plot_training` draws; nats per token, one entry a logged step."""

    steps: FloatArray
    batch_cross_entropy: FloatArray
    """The loss of each batch, with the luck of its sentences."""
    cross_entropy: FloatArray
    """The floor plus the live KL: the same loss with that luck taken out."""
    kl: FloatArray
    """The live KL; NaN where the estimate is not above zero, which a log axis cannot show."""
    kl_low: FloatArray
    kl_high: FloatArray
    floor: float
    log_vocabulary: float
    untrained: float
    final_kl: float


def prepare_training(results: LabResults) -> TrainingCurve | None:
    """The curve of a training run; None where nothing was logged.

    The loss of a batch is its true surprisal plus the live KL, and the first of these is luck.
    Put in its place what it is on average, the exact floor, and ``floor + KL`` remains: an estimate
    of the same cross-entropy with less variance (a control variate).
    """
    training, curve = results["training"], results["training"]["curve"]
    if not curve:
        return None
    kl = np.array([point["kl"] for point in curve], dtype=np.float64)
    error = np.array([point["kl_standard_error"] for point in curve], dtype=np.float64)
    return TrainingCurve(
        steps=np.array([point["step"] for point in curve], dtype=np.float64),
        batch_cross_entropy=np.array([point["cross_entropy"] for point in curve], dtype=np.float64),
        cross_entropy=training["floor"] + kl,
        kl=_above_zero(kl),
        kl_low=kl - error,
        kl_high=kl + error,
        floor=training["floor"],
        log_vocabulary=results["source"]["log_vocabulary_size"],
        untrained=training["untrained_cross_entropy"],
        final_kl=headline_evaluation(results)["kl"],
    )


def plot_training(curve: TrainingCurve) -> Figure:
    """Cross-entropy falling onto the exact floor, and below it the live KL on a log scale."""
    with house_style():
        figure = Figure(figsize=(_WIDTH, 5.2))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_descent(top, curve)
        _draw_live_kl(bottom, curve)
        bottom.set_xscale("symlog", linthresh=1.0, linscale=0.35)
        bottom.xaxis.set_major_locator(FixedLocator(_decades(float(curve.steps[-1]))))
        bottom.xaxis.set_minor_locator(NullLocator())
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda step, _: count(step)))
        bottom.set_xlim(0.0, 1.04 * float(curve.steps[-1]))
        bottom.set_xlabel("step (log scale)")
    return figure


def _draw_descent(axes: Axes, curve: TrainingCurve) -> None:
    steps = np.concatenate([[0.0], curve.steps])
    descent = np.concatenate([[curve.untrained], curve.cross_entropy])
    batches = np.concatenate([[curve.untrained], curve.batch_cross_entropy])
    highest = max(x for x in (curve.log_vocabulary, *descent, *batches) if np.isfinite(x))
    floor, ceiling = curve.floor, 1.08 * float(highest)
    axes.axhspan(0.0, floor, color=LIGHT["entropy"], alpha=0.16, linewidth=0)
    axes.fill_between(steps, floor, descent, color=LIGHT["kl"], alpha=0.13, linewidth=0)
    axes.axhline(floor, color=LIGHT["entropy"], linewidth=1.4)
    axes.axhline(curve.log_vocabulary, color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
    axes.plot(steps, batches, color=LIGHT["muted"], linewidth=0.8, alpha=0.6)
    axes.plot(steps, descent, color=LIGHT["ink"], linewidth=1.6)
    axes.plot([0.0], [curve.untrained], "o", color=LIGHT["ink"], markersize=5, clip_on=False)
    axes.set_ylim(0.0, ceiling)
    axes.set_title("cross-entropy, nats/token")
    _margin_label(axes, floor, f"entropy\n{nats(floor)}", LIGHT["entropy"])
    _margin_label(
        axes, curve.log_vocabulary, f"log V\n{nats(curve.log_vocabulary)}", LIGHT["muted"]
    )
    middle = (floor + curve.untrained) / 2
    place = axes.get_yaxis_transform()
    words = "KL: the model's to remove"
    axes.text(0.025, middle, words, color=LIGHT["kl"], transform=place, va="center")
    if floor > 0.08 * ceiling:
        words = "entropy: the world's"
        axes.text(0.025, floor / 2, words, color=LIGHT["entropy"], transform=place, va="center")


def _draw_live_kl(axes: Axes, curve: TrainingCurve) -> None:
    axes.set_yscale("log")
    shown = curve.kl[np.isfinite(curve.kl)]
    lowest = min([*shown.tolist(), *([curve.final_kl] if curve.final_kl > 0 else [])], default=1.0)
    low = np.maximum(curve.kl_low, lowest / 10)
    axes.fill_between(
        curve.steps, low, np.maximum(curve.kl_high, low), color=LIGHT["kl"], alpha=0.25, linewidth=0
    )
    axes.plot(curve.steps, curve.kl, color=LIGHT["kl"], linewidth=1.6)
    axes.set_ylim(bottom=lowest / 2)
    axes.grid(axis="y")
    if 0 < curve.final_kl < np.inf:
        last = float(curve.steps[-1])
        axes.plot(last, curve.final_kl, "D", color=LIGHT["ink"], markersize=5, clip_on=False)
        _margin_label(axes, curve.final_kl, f"evaluated\n{nats(curve.final_kl)}", LIGHT["ink"])
    axes.set_title("KL, live estimate ± standard error, nats/token (log scale)")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(NumberTicks())


# --- slots ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlotShares:
    """What `plot_slots` draws: nats of each slot in an average token, in sentence order."""

    slots: tuple[str, ...]
    entropy: FloatArray
    kl: FloatArray


def prepare_slots(evaluation: Evaluation) -> SlotShares | None:
    """Each slot's share of the entropy and of the KL per token; None where there are no slots.

    The share of slot s is ``tokens(s) / Σ tokens · value(s)``, so that the bars of all slots add up
    to the numbers of the evaluation.

    >>> slots = [
    ...     {"slot": "cue", "tokens_per_sentence": 1, "cross_entropy": 2, "entropy": 1, "kl": 1},
    ...     {"slot": "verb", "tokens_per_sentence": 3, "cross_entropy": 4, "entropy": 4, "kl": 0},
    ... ]
    >>> prepare_slots({"by_slot": slots}).entropy
    array([0.25, 3.  ])
    """
    slots = evaluation["by_slot"]
    if not slots:
        return None
    tokens = np.array([slot["tokens_per_sentence"] for slot in slots], dtype=np.float64)
    share = tokens / tokens.sum()
    return SlotShares(
        slots=tuple(visible(slot["slot"]) for slot in slots),
        entropy=share * np.array([slot["entropy"] for slot in slots]),
        kl=share * np.array([slot["kl"] for slot in slots]),
    )


def plot_slots(shares: SlotShares) -> Figure:
    """Entropy and KL stacked by slot, and the KL alone on its own scale."""
    rows = np.arange(len(shares.slots))
    with house_style():
        figure = Figure(figsize=(_WIDTH, 1.0 + 0.26 * len(rows)))
        both, alone = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        entropy = np.where(np.isfinite(shares.entropy), shares.entropy, 0.0)
        kl = np.where(np.isfinite(shares.kl), shares.kl, 0.0)
        both.barh(rows, entropy, height=0.7, color=LIGHT["entropy"], label="entropy")
        both.barh(rows, kl, left=entropy, height=0.7, color=LIGHT["kl"], label="KL on top")
        alone.barh(rows, kl, height=0.7, color=LIGHT["kl"])
        alone.axvline(0.0, color=LIGHT["rule"], linewidth=0.8)
        both.set_yticks(rows, shares.slots)
        both.invert_yaxis()
        both.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
        alone.tick_params(axis="y", length=0)
        both.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        alone.set_title("KL alone, magnified", color=LIGHT["kl"])
        for axes in (both, alone):
            axes.set_xlabel("share of a token, nats")
            axes.grid(axis="x")
            axes.locator_params(axis="x", nbins=4)
            axes.xaxis.set_major_formatter(NumberTicks())
    return figure


# --- calibration ---------------------------------------------------------------------------


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
    """One row of panels a language part, one panel a model; empty bins are left out."""
    name = headline_evaluation(results)["name"]
    rows = []
    for language in ("training", "held out"):
        panels = tuple(
            _reliability(evaluation, evaluation["name"] != name)
            for evaluation in results["evaluations"]
            if evaluation["language"] == language and evaluation["reliability"]
        )
        if panels:
            rows.append(panels)
    return tuple(rows)


def _reliability(evaluation: Evaluation, is_baseline: bool) -> Reliability:
    bins = [b for b in evaluation["reliability"] if b["weight"] > 0]
    return Reliability(
        title=f"{visible(evaluation['name'])}, {evaluation['language']}",
        is_baseline=is_baseline,
        confidence=np.array([b["confidence"] for b in bins], dtype=np.float64),
        accuracy=np.array([b["accuracy"] for b in bins], dtype=np.float64),
        weight=np.array([b["weight"] for b in bins], dtype=np.float64),
        ece=evaluation["ece"],
    )


def plot_reliability(
    rows: Sequence[Sequence[Reliability]],
    x_label: str = "confidence of the first guess",
    y_label: str = "how often it is right",
) -> Figure:
    """Accuracy against confidence: a dot for each bin (low, high], at the bin's means.

    Its area is the bin's weight, its stem the gap.
    """
    columns = max(len(row) for row in rows)
    with house_style():
        side = min(3.1, _WIDTH / columns)
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


# --- quantisation --------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantisationSizes:
    """What `plot_quantisation` draws: one entry a scheme, from small to large."""

    schemes: tuple[str, ...]
    sizes: FloatArray
    kl_original: FloatArray
    """KL(original‖quantised); NaN where it is zero, which a log axis cannot show."""
    kl_truth: FloatArray
    original_kl_truth: float


def prepare_quantisation(results: LabResults) -> QuantisationSizes | None:
    """KL against size; None where nothing was quantised.

    The original is the scheme whose KL from the original is exactly zero, if there is one;
    otherwise its KL from the truth is the one that was evaluated.
    """
    schemes: list[Quantisation] = sorted(results["quantisations"], key=lambda q: q["bytes"])
    if not schemes:
        return None
    originals = [q["kl_truth"] for q in schemes if q["kl_original"] == 0.0]
    return QuantisationSizes(
        schemes=tuple(visible(q["scheme"]) for q in schemes),
        sizes=np.array([q["bytes"] for q in schemes], dtype=np.float64),
        kl_original=_above_zero(np.array([q["kl_original"] for q in schemes], dtype=np.float64)),
        kl_truth=_above_zero(np.array([q["kl_truth"] for q in schemes], dtype=np.float64)),
        original_kl_truth=originals[-1] if originals else headline_evaluation(results)["kl"],
    )


def plot_quantisation(sizes: QuantisationSizes) -> Figure:
    """How far each scheme moves the model, and how far it then is from the truth."""
    with house_style():
        figure = Figure(figsize=(_WIDTH, 3.5))
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for kl, style, colour, label in (
            (sizes.kl_truth, "o-", LIGHT["kl"], "KL(truth‖quantised)"),
            (sizes.kl_original, "s--", LIGHT["other"], "KL(original‖quantised)"),
        ):
            axes.plot(sizes.sizes, kl, style, color=colour, label=label, clip_on=False)
        if 0 < sizes.original_kl_truth < np.inf:
            axes.axhline(
                sizes.original_kl_truth,
                color=LIGHT["ink"],
                linewidth=1.0,
                linestyle=(0, (1, 2)),
                label=f"KL(truth‖original) = {nats(sizes.original_kl_truth)}",
            )
        ticks = [
            f"{name}\n{byte_size(x)}" for name, x in zip(sizes.schemes, sizes.sizes, strict=True)
        ]
        axes.set_xticks(sizes.sizes.tolist(), ticks)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(NumberTicks())
        axes.tick_params(axis="x", labelcolor=LIGHT["ink"])
        axes.set_title("KL, nats/token (log scale), against the size of the weights (log scale)")
        axes.grid(axis="y")
        axes.legend(loc="upper right")
    return figure


# --- what the figures share ----------------------------------------------------------------


def _above_zero(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _decades(last: float) -> list[float]:
    """Zero, the powers of ten below `last`, and `last` itself where it stands clear of them."""
    decades = [10.0**k for k in range(int(np.floor(np.log10(max(last, 1.0)))) + 1)]
    crowded = last < 2 * decades[-1]
    return [0.0, *(decades[:-1] if crowded and len(decades) > 1 else decades), last]


def _margin_label(axes: Axes, height: float, text: str, colour: str) -> None:
    """A label in the right margin, level with a line."""
    axes.annotate(
        text,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        size=8,
        annotation_clip=False,
    )
