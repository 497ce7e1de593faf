"""The terminal's summary of a ladder: its rungs, the law, and the exact entropy beside E."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from kullback.report.numbers import count, nats, seconds, write_number
from kullback.report.scaling_verdict import law_rows, title_of, verdict_of
from kullback.report.terminal.fitted import Sentence
from kullback.report.terminal.tables import add_row, numbers_table, titled
from kullback.results.scaling import Scaling
from kullback.runtime.escaping import visible

__all__ = ["scaling_summary"]


def scaling_summary(result: Scaling, verbose: bool = False) -> RenderableType:
    """Verdict, law, and rungs; `verbose` changes nothing."""
    rungs = numbers_table(
        "rung", "parameters", "steps", "tokens", "loss", "95 % interval", "fitted", "loss − E"
    )
    for number, rung in enumerate(result.rungs, 1):
        low, high = rung.loss_interval
        cells = [
            str(number), count(rung.parameters), count(rung.steps), count(rung.tokens),
            nats(rung.loss), f"{nats(low)} to {nats(high)}", nats(rung.fitted_loss),
            nats(rung.loss - result.law.floor),
        ]  # fmt: skip
        add_row(rungs, cells)
    law = numbers_table("", "value", "95 % interval")
    for label, value, interval in law_rows(result):
        add_row(law, [label, value, interval])
    facts = (
        f"losses in nats/token on {count(result.validation_tokens)} tokens of "
        f"{count(result.validation_pieces)} {result.piece}s that all rungs share; relative noise "
        f"of the excess {write_number(result.law.noise, 2)}; {seconds(result.seconds)}"
    )
    return Group(
        Text(visible(title_of(result)), style="bold", overflow="fold"),
        Sentence(verdict_of(result)),
        *(Sentence(f"• {visible(note)}", "dim", indent="  ") for note in result.notes),
        titled("Law", law),
        titled("Rungs", rungs),
        Sentence(facts, "dim"),
        Text(f"run folders: {visible(result.folder)}", style="dim", overflow="fold"),
    )
