"""How does a lab run become one page that can be mailed, printed and read offline?

`write_lab_report` computes the tables, has the figures drawn, renders ``lab.html.jinja`` with them
and puts the result in place in one step.  The page loads nothing: no script, no font, no image from
anywhere, and its content security policy makes a browser refuse if it ever tried.  Whatever comes
from a corpus or a command line is made visible (:mod:`kullback.report.escaping`) and escaped;
only the figures, which are made here, are markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from kullback.report.figures.lab import (
    plot_quantisation,
    plot_reliability,
    plot_slots,
    plot_training,
    prepare_quantisation,
    prepare_reliability,
    prepare_slots,
    prepare_training,
)
from kullback.report.html.environment import render, write_html
from kullback.report.html.token_colours import LARGE_KL
from kullback.report.numbers import balanced_identity, nats
from kullback.report.svg import to_svg
from kullback.results.lab import LabResults, MinimalPairAccuracy, headline_evaluation
from kullback.runtime.files import write_atomically

__all__ = ["render_figures", "render_lab_report", "write_lab_report"]

_GROUPS = ("all", "tense", "person", "regularity", "verb")


@dataclass(frozen=True)
class PairRow:
    """One line of a minimal-pair table: for each part of the language, pairs and accuracies."""

    value: str
    parts: tuple[tuple[int | None, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class PairTable:
    """The minimal pairs of one side: rows by group, for said and for held-out cells."""

    side: str
    models: tuple[str, ...]
    held_out: tuple[bool, ...]
    groups: tuple[tuple[str, tuple[PairRow, ...]], ...]


def write_lab_report(results: LabResults, path: Path) -> None:
    """Write the report of a lab run to `path`, and its figures to a folder ``figures`` beside it.

    Missing folders are made.  Every file is whole or not there, and a failure leaves the old one.
    Equal results give equal bytes.  Raises `InvalidValueError` where `path` is a folder or the
    results have no evaluation on the training language, and `RunError` where the disk refuses.
    """
    figures = render_figures(results)
    write_html(path, render_lab_report(results, figures))
    folder = Path(path).parent / "figures"
    for name, svg in figures.items():
        preamble = '<?xml version="1.0" encoding="utf-8"?>\n'
        write_atomically(folder / f"{name}.svg", f"{preamble}{svg}\n".encode())


def render_figures(results: LabResults) -> dict[str, str]:
    """The figures of a run as SVG elements, by name; those without data are left out."""
    headline = headline_evaluation(results)
    drawn: dict[str, tuple[Figure, str]] = {}
    if (curve := prepare_training(results)) is not None:
        words = (
            f"Cross-entropy against training step: from {nats(curve.untrained)} down to "
            f"the exact entropy {nats(curve.floor)}; below, the KL on a log scale."
        )
        drawn["training"] = plot_training(curve), words
    if (shares := prepare_slots(headline)) is not None:
        words = "Entropy and KL of each slot of a sentence, as shares of the nats of a token."
        drawn["slots"] = plot_slots(shares), words
    if panels := prepare_reliability(results):
        words = "How often the first guess is right, against its confidence, for each model."
        drawn["calibration"] = plot_reliability(panels), words
    if (sizes := prepare_quantisation(results)) is not None:
        words = "KL from the original and from the truth, against the size of the weights."
        drawn["quantisation"] = plot_quantisation(sizes), words
    return {name: to_svg(figure, name, words) for name, (figure, words) in drawn.items()}


def render_lab_report(results: LabResults, figures: Mapping[str, str]) -> str:
    """The page as HTML; `figures` are SVG elements by name, as `render_figures` gives them."""
    headline = headline_evaluation(results)
    training = results["training"]
    removable = training["untrained_cross_entropy"] - training["floor"]
    return render(
        "lab.html.jinja",
        figures,
        results=results,
        headline=headline,
        identity=balanced_identity(headline["cross_entropy"], headline["entropy"], headline["kl"]),
        entropy_share=_share(headline["entropy"], headline["cross_entropy"]),
        removed_share=_share(removable - headline["kl"], removable),
        removable=removable,
        pair_tables=_pair_tables(results["minimal_pairs"]),
        quantised_slots=_quantised_slots(results),
        large_kl=LARGE_KL,
    )


def _share(part: float, whole: float) -> float | None:
    """A share within [0, 1]; None where the whole is nothing, or infinite."""
    if not 0 < whole < float("inf"):
        return None
    return min(max(part / whole, 0.0), 1.0)


def _pair_tables(pairs: Sequence[MinimalPairAccuracy]) -> tuple[PairTable, ...]:
    """One table a side; models and values in the order in which they come."""
    tables = []
    for side in ("english", "spanish"):
        found = [pair for pair in pairs if pair["side"] == side]
        if not found:
            continue
        models = tuple(dict.fromkeys(pair["model"] for pair in found))
        parts = tuple(sorted({pair["held_out"] for pair in found}))
        cells: dict[tuple[str, str, bool, str], tuple[int, float]] = {
            (p["group"], p["value"], p["held_out"], p["model"]): (p["pairs"], p["accuracy"])
            for p in found
        }
        groups = []
        for group in _GROUPS:
            rows = []
            for value in dict.fromkeys(p["value"] for p in found if p["group"] == group):
                columns = []
                for held_out in parts:
                    row = [cells.get((group, value, held_out, model)) for model in models]
                    number = next((cell[0] for cell in row if cell), None)
                    columns.append((number, tuple(cell[1] if cell else None for cell in row)))
                rows.append(PairRow(value, tuple(columns)))
            if rows:
                groups.append((group, tuple(rows)))
        tables.append(PairTable(side, models, parts, tuple(groups)))
    return tuple(tables)


def _quantised_slots(results: LabResults) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    """For each slot, its KL(original‖quantised) under each scheme, in the schemes' order."""
    schemes = results["quantisations"]
    by_scheme = [{s["slot"]: s["kl_original"] for s in q["by_slot"]} for q in schemes]
    slots = dict.fromkeys(slot for table in by_scheme for slot in table)
    return tuple((slot, tuple(table.get(slot) for table in by_scheme)) for slot in slots)
