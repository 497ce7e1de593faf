"""What a notebook shows of a result: a fragment of HTML with the headline measures.

A notebook has its own style; the fragment brings none but the alignment of its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from kullback.report.escaping import visible
from kullback.report.labels import measure
from kullback.report.numbers import write
from kullback.results.comparison import Comparison
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement

__all__ = ["comparison_fragment", "evaluation_fragment"]

_EVALUATION = ("bits_per_byte", "cross_entropy", "perplexity", "entropy", "top1_accuracy", "ece")


def evaluation_fragment(result: Evaluation) -> str:
    """Title and headline measures of an evaluation."""
    return _title(result.title) + _measures(result.measures, _EVALUATION)


def comparison_fragment(result: Comparison) -> str:
    """Title and measures of the first candidate."""
    return _title(result.title) + _measures(result.measures, result.measures)


def _title(title: str) -> str:
    return f"<p><strong>{_text(title)}</strong></p>"


def _measures(measures: Mapping[str, Measurement], names: Iterable[str]) -> str:
    rows = ""
    for name in names:
        if name in measures:
            how = measure(name)
            cells = f"<td>{_text(str(write(measures[name], how)))}</td>"
            rows += f'<tr><th scope="row">{_text(how.label)}</th>{cells}</tr>'
    return f"<table><tbody>{rows}</tbody></table>"


def _text(text: str) -> str:
    return escape(visible(text))
