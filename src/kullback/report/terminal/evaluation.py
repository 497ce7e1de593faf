"""The terminal's summary of an evaluation on text: one screen."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.constrain import Constrain

from kullback.report.numbers import seconds
from kullback.report.terminal.fitted import WIDTH, Sentence
from kullback.report.terminal.parts import (
    measures_table,
    notes_of,
    protocol_line,
    title_of,
)
from kullback.report.verdict import evaluation_verdict
from kullback.results.evaluation import Evaluation
from kullback.runtime.wording import count_of

__all__ = ["evaluation_summary"]


def evaluation_summary(result: Evaluation, verbose: bool = False) -> RenderableType:
    """Headline, measures and notes; `verbose` adds design effects and effective n."""
    facts = (
        f"{count_of(result.documents, 'document')}, {result.bytes:,} bytes, "
        f"{result.scored_tokens:,} of {result.total_tokens:,} tokens scored in "
        f"{seconds(result.seconds)}, {result.tokens_per_second:,.0f} tokens/s"
    )
    parts: list[RenderableType] = [
        title_of(result.title),
        Sentence(facts),
        protocol_line(result.protocol, result.fingerprint),
    ]
    if verdict := evaluation_verdict(result):
        parts.append(Sentence(verdict, "bold", indent="  "))
    parts.append(measures_table(result.measures, verbose))
    parts += notes_of(result.measures, result.notes)
    return Constrain(Group(*parts), WIDTH)
