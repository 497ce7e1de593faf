"""The terminal's summary of a comparison: the verdict, the candidates' table, then the detail.

The detail is of the first candidate; the HTML report and JSON have that of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.text import Text

from kullback.report.candidates import candidate_table
from kullback.report.labels import NOT_ABOVE, NOT_ABOVE_MEANS, measure
from kullback.report.names import candidate_names
from kullback.report.numbers import (
    NO_NUMBER,
    Written,
    byte_size,
    probability,
    seconds,
    write,
    write_number,
)
from kullback.report.terminal.fitted import WIDTH, Cell, Column, FittedTable, Sentence
from kullback.report.terminal.parts import (
    breakable,
    measures_table,
    notes_of,
    protocol_line,
    quantiles_line,
    title_of,
)
from kullback.report.verdict import comparison_verdict, floor_text
from kullback.results.comparison import (
    CandidateComparison,
    Comparison,
    DifferentBytes,
    LayerSensitivity,
    WorstToken,
)
from kullback.runtime.escaping import visible, visible_token
from kullback.runtime.wording import count_of

__all__ = ["comparison_summary"]

_SHOWN_LAYERS = 12
_SHOWN_TOKENS = 8
_SHOWN_BYTES = 60  # characters of a stretch of text
_CONTEXT = 34  # characters before a token that the line has room for
_LONGEST_TOKEN = 16


def comparison_summary(result: Comparison, verbose: bool = False) -> RenderableType:
    """Everything on one screen or two; `verbose` adds design effects and effective n."""
    first = result.candidates[0]
    parts: list[RenderableType] = [title_of(result.title), *_verdict(result)]
    parts += [Sentence(_facts(result)), *_origins(result)]
    if result.ranked:
        parts += [Text(""), *_candidates(result)]
    if result.noise_floor:
        parts.append(_noise_floor(result))
    parts += _detail(result, first, verbose)
    if result.sensitivity:
        parts += _sensitivity(result)
    parts += notes_of(first.measures, result.notes)
    if result.llama_cpp:
        parts.append(Text("\nas llama.cpp prints it (its ± takes tokens as independent):"))
        parts += [Text(visible(line), overflow="fold") for line in result.llama_cpp.splitlines()]
    return Constrain(Group(*parts), WIDTH)


def _facts(result: Comparison) -> str:
    parts = [
        result.text or None,
        None if result.bytes is None else count_of(result.bytes, "byte"),
        f"{count_of(result.scored_tokens, 'token')} scored"
        + ("" if result.seconds is None else f" in {seconds(result.seconds)}"),
    ]
    return ", ".join(filter(None, parts))


def _origins(result: Comparison) -> Iterator[RenderableType]:
    """What the numbers depend on: of the models the reference's, of files both."""
    reference = result.reference
    if result.kind == "models":
        if reference.fingerprint:
            yield protocol_line(reference.protocol, reference.fingerprint)
        return
    operands = (("reference", reference), ("candidate", result.candidates[0].operand))
    for label, operand in operands:
        if operand.fingerprint:
            yield protocol_line(operand.protocol, operand.fingerprint, label)


def _verdict(result: Comparison) -> Iterator[RenderableType]:
    verdict = comparison_verdict(result)
    names = candidate_names(result)
    for candidate, line in zip(result.candidates, verdict.lines, strict=True):
        yield Sentence(line, strong=len(names[candidate.name]), indent="  ")
    if verdict.conclusion:
        yield Sentence(verdict.conclusion, "bold")
    if verdict.intervals:
        yield Sentence(verdict.intervals, "dim")


# --- the candidates ------------------------------------------------------------------------


def _candidates(result: Comparison) -> Iterator[RenderableType]:
    """The reference, then the candidates, the nearest first."""
    table = candidate_table(result)
    interval = f"\n{table.interval}" if table.interval else ""
    columns = [
        Column("candidate", "left", folds=True),
        Column("size"),
        Column("% of\noriginal", dropped=1),
        Column(f"KL,\nnats/token{interval}"),
        Column(f"KL over\n{table.other_type}\nnoise", dropped=3),
        Column(f"ΔCE,\nnats/token{interval}"),
        Column("Δ per-\nplexity", dropped=2),
        Column(f"top-1\nagreement{interval}"),
    ]
    ratio = 4
    if not table.other_type:
        del columns[ratio]
    shown = FittedTable(columns)
    for row in table.rows:
        cells: list[Cell] = [
            f"{row.name}\n({row.remark})" if row.remark else row.name,
            row.size,
            row.share.replace("\u00a0", " "),
            _breakable(row.kl, f" {row.mark}" if row.mark else ""),
            row.ratio,
            _breakable(row.change),
            row.perplexity,
            _breakable(row.agreement),
        ]
        if not table.other_type:
            del cells[ratio]
        shown.add(cells, "dim" if row is table.reference else "")
    yield shown
    for meaning in table.meanings:
        yield Sentence(meaning, "dim")
    if any(row.mark for row in table.rows):
        yield Sentence(f"{NOT_ABOVE} {NOT_ABOVE_MEANS}", "dim")


def _breakable(written: Written | None, mark: str = "") -> Cell:
    return NO_NUMBER if written is None else breakable(written, mark)


def _noise_floor(result: Comparison) -> Sentence:
    floors = "; ".join(f"{name} {floor_text(floor)}" for name, floor in result.noise_floor.items())
    return Sentence(f"noise floor, the reference against itself: {floors}", indent="  ")


# --- the first candidate in detail ---------------------------------------------------------


def _detail(
    result: Comparison, candidate: CandidateComparison, verbose: bool
) -> Iterator[RenderableType]:
    yield Text("")
    if len(result.candidates) > 1:
        name = candidate_names(result)[candidate.name]
        yield Sentence(f"{name} in detail (of the others: --report or --json)", strong=len(name))
    if candidate.identical:
        return
    yield measures_table(candidate.measures, verbose)
    if candidate.kl_quantiles:
        yield quantiles_line(candidate.kl_quantiles)
    if candidate.spans:
        yield _spans(candidate.spans)
    if candidate.worst_tokens:
        yield _worst(candidate.worst_tokens)


def _spans(spans: Sequence[DifferentBytes]) -> FittedTable:
    table = FittedTable(
        [
            Column("largest differences", "left", folds=True, least=30),
            Column("reference,\nnats"),
            Column("candidate,\nnats"),
        ]
    )
    for span in spans:
        text = visible_token(span.text)
        cut = text if len(text) <= _SHOWN_BYTES else f"{text[: _SHOWN_BYTES - 1]}…"
        table.add([cut, write_number(span.reference_nll), write_number(span.candidate_nll)])
    return table


def _sensitivity(result: Comparison) -> Iterator[RenderableType]:
    layers: Sequence[LayerSensitivity] = result.sensitivity
    table = FittedTable(
        [
            Column("quantised alone", "left", folds=True, least=24),
            Column("KL,\nnats/token"),
            Column("bytes\nsaved"),
        ]
    )
    for layer in layers[:_SHOWN_LAYERS]:
        kl = breakable(write(layer.kl, measure("kl")))
        table.add([layer.layer, kl, byte_size(layer.bytes_saved)])
    yield Text("")
    yield table
    if len(layers) > _SHOWN_LAYERS:
        yield Text(f"and {len(layers) - _SHOWN_LAYERS} more groups")
    total, together = result.sensitivity_sum, result.sensitivity_whole
    if total is not None and together is not None:
        yield Sentence(
            f"sum of the groups {write_number(total)} nats/token, "
            f"all quantised together {write_number(together)}"
        )


def _worst(tokens: Sequence[WorstToken]) -> FittedTable:
    table = FittedTable(
        [
            Column("KL,\nnats"),
            Column("tokens with the largest KL, in context", "left", folds=True, least=24),
            Column("most probable:\nreference", "left"),
            Column("\ncandidate", "left"),
        ]
    )
    for token in tokens[:_SHOWN_TOKENS]:
        before = visible(token.before)[-_CONTEXT:]
        target = visible(token.token)[:_LONGEST_TOKEN]
        context = Text.assemble(before, (target, "bold reverse"))
        kl = write_number(token.kl, 3)
        table.add([kl, context, _first(token.reference_top), _first(token.candidate_top)])
    return table


def _first(top: Sequence[tuple[str, float]]) -> Cell:
    """The most probable token and its probability."""
    if not top:
        return "–"
    text, p = top[0]
    token = visible_token(text)[:_LONGEST_TOKEN]
    return f"{token} {probability(p)}", f"{token}\n{probability(p)}"
