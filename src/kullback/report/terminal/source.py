"""Sources and evaluations on them in the terminal, in at most 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.text import Text

from kullback.report.numbers import count, nats, percent, write, write_number
from kullback.report.terminal.tables import add_row, numbers_table, titled
from kullback.results.measurement import Measurement
from kullback.results.source import PartEvaluation, SourceEvaluation
from kullback.runtime.escaping import visible
from kullback.sources.language import Language
from kullback.sources.mixed_states import EntropyBounds
from kullback.sources.process import Process

if TYPE_CHECKING:
    from kullback.sources.catalogue import AnySource

__all__ = [
    "evaluation_table",
    "process_tables",
    "source_summary",
    "source_table",
    "source_tables",
]

DECIMALS = 6  # of exact numbers
EXACT = 1e-12  # nats: rounding
MOST_SLOTS = 500  # of a table
MOST_POSITIONS = 32  # of a table

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


def source_tables(source: AnySource, window: int = 0) -> Group:
    """The exact entropies of the training language and, where there is one, the held-out one.

    Of a process: those of windows of `window` symbols.
    """
    if isinstance(source, Process):
        return process_tables(source, window)
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


def process_tables(process: Process, window: int) -> Group:
    """The exact entropies of a process, and of a symbol by how many are before it."""
    facts = numbers_table("", "")
    beliefs = process.predictor.beliefs
    floor, rate = process.window_entropy(window), process.entropy_rate
    for label, value in (
        ("vocabulary", f"{count(len(process.vocabulary))} tokens"),
        ("hidden states", count(len(process.states))),
        ("beliefs of a reader", "thousands or more" if beliefs is None else count(beliefs)),
        ("entropy rate", _bounded(rate)),
        (f"floor of windows of {count(window)} symbols", _bounded(floor)),
    ):
        add_row(facts, [label, value])
    facts.show_header = False
    table = numbers_table("symbols before", "entropy (nats/token)", "of the block (nats)")
    entropies, blocks = process.conditional_entropies(window), process.block_entropies(window)
    for n, (entropy, block) in list(enumerate(zip(entropies, blocks, strict=True)))[:MOST_SLOTS]:
        add_row(table, [count(n), _bounded(entropy, ""), nats(block.value, DECIMALS)])
    return Group(
        titled(f"{process.name}: exact", facts),
        titled("Entropy of a symbol, by the symbols of its window before it", table),
    )


def _bounded(entropy: EntropyBounds, unit: str = " nats/token") -> str:
    """An entropy with nine decimals, and its error where it is not exact."""
    error = f" ± {entropy.error:.1e}" if entropy.error > EXACT else ""
    return f"{nats(entropy.value, 9)}{error}{unit}"


def source_summary(results: SourceEvaluation, verbose: bool = False) -> Group:
    """An evaluation on a source: the terms of each part with their intervals, then tables.

    `verbose` adds design effects and effective n of what was sampled.
    """
    parts: list[RenderableType] = []
    for part in results.parts:
        terms = {"cross-entropy": part.cross_entropy, "entropy": part.entropy, "KL": part.kl}
        lines = [f"{visible(results.model)} on {visible(results.source)}, {part.language}:"]
        lines += [f"  {name:<14}{_nats(term)} {term.unit}" for name, term in terms.items()]
        if part.floor is not None:
            lines.append(f"  {'exact floor':<14}{_floor(part)}")
            # Near the floor it has less noise than the cross-entropy, far from it more.
            if part.kl.standard_error < part.cross_entropy.standard_error:
                lines.append(f"  {'floor + KL':<14}{_nats(above_floor(part))} {part.kl.unit}")
        lines.append(f"  {'identity':<14}CE − (H + KL) = {write_number(part.identity_residual, 2)}")
        if verbose:
            lines += [f"  {name:<14}{_effects(term)}" for name, term in terms.items()]
        methods = dict.fromkeys(visible(term.how) for term in terms.values())
        parts += [Text("\n" + "\n".join(lines)), Text(f"  ({'; '.join(methods)})", style="dim")]
    first = results.parts[0]
    tables = [evaluation_table(results.parts), slot_table(first)]
    if first.by_position:
        tables.append(position_table(first))
    return Group(*parts, *tables)


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
    of = "sentence" if evaluation.window is None else "window"
    table = numbers_table("slot", f"tokens/{of}", "cross-entropy", "= entropy", "+ KL")
    for slot in evaluation.by_slot:
        entropy = nats(max(slot.entropy, 0.0), DECIMALS)
        losses = nats(slot.cross_entropy, DECIMALS), entropy, nats(slot.kl, DECIMALS)
        add_row(table, [slot.slot, nats(slot.tokens_per_sentence), *losses])
    return titled(f"By slot, {evaluation.language} (nats per token of the slot)", table)


def position_table(evaluation: PartEvaluation) -> Group:
    """The three terms by position."""
    table = numbers_table("tokens before", "share", "cross-entropy", "= entropy", "+ KL")
    shown = evaluation.by_position[:MOST_POSITIONS]
    for position in shown:
        losses = (position.cross_entropy, max(position.entropy, 0.0), position.kl)
        cells = [count(position.tokens_before), percent(position.share)]
        add_row(table, cells + [nats(loss, DECIMALS) for loss in losses])
    title = "By position"
    if len(shown) < len(evaluation.by_position):
        title += f", the first {len(shown)} of {len(evaluation.by_position)} (--json has all)"
    return titled(f"{title} (nats/token)", table)


def above_floor(part: PartEvaluation) -> Measurement:
    """The exact floor plus KL: the cross-entropy without the noise of the sampled entropy."""
    assert part.floor is not None
    floor, bounds = part.floor, part.kl.bounds
    shifted = None if bounds is None else (bounds[0] + floor, bounds[1] + floor)
    return replace(part.kl, value=floor + part.kl.value, bounds=shifted)


def _floor(part: PartEvaluation) -> str:
    """The exact entropy per token of the language, or of windows."""
    assert part.floor is not None
    error = f" ± {part.floor_error:.1e}" if part.floor_error > EXACT else ""
    what = "" if part.window is None else f" (windows of {count(part.window)} symbols)"
    return f"{nats(part.floor, 9)}{error} nats/token{what}"


def _effects(measurement: Measurement) -> str:
    """What the correlation of a sentence's tokens costs; nothing where all were read."""
    if measurement.is_exact:
        return "exact: no design effect"
    written = write(measurement)
    return f"design effect {written.design_effect}, effective n {written.effective_n}"


def _nats(measurement: Measurement) -> str:
    """An exact number with six decimals; any other with the digits that its interval warrants."""
    if measurement.is_exact:
        return nats(measurement.value, DECIMALS)
    return write(measurement).both
