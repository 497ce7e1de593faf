"""The files of a lab, as outputs that are checked before anything is computed."""

from __future__ import annotations

from pathlib import Path

from kullback.runtime.outputs import Output

__all__ = ["figure_path", "lab_outputs", "report_outputs"]

FIGURES = ("training", "slots", "calibration", "quantisation")


def lab_outputs(folder: Path) -> list[Output]:
    """The folder of a lab, the results, the report and its figures."""
    return [
        Output("the folder (-o)", folder, "folder"),
        Output("the results", folder / "results.json", "result"),
        *report_outputs(folder / "report.html"),
    ]


def report_outputs(path: Path) -> list[Output]:
    """The report at `path`, and its figures."""
    return [
        Output("the report", path, "report"),
        *(Output("the figure", figure_path(path, name), "figure") for name in FIGURES),
    ]


def figure_path(report: Path, name: str) -> Path:
    """Where a figure of the report is written."""
    return report.parent / "figures" / f"{name}.svg"
