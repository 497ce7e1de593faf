"""The HTML report of a lab: one file that can be mailed, printed and read offline.

`write_lab_report` draws the figures and renders ``lab.html.jinja`` with them; see
:mod:`kullback.report.html.environment` for the policy of what is markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from kullback.report.figures.lab import (
    plot_quantisation,
    plot_slots,
    plot_training,
    prepare_quantisation,
    prepare_slots,
    prepare_training,
)
from kullback.report.figures.reliability import plot_reliability, prepare_reliability
from kullback.report.html.environment import render, write_html
from kullback.report.html.minimal_pairs import pair_tables
from kullback.report.html.token_colours import LARGE_KL
from kullback.report.lab_files import figure_path, report_outputs
from kullback.report.numbers import balanced_identity, nats
from kullback.report.svg import to_svg
from kullback.results.lab import LabResults
from kullback.runtime.files import write_atomically
from kullback.runtime.outputs import check_outputs

__all__ = ["render_figures", "render_lab_report", "write_lab_report"]


def write_lab_report(results: LabResults, path: Path, force: bool = False) -> None:
    """Write the report of a lab to `path`, and its figures to a folder ``figures`` beside it.

    Missing folders are made.  Each file is written completely or not at all, and a failure leaves
    the old one.  Equal results give equal bytes.  Raises `InvalidValueError` where a file may not
    be written (`kullback.runtime.outputs`) or the results have no evaluation on the training
    language, and `RunError` where writing fails.
    """
    check_outputs(*report_outputs(Path(path)), force=force)
    figures = render_figures(results)
    write_html(path, render_lab_report(results, figures), force)
    for name, svg in figures.items():
        preamble = '<?xml version="1.0" encoding="utf-8"?>\n'
        write_atomically(figure_path(Path(path), name), f"{preamble}{svg}\n".encode())


def render_figures(results: LabResults) -> dict[str, str]:
    """The figures of a lab as SVG elements, by name; those without data are left out."""
    drawn: dict[str, tuple[Figure, str]] = {}
    if (curve := prepare_training(results)) is not None:
        words = (
            f"Cross-entropy against training step: from {nats(curve.untrained)} down to "
            f"the exact entropy {nats(curve.floor)}; below, the KL on a log scale."
        )
        drawn["training"] = plot_training(curve), words
    if (shares := prepare_slots(results.headline.by_slot)) is not None:
        words = "Entropy and KL of each slot of a sentence, as shares of the nats of a token."
        drawn["slots"] = plot_slots(shares), words
    if panels := prepare_reliability(results):
        words = "Top-1 accuracy against confidence, for each model and part of the language."
        drawn["calibration"] = plot_reliability(panels), words
    if (sizes := prepare_quantisation(results)) is not None:
        words = "KL from the original and from the truth, against the size of the weights."
        drawn["quantisation"] = plot_quantisation(sizes), words
    return {name: to_svg(figure, name, words) for name, (figure, words) in drawn.items()}


def render_lab_report(results: LabResults, figures: Mapping[str, str] | None = None) -> str:
    """The report as HTML, with the figures that `render_figures` gives, or has given already."""
    figures = render_figures(results) if figures is None else figures
    model, training = results.headline, results.training
    terms = model.cross_entropy.value, model.entropy.value, model.kl.value
    removable = training.untrained_cross_entropy - training.floor
    return render(
        "lab.html.jinja",
        figures,
        results=results,
        headline=model,
        identity=balanced_identity(*terms),
        entropy_share=_share(model.entropy.value, model.cross_entropy.value),
        removed_share=_share(removable - model.kl.value, removable),
        removable=removable,
        pair_tables=pair_tables(results.minimal_pairs),
        quantised_slots=_quantised_slots(results),
        large_kl=LARGE_KL,
    )


def _share(part: float, total: float) -> float | None:
    """A share within [0, 1]; None where the total is zero or infinite."""
    if not 0 < total < float("inf"):
        return None
    return min(max(part / total, 0.0), 1.0)


def _quantised_slots(results: LabResults) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    """For each slot, its KL(original‖quantised) under each scheme, in the schemes' order."""
    by_scheme = [{s.slot: s.kl_original for s in q.by_slot} for q in results.quantisations]
    slots = dict.fromkeys(slot for kl_of in by_scheme for slot in kl_of)
    return tuple((slot, tuple(kl_of.get(slot) for kl_of in by_scheme)) for slot in slots)
