"""A result in a notebook: a fragment of HTML, the verdict and a table.

A notebook has its own style; the fragment brings none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from kullback.report.candidates import candidate_table
from kullback.report.labels import NOT_ABOVE, NOT_ABOVE_MEANS, measure
from kullback.report.numbers import NO_NUMBER, Written, write
from kullback.report.verdict import comparison_verdict, evaluation_verdict
from kullback.results.comparison import Comparison
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement
from kullback.runtime.escaping import visible

__all__ = ["comparison_fragment", "evaluation_fragment"]

_EVALUATION = ("bits_per_byte", "cross_entropy", "perplexity", "entropy", "top1_accuracy", "ece")


def evaluation_fragment(result: Evaluation) -> str:
    """Title, headline, and the headline measures of an evaluation."""
    return (
        _paragraph(result.title, strong=True)
        + _paragraph(evaluation_verdict(result))
        + _measures(result.measures, _EVALUATION)
    )


def comparison_fragment(result: Comparison) -> str:
    """Title, verdict, and a row for each candidate; without a ranking the candidate's measures."""
    verdict = comparison_verdict(result)
    table = _candidates(result) if result.ranked else _measures(result.measures, result.measures)
    return (
        _paragraph(result.title, strong=True)
        + "".join(map(_paragraph, verdict.lines))
        + _paragraph(verdict.conclusion, strong=True)
        + _paragraph(verdict.intervals)
        + table
    )


def _candidates(result: Comparison) -> str:
    table = candidate_table(result)
    interval = f" ({table.interval})" if table.interval else ""
    head = (
        "candidate", "size", "% of original", f"KL, nats/token{interval}",
        f"ΔCE, nats/token{interval}", "Δ perplexity", f"top-1 agreement{interval}",
    )  # fmt: skip
    rows = [
        (
            f"{row.name} ({row.remark})" if row.remark else row.name,
            row.size,
            row.share,
            f"{_both(row.kl)} {row.mark}".rstrip(),
            _both(row.change),
            row.perplexity,
            _both(row.agreement),
        )
        for row in table.rows
    ]
    marks = [f"{NOT_ABOVE} {NOT_ABOVE_MEANS}"] if any(row.mark for row in table.rows) else []
    return _table(rows, head) + "".join(map(_paragraph, (*table.meanings, *marks)))


def _both(written: Written | None) -> str:
    return NO_NUMBER if written is None else written.both


def _measures(measures: Mapping[str, Measurement], names: Iterable[str]) -> str:
    rows = []
    for name in names:
        if name in measures:
            how = measure(name)
            rows.append((how.label, str(write(measures[name], how))))
    return _table(rows)


def _table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    titles = "".join(f'<th scope="col">{_text(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f"<table>{f'<thead><tr>{titles}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )


def _paragraph(text: str, strong: bool = False) -> str:
    if not text:
        return ""
    return f"<p><strong>{_text(text)}</strong></p>" if strong else f"<p>{_text(text)}</p>"


def _text(text: str) -> str:
    return escape(visible(text))
