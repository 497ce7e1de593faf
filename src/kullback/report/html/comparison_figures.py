"""The figures of a comparison: of all candidates, and of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kullback.report.figures.comparison import (
    plot_bars,
    plot_candidates,
    plot_layers,
    prepare_candidates,
    prepare_classes,
    prepare_layers,
)
from kullback.report.figures.curves import (
    plot_curve,
    plot_histogram,
    prepare_curve,
    prepare_histogram,
)
from kullback.report.html.parts import Figures, finite_value
from kullback.report.numbers import write_number
from kullback.results.comparison import CandidateComparison, Comparison

__all__ = ["ComparisonFigures", "candidate_figures", "comparison_figures"]


@dataclass(frozen=True)
class ComparisonFigures:
    """Figures of all candidates, and what they have no room for."""

    figures: Figures
    left_out: tuple[str, ...]
    """Candidates that a logarithmic scale cannot show."""
    layers_left_out: int


def comparison_figures(result: Comparison, names: Mapping[str, str]) -> ComparisonFigures:
    """``candidates``, KL against size, and ``layers``, where there is something to draw."""
    figures: Figures = {}
    candidates = prepare_candidates(result.ranked, names)
    if candidates is not None:
        figures["candidates"] = plot_candidates(candidates), "KL against the size of the weights."
    layers = prepare_layers(result.sensitivity)
    if layers is not None:
        figure = plot_layers(layers, result.sensitivity_sum, result.sensitivity_whole)
        figures["layers"] = figure, "KL when one group of layers is quantised alone."
    return ComparisonFigures(
        figures,
        () if candidates is None else candidates.left_out,
        0 if layers is None else layers.left_out,
    )


def candidate_figures(candidate: CandidateComparison, number: int) -> Figures:
    """The figures of one candidate under names that end in its number; none if it is identical."""
    figures: Figures = {}
    if candidate.identical:
        return figures
    if candidate.kl_histogram is not None:
        _add_distribution(figures, candidate, f"distribution-{number}")
    label = "KL, nats/token"
    if candidate.kl_by_position is not None:
        curve = prepare_curve(candidate.kl_by_position)
        if curve is not None:
            figure = plot_curve(curve, "kl", "tokens before it in the window", True, label)
            words = "Mean KL of a token against its position in the window."
            figures[f"position-{number}"] = figure, words
    if candidate.kl_by_confidence is not None:
        curve = prepare_curve(candidate.kl_by_confidence)
        if curve is not None:
            figure = plot_curve(curve, "kl", "top-1 probability of the reference", False, label)
            words = "Mean KL against the top-1 probability of the reference."
            figures[f"confidence-{number}"] = figure, words
    if (classes := prepare_classes(candidate.kl_by_token_class)) is not None:
        figures[f"classes-{number}"] = plot_bars(classes), "Mean KL by class of token."
    return figures


def _add_distribution(figures: Figures, candidate: CandidateComparison, name: str) -> None:
    assert candidate.kl_histogram is not None
    histogram = prepare_histogram(candidate.kl_histogram, trim=True)
    if histogram is None:
        return
    values = {
        "mean": finite_value(candidate.measures, "kl"),
        "median": candidate.kl_quantiles.get("median"),
    }
    marks = {
        f"{label} {write_number(kl, 2)}": math.log10(kl)
        for label, kl in values.items()
        if kl is not None and 0 < kl < math.inf
    }
    label = "KL of a token, nats (log scale)"
    figure = plot_histogram(histogram, "kl", label, decades=True, marks=marks)
    words = "The share of tokens by the logarithm of their KL."
    if histogram.open_left:
        words += " The first bar contains all that is smaller, and 0."
    if histogram.open_right:
        words += " The last bar contains all that is larger, and infinity."
    figures[name] = figure, words
