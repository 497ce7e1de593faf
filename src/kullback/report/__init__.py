"""Reports of results: terminal, HTML reports, notebooks, figures.

What shows a type of result is looked up by the type's name and imported when it is first needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import InvalidValueError
from kullback.runtime.wording import with_article

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kullback.results.base import Result

__all__ = ["notebook_html", "plain_text", "render_html", "save_html", "summary"]

#: The functions that show a result, by the name of its type, in modules of this package.
_HTML = {
    "Evaluation": "html.evaluation.render_evaluation",
    "Comparison": "html.comparison.render_comparison",
    "LabResults": "html.lab.render_lab_report",
    "Scaling": "html.scaling.render_scaling",
}
_NOTEBOOK = {
    "Evaluation": "html.notebook.evaluation_fragment",
    "Comparison": "html.notebook.comparison_fragment",
}
_SUMMARY = {
    "Evaluation": "terminal.evaluation.evaluation_summary",
    "Comparison": "terminal.comparison.comparison_summary",
    "LabResults": "terminal.lab.lab_summary",
    "Diagnosis": "terminal.doctor.doctor_summary",
    "Scaling": "terminal.scaling.scaling_summary",
    "SourceEvaluation": "terminal.source.source_summary",
    "TrainingRun": "terminal.training.training_summary",
}


def render_html(result: Result) -> str:
    """The HTML report of a result: one self-contained page.

    Raises `InvalidValueError` for a type of result that has none.
    """
    show = _function(_HTML, result)
    if show is None:
        raise InvalidValueError(
            f"{with_article(type(result).__name__)} has no HTML report: {', '.join(_HTML)} have one"
        )
    return str(show(result))


def save_html(result: Result, path: str | Path, force: bool = False) -> None:
    """Write the HTML report to `path`, complete or not at all; missing folders are made.

    Raises `InvalidValueError` where `path` may not be written, also where it is a file of another
    kind and `force` is not given, `RunError` where writing fails.
    """
    from kullback.report.html.environment import write_html

    write_html(path, render_html(result), force)


def notebook_html(result: Result) -> str:
    """A fragment of HTML with the verdict and the headline measures, for a notebook's output."""
    from html import escape

    show = _function(_NOTEBOOK, result)
    return f"<pre>{escape(plain_text(result))}</pre>" if show is None else str(show(result))


def plain_text(result: Result, width: int = 100) -> str:
    """The tables that the command prints, without colours, in at most `width` columns."""
    from kullback.report.terminal.console import VisibleConsole

    console = VisibleConsole(
        file=io.StringIO(), width=width, color_system=None, force_terminal=False
    )
    console.print(summary(result))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def summary(result: Result, verbose: bool = False) -> RenderableType:
    """What a command prints of a result; `verbose` adds design effects and effective n.

    Raises `InvalidValueError` for a type of result that is not shown so.
    """
    show = _function(_SUMMARY, result)
    if show is None:
        raise InvalidValueError(
            f"{with_article(type(result).__name__)} has no summary: {', '.join(_SUMMARY)} have one"
        )
    return show(result, verbose)  # type: ignore[no-any-return]  # all of `_SUMMARY` return this


def _function(functions: dict[str, str], result: Result) -> Callable[..., Any] | None:
    """The function for the result's type, or for the nearest type that it is derived from."""
    for kind in type(result).__mro__:
        if kind.__name__ in functions:
            module, _, name = functions[kind.__name__].rpartition(".")
            return getattr(import_module(f"{__name__}.{module}"), name)  # type: ignore[no-any-return]
    return None
