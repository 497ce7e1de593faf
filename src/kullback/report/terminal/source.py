"""Sources and evaluations on them in the terminal, in at most 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from kullback.report.numbers import count, nats, percent, write, write_number
from kullback.report.terminal.tables import add_row, numbers_table, titled
from kullback.results.measurement import Measurement
from kullback.results.source import PartEvaluation, SourceEvaluation
from kullback.runtime.escaping import visible
from kullback.sources.language import Language

if TYPE_CHECKING:
    from kullback.sources.catalogue import Source

__all__ = ["evaluation_table", "source_summary", "source_table", "source_tables"]

DECIMALS = 6  # of exact numbers
MOST_SLOTS = 500  # of a table

_ROWS: dict[str, Callable[[PartEvaluation], str]] = {
    "Cross-entropy": lambda part: _nats(part.cross_entropy),
    "= Entropy": lambda part: _nats(part.entropy),
    "+ KL": lambda part: _nats(part.kl),
    "Perplexity": lambda part: nats(part.perplexity),
    "Top-1 accuracy": lambda part: percent(part.top1_accuracy),
    "  best possible": lambda part: percent(part.best_top1_accuracy),
    "Top-5 accuracy": lambda part: percent(part.top5_accuracy),
    "ECE": lambda part: percent(part.ece),
}


def source_tables(source: Source) -> Group:
    """The exact entropies of the training language and, where there is one, the held-out one."""
    if source.held_out is None:
        return source_table(source.name, source.training)
    return Group(
        source_table(f"{source.name} (training)", source.training),
        source_table(f"{source.name} (held out)", source.held_out),
    )


def source_table(name: str, language: Language) -> Group:
    """The exact entropies of a source."""
    facts = numbers_table("", "")
    for label, value in (
        ("vocabulary", f"{count(len(language.vocabulary))} tokens"),
        ("distinct sentences", count(language.number_of_sentences)),
        ("distinct prefixes", count(language.number_of_prefixes)),
        ("tokens per sentence", nats(language.tokens_per_sentence, DECIMALS)),
        ("entropy per sentence", f"{nats(language.entropy_per_sentence, 9)} nats"),
        ("entropy per token (the floor)", f"{nats(language.entropy_per_token, 9)} nats/token"),
    ):
        add_row(facts, [label, value])
    facts.show_header = False
    slots = numbers_table("slot", "tokens/sentence", "entropy (nats/token)")
    by_slot = language.entropy_by_slot()
    for slot, entropy in list(by_slot.items())[:MOST_SLOTS]:
        value = nats(max(entropy.entropy, 0.0), DECIMALS)
        add_row(slots, [slot, nats(entropy.tokens_per_sentence), value])
    title = "By slot"
    if len(by_slot) > MOST_SLOTS:
        title += f", the first {MOST_SLOTS} of {count(len(by_slot))} (--json lists all)"
    return Group(titled(f"{name}: exact", facts), titled(title, slots))


def source_summary(results: SourceEvaluation, verbose: bool = False) -> Group:
    """An evaluation on a source: the terms of each part with their intervals, then tables.

    `verbose` changes nothing.
    """
    parts: list[RenderableType] = []
    for part in results.parts:
        terms = {"cross-entropy": part.cross_entropy, "entropy": part.entropy, "KL": part.kl}
        lines = [f"{visible(results.model)} on {visible(results.source)}, {part.language}:"]
        lines += [f"  {name:<14}{_nats(term)} {term.unit}" for name, term in terms.items()]
        lines.append(f"  {'identity':<14}CE − (H + KL) = {write_number(part.identity_residual, 2)}")
        methods = dict.fromkeys(visible(term.how) for term in terms.values())
        parts += [Text("\n" + "\n".join(lines)), Text(f"  ({'; '.join(methods)})", style="dim")]
    return Group(*parts, evaluation_table(results.parts), slot_table(results.parts[0]))


def evaluation_table(evaluations: Sequence[PartEvaluation]) -> Group:
    """One column for each model and part of the language."""
    columns = (f"{visible(part.name)}\n{part.language}" for part in evaluations)
    table = numbers_table("", *columns)
    for label, cell in _ROWS.items():
        style = "bold" if "KL" in label else ""
        add_row(table, [label, *map(cell, evaluations)], style)
    return titled("Cross-entropy = entropy + KL, in nats/token", table)


def slot_table(evaluation: PartEvaluation) -> Group:
    """The three terms by slot."""
    table = numbers_table("slot", "tokens/sentence", "cross-entropy", "= entropy", "+ KL")
    for slot in evaluation.by_slot:
        entropy = nats(max(slot.entropy, 0.0), DECIMALS)
        losses = nats(slot.cross_entropy, DECIMALS), entropy, nats(slot.kl, DECIMALS)
        add_row(table, [slot.slot, nats(slot.tokens_per_sentence), *losses])
    return titled(f"By slot, {evaluation.language} (nats per token of the slot)", table)


def _nats(measurement: Measurement) -> str:
    """An exact number with six decimals; any other with the digits that its interval warrants."""
    if measurement.is_exact:
        return nats(measurement.value, DECIMALS)
    return write(measurement).both
