"""What a notebook shows of a result: a fragment of HTML, the verdict and a table.

A notebook has its own style; the fragment brings none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from kullback.report.escaping import visible
from kullback.report.labels import measure
from kullback.report.names import candidate_names
from kullback.report.numbers import byte_size, percent, write
from kullback.report.verdict import comparison_verdict, evaluation_verdict, share_of_original
from kullback.results.comparison import Comparison
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement

__all__ = ["comparison_fragment", "evaluation_fragment"]

_EVALUATION = ("bits_per_byte", "cross_entropy", "perplexity", "entropy", "top1_accuracy", "ece")
_NO_NUMBER = "–"


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
        + table
    )


def _candidates(result: Comparison) -> str:
    names = candidate_names(result)
    interval = " (joint 95 %)" if len(result.ranked) > 1 else " (95 %)"
    head = (
        "candidate", "size", "% of original", f"KL, nats/token{interval}",
        f"ΔCE, nats/token{interval}", "Δ perplexity", f"top-1 agreement{interval}",
    )  # fmt: skip
    size = result.reference.size_bytes
    original = (_NO_NUMBER, _NO_NUMBER) if size is None else (byte_size(size), "100 %")
    rows = [(f"{result.reference.name} (reference)", *original, *[_NO_NUMBER] * 4)]
    for candidate in result.ranked:
        share, change = candidate.share_of_original, candidate.delta_perplexity.value
        rows.append(
            (
                names[candidate.name],
                _NO_NUMBER if candidate.size_bytes is None else byte_size(candidate.size_bytes),
                _NO_NUMBER if share is None else share_of_original(share),
                write(candidate.kl, measure("kl")).both,
                write(candidate.delta_cross_entropy, measure("delta_cross_entropy")).both,
                f"{'+' if change > 0 else ''}{percent(change)}",
                write(candidate.top1_agreement, measure("top1_agreement")).both,
            )
        )
    return _table(rows, head)


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
