"""Parts of the HTML reports of an evaluation and of a comparison: rows, protocols, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from kullback.report.labels import measure
from kullback.report.numbers import Written, write
from kullback.report.svg import to_svg
from kullback.results.measurement import Measurement
from kullback.runtime.escaping import visible

__all__ = [
    "Figures",
    "MeasureRow",
    "draw",
    "finite_value",
    "measure_rows",
    "methods_of",
    "protocol_parts",
]

#: A figure and what a screen reader says of it, by name.
Figures = dict[str, tuple[Figure, str]]


@dataclass(frozen=True)
class MeasureRow:
    """A row of the table of measures."""

    label: str
    meaning: str
    written: Written


def measure_rows(measures: Mapping[str, Measurement]) -> list[MeasureRow]:
    """The measures in order, as text."""
    rows = []
    for name, measured in measures.items():
        how = measure(name)
        rows.append(MeasureRow(visible(how.label), how.meaning, write(measured, how)))
    return rows


def methods_of(measures: Mapping[str, Measurement]) -> list[tuple[str, str]]:
    """The labels of the measures that each method gives the intervals of, and the method.

    What the reader must know of these intervals is a part of it.
    """
    labels: dict[str, list[str]] = {}
    for name, measured in measures.items():
        if measured.how:
            labels.setdefault(measured.how, []).append(visible(measure(name).label))
    return [(", ".join(names), visible(method)) for method, names in labels.items()]


def protocol_parts(protocol: Mapping[str, object], before: str = "") -> list[tuple[str, str]]:
    """The parts of a protocol and their parts, by dotted name."""
    parts: list[tuple[str, str]] = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            parts += protocol_parts(value, f"{before}{name}.")
        else:
            parts.append((visible(f"{before}{name}"), _setting(value)))
    return parts


def _setting(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return visible(str(value))


def finite_value(measures: Mapping[str, Measurement], name: str) -> float | None:
    """A measure's value; None where it is absent or not finite."""
    value = measures[name].value if name in measures else math.nan
    return value if math.isfinite(value) else None


def draw(figures: Figures) -> dict[str, str]:
    """The figures as SVG elements."""
    return {name: to_svg(figure, name, words) for name, (figure, words) in figures.items()}
