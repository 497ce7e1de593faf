"""How do an evaluation on text, and comparisons of models or of files, become one page each?

A page is one file that loads nothing, as that of a lab run is (:mod:`kullback.report.html.lab`),
with its figures inside.  Whatever comes from a text, a model or a command line is made visible
(:mod:`kullback.report.escaping`) and escaped; only the figures, made here, are markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from kullback.report.escaping import visible
from kullback.report.figures.comparison import (
    plot_bars,
    plot_parts_and_whole,
    plot_schemes,
    prepare_classes,
    prepare_layers,
    prepare_schemes,
)
from kullback.report.figures.curves import (
    plot_curve,
    plot_histogram,
    prepare_curve,
    prepare_histogram,
    prepare_reliability,
)
from kullback.report.figures.reliability import plot_reliability
from kullback.report.html.environment import render
from kullback.report.labels import NOT_ABOVE, NOT_ABOVE_MEANS, measure
from kullback.report.names import short_names
from kullback.report.numbers import Written, write, write_number
from kullback.report.svg import to_svg
from kullback.report.verdict import comparison_verdict
from kullback.results.comparison import Comparison, RankedCandidate
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement

__all__ = [
    "MOVED_NOT_WORSE",
    "render_comparison_report",
    "render_stored_report",
    "render_text_report",
]

MOVED_NOT_WORSE = (
    "KL says how far the candidate moved from the reference, not that it is worse; "
    "ΔCE says how much worse it predicts this text."
)
_HEADLINE = {
    "bits_per_byte": "bits/byte",
    "cross_entropy": "nats/token",
    "perplexity": "perplexity",
}

Figures = Mapping[str, tuple[Figure, str]]


def render_text_report(result: Evaluation) -> str:
    """The page of an evaluation on text, as HTML."""
    measures = result.measures
    histogram = prepare_histogram(result.nll_histogram)
    return _render(
        "evaluation.html.jinja",
        _text_figures(result),
        result=result,
        headline=[
            {"name": name, "written": write(measures[key])}
            for key, name in _HEADLINE.items()
            if key in measures
        ],
        measures=_rows(measures),
        methods=_methods(measures),
        parts=_parts(result.protocol),
        distribution_open=histogram is not None and histogram.open_right,
    )


def render_comparison_report(result: Comparison) -> str:
    """The page of a comparison, as HTML."""
    if result.kind != "models":
        return render_stored_report(result)
    first = result.candidates[0]
    measures = first.measures
    return _render(
        "comparison.html.jinja",
        _comparison_figures(result),
        result=result,
        candidate=first,
        verdict=comparison_verdict(result),
        kl=write(measures["kl"]) if "kl" in measures else None,
        noise=[(visible(name), write(each)) for name, each in result.noise_floor.items()],
        moved=MOVED_NOT_WORSE,
        measures=_rows(measures),
        methods=_methods(measures),
        parts=_parts(first.operand.protocol),
        # Said at the top already.
        notes=[note for note in result.notes if note.rstrip(".") != MOVED_NOT_WORSE[:-1]],
        schemes=_scheme_rows(result.ranked),
        not_above=f"{NOT_ABOVE} {NOT_ABOVE_MEANS}.",
        left_out=", ".join(_without_place(result.ranked)),
        layers=[
            (visible(each.layer), write(each.kl), each.bytes_saved) for each in result.sensitivity
        ],
        layers_left_out=_left_out(result),
        sum=result.sensitivity_sum,
        whole=result.sensitivity_whole,
    )


def render_stored_report(result: Comparison) -> str:
    """The page of a comparison of what is on disk, or by bytes, as HTML."""
    first = result.candidates[0]
    measures = first.measures
    operands = (("reference", result.reference), ("candidate", first.operand))
    return _render(
        "stored.html.jinja",
        {},
        result=result,
        candidate=first,
        measures=_rows(measures),
        methods=_methods(measures),
        origins=[
            (name, operand.fingerprint, _parts(operand.protocol))
            for name, operand in operands
            if operand.fingerprint
        ],
        printed=[visible(line) for line in result.llama_cpp.splitlines()],
    )


# --- what the pages are made of ------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A line of the table of measures."""

    label: str
    meaning: str
    written: Written


def _rows(measures: Mapping[str, Measurement]) -> list[_Row]:
    rows = []
    for name, measured in measures.items():
        how = measure(name)
        rows.append(_Row(visible(how.label), how.meaning, write(measured, how)))
    return rows


def _methods(measures: Mapping[str, Measurement]) -> list[tuple[str, str]]:
    """The methods that occur, each with the measures that it is of."""
    labels: dict[str, list[str]] = {}
    for name, measured in measures.items():
        if measured.method:
            labels.setdefault(measured.method, []).append(visible(measure(name).label))
    return [(", ".join(names), visible(method)) for method, names in labels.items()]


def _parts(protocol: Mapping[str, object], before: str = "") -> list[tuple[str, str]]:
    """The parts of a protocol and their parts, by dotted name."""
    parts: list[tuple[str, str]] = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            parts += _parts(value, f"{before}{name}.")
        else:
            parts.append((visible(f"{before}{name}"), _plain(value)))
    return parts


def _plain(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return visible(str(value))


@dataclass(frozen=True)
class _SchemeRow:
    """A line of the table of schemes."""

    name: str
    bytes: int | None
    kl: Written
    change: Written
    agreement: Written
    on_front: bool
    mark: str


def _scheme_rows(schemes: Sequence[RankedCandidate]) -> list[_SchemeRow]:
    names = short_names([scheme.name for scheme in schemes])
    return [
        _SchemeRow(
            name,
            scheme.size_bytes,
            write(scheme.kl, measure("kl")),
            write(scheme.delta_cross_entropy, measure("delta_cross_entropy")),
            write(scheme.top1_agreement, measure("top1_agreement")),
            scheme.on_pareto_front,
            NOT_ABOVE if scheme.above_noise is False else "",
        )
        for name, scheme in zip(names, schemes, strict=True)
    ]


def _without_place(schemes: Sequence[RankedCandidate]) -> tuple[str, ...]:
    found = prepare_schemes(schemes)
    return found.left_out if found else ()


def _left_out(result: Comparison) -> int:
    found = prepare_layers(result.sensitivity)
    return found.left_out if found else 0


# --- the figures ---------------------------------------------------------------------------


def _text_figures(result: Evaluation) -> Figures:
    found: dict[str, tuple[Figure, str]] = {}
    if (curve := prepare_curve(result.nll_by_position)) is not None:
        figure = plot_curve(
            curve, "ink", "tokens read before it in the window", True, "nll, nats/token"
        )
        found["position"] = figure, "Mean nll of a token against its position in the window."
    if (histogram := prepare_histogram(result.nll_histogram)) is not None:
        mean = _value(result.measures, "cross_entropy")
        marks = {} if mean is None else {f"mean {write_number(mean)}": mean}
        figure = plot_histogram(histogram, "muted", "nll of a token, nats", marks=marks)
        found["distribution"] = figure, "The share of tokens by their nll."
    measures = result.measures
    panels = [
        prepare_reliability(result.reliability, _value(measures, "ece")),
        prepare_reliability(
            result.target_reliability, _value(measures, "target_ece"), "the target token"
        ),
    ]
    if drawn := [panel for panel in panels if panel is not None]:
        figure = plot_reliability([drawn], "expected probability", "how often, or how much, it is")
        found["reliability"] = figure, "What the model expects, against what it turns out to be."
    return found


def _comparison_figures(result: Comparison) -> Figures:
    first = result.candidates[0]
    found: dict[str, tuple[Figure, str]] = {}
    histogram = first.kl_histogram
    if histogram is not None and (shares := prepare_histogram(histogram, trim=True)) is not None:
        places = {
            "mean": _value(first.measures, "kl"),
            "median": first.kl_quantiles.get("median"),
        }
        marks = {
            f"{name} {write_number(kl, 2)}": math.log10(kl)
            for name, kl in places.items()
            if kl is not None and 0 < kl < math.inf
        }
        label = "KL of a token, nats (log scale)"
        figure = plot_histogram(shares, "kl", label, decades=True, marks=marks)
        found["distribution"] = figure, "The share of tokens by the logarithm of their KL."
    if first.kl_by_position and (curve := prepare_curve(first.kl_by_position)) is not None:
        figure = plot_curve(
            curve, "kl", "tokens read before it in the window", True, "KL, nats/token"
        )
        found["position"] = figure, "Mean KL of a token against its position in the window."
    if first.kl_by_confidence and (curve := prepare_curve(first.kl_by_confidence)) is not None:
        figure = plot_curve(
            curve, "kl", "probability of the reference's top-1 token", False, "KL, nats/token"
        )
        found["confidence"] = figure, "Mean KL against the confidence of the reference."
    if (classes := prepare_classes(first.kl_by_token_class)) is not None:
        found["classes"] = plot_bars(classes), "Mean KL by class of token."
    if (schemes := prepare_schemes(result.ranked)) is not None:
        found["schemes"] = plot_schemes(schemes), "KL against the size of the weights."
    if (layers := prepare_layers(result.sensitivity)) is not None:
        figure = plot_parts_and_whole(layers, result.sensitivity_sum, result.sensitivity_whole)
        found["layers"] = figure, "KL when one group of layers is quantised alone."
    return found


def _value(measures: Mapping[str, Measurement], name: str) -> float | None:
    """A measure's value; None where it is not there or no finite number."""
    value = measures[name].value if name in measures else None
    return value if value is not None and math.isfinite(value) else None


# --- the template --------------------------------------------------------------------------


def _render(template: str, figures: Figures, **values: object) -> str:
    svgs = {name: to_svg(figure, name, words) for name, (figure, words) in figures.items()}
    return render(template, svgs, **values)
