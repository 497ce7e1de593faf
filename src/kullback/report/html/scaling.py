"""The HTML report of a scaling ladder: the law, its figure, and the rungs."""

from __future__ import annotations

from kullback.report.figures.scaling import plot_scaling, prepare_scaling
from kullback.report.html.environment import render
from kullback.report.html.parts import draw
from kullback.report.numbers import nats
from kullback.report.scaling_verdict import law_rows, title_of, verdict_of
from kullback.results.scaling import Scaling

__all__ = ["render_scaling"]


def render_scaling(result: Scaling) -> str:
    """The report as HTML."""
    words = (
        f"Cross-entropy of {len(result.rungs)} rungs, the fitted curve, and E = "
        f"{nats(result.law.floor)} with its band."
    )
    return render(
        "scaling.html.jinja",
        draw({"law": (plot_scaling(prepare_scaling(result)), words)}),
        result=result,
        title=title_of(result),
        verdict=verdict_of(result),
        rows=law_rows(result),
    )
