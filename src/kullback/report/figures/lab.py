"""Figures of a lab: the training curve, entropy and KL by slot, and KL against size.

Each figure is made in two steps.  ``prepare_*`` picks numbers out of a `LabResults` and returns
arrays, so that what is drawn can be tested without looking.  ``plot_*`` draws them on a
`matplotlib.figure.Figure` of its own: no window, no pyplot, no shared state.

A colour has the same meaning in every figure: blue is entropy, vermilion is KL, ink is the model
and purple the baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kullback.report.figures.axes import WIDTH, FloatArray, NumberTicks
from kullback.report.numbers import byte_size, count, nats
from kullback.report.svg import LIGHT, house_style
from kullback.results.lab import LabResults, Quantisation
from kullback.results.source import SlotLoss
from kullback.runtime.escaping import visible

__all__ = [
    "QuantisationSizes",
    "SlotShares",
    "TrainingCurve",
    "plot_quantisation",
    "plot_slots",
    "plot_training",
    "prepare_quantisation",
    "prepare_slots",
    "prepare_training",
]


# --- training ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingCurve:
    """What `plot_training` draws; nats per token, an entry for each logged step."""

    steps: FloatArray
    batch_cross_entropy: FloatArray
    """The loss of each batch, with the noise of its sentences."""
    cross_entropy: FloatArray
    """The floor plus the live KL: the same loss without that noise."""
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

    The loss of a batch is its true surprisal plus the live KL.  The true surprisal depends on which
    sentences were drawn; replaced by its mean, the exact floor, it leaves ``floor + KL``: an
    estimate of the same cross-entropy with less variance (a control variate).
    """
    training, curve = results.training, results.training.curve
    if not curve:
        return None
    kl = np.array([point.kl for point in curve], dtype=np.float64)
    error = np.array([point.kl_standard_error for point in curve], dtype=np.float64)
    return TrainingCurve(
        steps=np.array([point.step for point in curve], dtype=np.float64),
        batch_cross_entropy=np.array([point.cross_entropy for point in curve], dtype=np.float64),
        cross_entropy=training.floor + kl,
        kl=_above_zero(kl),
        kl_low=kl - error,
        kl_high=kl + error,
        floor=training.floor,
        log_vocabulary=results.source.log_vocabulary_size,
        untrained=training.untrained_cross_entropy,
        final_kl=results.headline.kl.value,
    )


def plot_training(curve: TrainingCurve) -> Figure:
    """Cross-entropy falling onto the exact floor, and below it the live KL on a log scale."""
    with house_style():
        figure = Figure(figsize=(WIDTH, 5.2))
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
    words = "KL: the excess of the model"
    axes.text(0.025, middle, words, color=LIGHT["kl"], transform=place, va="center")
    if floor > 0.08 * ceiling:
        words = "entropy of the language"
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


def prepare_slots(slots: Sequence[SlotLoss]) -> SlotShares | None:
    """Each slot's share of the entropy and of the KL per token; None where there are no slots.

    The share of slot s is ``tokens(s) / Σ tokens · value(s)``, so that the bars of all slots add up
    to the numbers of the evaluation.

    >>> verb = SlotLoss(slot="verb", tokens_per_sentence=3, cross_entropy=4, entropy=4, kl=0)
    >>> cue = SlotLoss(slot="cue", tokens_per_sentence=1, cross_entropy=2, entropy=1, kl=1)
    >>> prepare_slots([cue, verb]).entropy
    array([0.25, 3.  ])
    """
    if not slots:
        return None
    tokens = np.array([slot.tokens_per_sentence for slot in slots], dtype=np.float64)
    share = tokens / tokens.sum()
    return SlotShares(
        slots=tuple(visible(slot.slot) for slot in slots),
        entropy=share * np.array([slot.entropy for slot in slots]),
        kl=share * np.array([slot.kl for slot in slots]),
    )


def plot_slots(shares: SlotShares) -> Figure:
    """Entropy and KL stacked by slot, and the KL alone on its own scale."""
    rows = np.arange(len(shares.slots))
    with house_style():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.26 * len(rows)))
        both, alone = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        entropy = np.where(np.isfinite(shares.entropy), shares.entropy, 0.0)
        kl = np.where(np.isfinite(shares.kl), shares.kl, 0.0)
        both.barh(rows, entropy, height=0.7, color=LIGHT["entropy"], label="entropy")
        both.barh(rows, kl, left=entropy, height=0.7, color=LIGHT["kl"], label="KL")
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


# --- quantisation --------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantisationSizes:
    """What `plot_quantisation` draws: an entry for each scheme, from small to large."""

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
    schemes: list[Quantisation] = sorted(results.quantisations, key=lambda q: q.bytes)
    if not schemes:
        return None
    originals = [q.kl_truth for q in schemes if q.kl_original == 0.0]
    return QuantisationSizes(
        schemes=tuple(visible(q.scheme) for q in schemes),
        sizes=np.array([q.bytes for q in schemes], dtype=np.float64),
        kl_original=_above_zero(np.array([q.kl_original for q in schemes], dtype=np.float64)),
        kl_truth=_above_zero(np.array([q.kl_truth for q in schemes], dtype=np.float64)),
        original_kl_truth=originals[-1] if originals else results.headline.kl.value,
    )


def plot_quantisation(sizes: QuantisationSizes) -> Figure:
    """KL from the original and KL from the truth, against the size of the weights."""
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.5))
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


# --- shared --------------------------------------------------------------------------------


def _above_zero(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _decades(last: float) -> list[float]:
    """Zero, the powers of ten below `last`, and `last` itself where it is not too near to them."""
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
