"""What people see in the terminal when a text has been read: the numbers, and how sure they are.

A value stands with ± half of its 95 % interval, in as many digits as that warrants.  Nothing is
wider than 100 columns, and what comes from a text or a command line cannot steer the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from kullback.report.escaping import visible, visible_token
from kullback.report.figures.comparison import short_names
from kullback.report.labels import MEASURES, NOT_ABOVE, NOT_ABOVE_MEANS, measure
from kullback.report.numbers import byte_size, probability, seconds, write, write_number
from kullback.results.comparison import Comparison, Operand, RankedCandidate, WorstToken
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement

__all__ = ["comparison_summary", "evaluation_summary", "stored_summary"]

WIDTH = 100
_SHOWN_LAYERS = 12
_SHOWN_TOKENS = 8
_CONTEXT = 34  # characters before a token that the line has room for
_LONGEST_TOKEN = 24
_SETTINGS = {"preset": 0, "window": 1, "stride": 2, "bos": 3, "joined": 4}
# What differs between the methods of measures that are otherwise the same.
_DEGREES = re.compile(r", Student t with [\d.]+ degrees of freedom|(?<=the )\d+ (?=lowest freq)")


def evaluation_summary(result: Evaluation, verbose: bool = False) -> RenderableType:
    """An evaluation on text on one screen."""
    parts: list[RenderableType] = [
        _title(result.title),
        Text(
            f"{_count(result.documents, 'document')}, {result.bytes:,} bytes, "
            f"{result.scored_tokens:,} of {result.total_tokens:,} tokens scored in "
            f"{seconds(result.seconds)}, {result.tokens_per_second:,.0f} tokens/s"
        ),
        _protocol(result.protocol, result.fingerprint),
        _measures(result.measures),
        *_notes(result.measures, result.notes),
    ]
    return Constrain(Group(*parts), WIDTH)


def comparison_summary(result: Comparison, verbose: bool = False) -> RenderableType:
    """A comparison on one screen or two."""
    if result.kind != "models":
        return stored_summary(result)
    took = "" if result.seconds is None else f" in {seconds(result.seconds)}"
    first = result.candidates[0]
    parts: list[RenderableType] = [
        _title(result.title),
        Text(
            f"{_count(result.documents or 0, 'document')}, {result.bytes or 0:,} bytes, "
            f"{result.scored_tokens:,} tokens scored{took}"
        ),
        _protocol(first.operand.protocol, first.operand.fingerprint),
        _verdict(result),
        _measures(first.measures),
    ]
    if first.kl_quantiles:
        parts.append(_quantiles(first.kl_quantiles))
    if result.ranked:
        parts.append(_schemes(result.ranked))
        if any(candidate.above_noise is False for candidate in result.ranked):
            parts.append(Text(f"{NOT_ABOVE} {NOT_ABOVE_MEANS}", style="dim"))
    if result.sensitivity:
        parts += _sensitivity(result)
    if first.worst_tokens:
        parts.append(_worst(first.worst_tokens))
    parts += _notes(first.measures, result.notes)
    return Constrain(Group(*parts), WIDTH)


def stored_summary(result: Comparison) -> RenderableType:
    """A comparison of what is on disk, or by bytes, on one screen."""
    candidate = result.candidates[0]
    parts: list[RenderableType] = [
        _title(result.title),
        Text(f"{_count(result.scored_tokens, 'token')} scored"),
        *_origins(result),
        _measures(candidate.measures),
    ]
    if candidate.kl_quantiles:
        parts.append(_quantiles(candidate.kl_quantiles))
    if candidate.spans:
        table = _table("where they differ most", "reference, nats", "candidate, nats")
        for span in candidate.spans:
            text = span.text if len(span.text) < 60 else span.text[:57] + "..."
            nlls = (span.reference_nll, span.candidate_nll)
            _add(table, [text, *(write_number(nll) for nll in nlls)])
        parts.append(table)
    parts += _notes(candidate.measures, result.notes)
    if result.llama_cpp:
        parts.append(
            Text("\nas llama.cpp prints it (its ± takes tokens as independent), ours beside:")
        )
        parts += [Text(visible(line)) for line in result.llama_cpp.splitlines()]
    return Constrain(Group(*parts), WIDTH)


def _origins(result: Comparison) -> Iterable[RenderableType]:
    """What each operand's numbers depend on, where that is known."""
    operands: tuple[tuple[str, Operand], ...] = (
        ("reference", result.reference),
        ("candidate", result.candidates[0].operand),
    )
    for name, operand in operands:
        if operand.fingerprint:
            yield _protocol(operand.protocol, operand.fingerprint, name)


def _title(title: str) -> Text:
    return Text(f"\n{visible(title)}", style="bold")


def _protocol(protocol: Mapping[str, object], fingerprint: str, before: str = "protocol") -> Text:
    """One line: what is set, without the hashes, and the fingerprint of it all."""
    said: list[str] = []
    how = protocol.get("protocol")
    if isinstance(how, Mapping):
        # The same order for what comes from a file, where the names are sorted.
        names = sorted(how, key=lambda name: _SETTINGS.get(str(name), len(_SETTINGS)))
        said += [_setting(str(name), how[name]) for name in names]
    said += [str(protocol[name]) for name in ("dtype", "device") if name in protocol]
    line = ", ".join(visible(each) for each in said if each)
    line = f"{before}: {line}; " if line else f"{before}: " if before != "protocol" else ""
    return Text(f"{line}fingerprint {visible(fingerprint)[:16]}", style="dim")


def _setting(name: str, value: object) -> str:
    if name == "preset":
        return str(value)
    if isinstance(value, bool):
        return name if value else ""
    return "" if value is None else f"{name} {value}"


def _measures(measures: Mapping[str, Measurement]) -> Table:
    table = _table("", "value, 95 % interval", "unit", "design\neffect", "effective\nn")
    for name, measured in measures.items():
        how = measure(name)
        written = write(measured, how)
        style = "bold" if name in ("cross_entropy", "kl") else ""
        _add(
            table,
            [
                how.label,
                written.both,
                written.unit,
                written.design_effect,
                written.effective_n,
            ],
            style,
        )
    return table


def _notes(measures: Mapping[str, Measurement], notes: Sequence[str]) -> Iterable[RenderableType]:
    """Where the intervals come from, and what else the reader must know."""
    methods = {_DEGREES.sub("", each.method): None for each in measures.values()}
    for text in (*methods, *notes):
        if text:
            yield Text(f"• {visible(text)}", style="dim")


def _quantiles(quantiles: Mapping[str, float]) -> Text:
    line = ", ".join(f"{visible(name)} {write_number(kl, 3)}" for name, kl in quantiles.items())
    return Text(f"KL of single tokens, nats: {line}")


def _verdict(result: Comparison) -> Text:
    first = result.candidates[0]
    kl = first.measures.get("kl")
    text = Text("KL(reference‖candidate) ")
    if kl is not None:
        text.append(str(write(kl, MEASURES["kl"])), style="bold")
    above = first.above_noise
    if above is None:
        text.append("; the noise floor was not measured" if not result.noise_floor else "")
    else:
        text.append(" is ")
        text.append(
            "above the noise floor" if above else "not above the noise floor",
            style="bold green" if above else "bold yellow",
        )
    for name, measured in result.noise_floor.items():
        text.append(f"\n  the reference against itself, {visible(name)}: {write(measured)}")
        if above and kl is not None and measured.value >= kl.value:
            text.append(", which is no less", style="yellow")
    return text


def _schemes(ranked: Sequence[RankedCandidate]) -> Table:
    table = _table(
        "candidate", "size", "KL, nats/token", "ΔCE, nats/token", "top-1 agreement", "front"
    )
    names = short_names([candidate.name for candidate in ranked])
    for name, candidate in zip(names, ranked, strict=True):
        mark = f" {NOT_ABOVE}" if candidate.above_noise is False else ""
        cells = [
            write(candidate.kl, measure("kl")).both + mark,
            write(candidate.delta_cross_entropy, measure("delta_cross_entropy")).both,
            write(candidate.top1_agreement, measure("top1_agreement")).both,
        ]
        front = "●" if candidate.on_pareto_front else ""
        size = "–" if candidate.size_bytes is None else byte_size(candidate.size_bytes)
        _add(table, [name, size, *cells, front])
    return table


def _sensitivity(result: Comparison) -> Iterable[RenderableType]:
    layers = result.sensitivity
    table = _table("quantised alone", "KL, nats/token", "bytes saved")
    for each in layers[:_SHOWN_LAYERS]:
        saved = byte_size(each.bytes_saved)
        _add(table, [each.layer, write(each.kl, measure("kl")).both, saved])
    yield table
    if len(layers) > _SHOWN_LAYERS:
        yield Text(f"and {len(layers) - _SHOWN_LAYERS} more groups")
    total, whole = result.sensitivity_sum, result.sensitivity_whole
    if total is not None and whole is not None:
        yield Text(
            f"the parts add up to {write_number(total)} nats/token, "
            f"all together cost {write_number(whole)}"
        )


def _worst(tokens: Sequence[WorstToken]) -> Table:
    table = _table("KL", "where they differ most", "reference expects", "candidate expects")
    for token in tokens[:_SHOWN_TOKENS]:
        before = visible(token.before)[-_CONTEXT:]
        context = Text.assemble(before, (visible(token.token)[:_LONGEST_TOKEN], "bold reverse"))
        table.add_row(
            Text(write_number(token.kl, 3)),
            context,
            _first(token.reference_top),
            _first(token.candidate_top),
        )
    table.columns[0].justify = "right"
    for column in table.columns[1:]:
        column.justify = "left"
    return table


def _first(top: Sequence[tuple[str, float]]) -> Text:
    """What a model holds most probable."""
    if not top:
        return Text("–")
    text, p = top[0]
    return Text(f"{visible_token(text)[:_LONGEST_TOKEN]} {probability(p)}")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="", header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _add(table: Table, cells: Sequence[str], style: str = "") -> None:
    """A row of plain text: no markup, no control characters."""
    table.add_row(*(Text(visible(cell), style=style) for cell in cells))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
