"""The HTML report of an evaluation on text: one file that loads nothing."""

from __future__ import annotations

from kullback.report.figures.curves import (
    plot_curve,
    plot_histogram,
    prepare_curve,
    prepare_histogram,
    prepare_reliability,
)
from kullback.report.figures.reliability import plot_reliability
from kullback.report.html.environment import render
from kullback.report.html.parts import (
    Figures,
    draw,
    finite_value,
    measure_rows,
    methods_of,
    protocol_parts,
)
from kullback.report.html.passages import beginning
from kullback.report.labels import measure
from kullback.report.numbers import write, write_number
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement

__all__ = ["render_evaluation"]

_HEADLINE = {"bits_per_byte": "", "cross_entropy": ", nats/token", "perplexity": ""}


def render_evaluation(result: Evaluation) -> str:
    """The report as HTML."""
    measures = result.measures
    histogram = prepare_histogram(result.nll_histogram)
    figures = _figures(result)
    text = beginning([result.passages], models=1)
    sections = (
        ("measures", "Measures", True),
        ("position", "Position in the window", "position" in figures),
        ("distribution", "Distribution of the nll", "distribution" in figures),
        ("reliability", "Calibration", "reliability" in figures),
        ("text", "Token by token", bool(text.passages)),
        ("protocol", "Protocol", True),
    )
    return render(
        "evaluation.html.jinja",
        draw(figures),
        result=result,
        headline=[
            (measure(name).label + unit, write(measures[name], measure(name)), _why(measures[name]))
            for name, unit in _HEADLINE.items()
            if name in measures
        ],
        sections=[(anchor, title) for anchor, title, present in sections if present],
        rows=measure_rows(measures),
        methods=methods_of(measures),
        parts=protocol_parts(result.protocol),
        distribution_open=histogram is not None and histogram.open_right,
        text=text,
    )


def _why(measured: Measurement) -> str:
    """Why there is no interval, without what to do."""
    return measured.note.partition(";")[0] or "no interval"


def _figures(result: Evaluation) -> Figures:
    """The figures by name; those without data are left out."""
    figures: Figures = {}
    measures = result.measures
    if (curve := prepare_curve(result.nll_by_position)) is not None:
        figure = plot_curve(curve, "ink", "tokens before it in the window", True, "nll, nats/token")
        figures["position"] = figure, "Mean nll of a token against its position in the window."
    if (histogram := prepare_histogram(result.nll_histogram)) is not None:
        mean = finite_value(measures, "cross_entropy")
        marks = {} if mean is None else {f"mean {write_number(mean)}": mean}
        figure = plot_histogram(histogram, "muted", "nll of a token, nats", marks=marks)
        figures["distribution"] = figure, "The share of tokens by their nll."
    panels = [
        prepare_reliability(result.reliability, finite_value(measures, "ece"), "top-1 token"),
        prepare_reliability(
            result.target_reliability, finite_value(measures, "target_ece"), "target token"
        ),
    ]
    if known := [panel for panel in panels if panel is not None]:
        figure = plot_reliability([known], "expected probability", "observed")
        figures["reliability"] = figure, "Observed frequency or probability against the expected."
    return figures
