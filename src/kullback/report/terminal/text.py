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
from kullback.results.text import (
    ComparisonResults,
    LayerSensitivity,
    MeasurementData,
    SchemeResult,
    StoredResults,
    TextResults,
    WorstToken,
)

__all__ = ["comparison_summary", "evaluation_summary", "stored_summary"]

WIDTH = 100
_SHOWN_LAYERS = 12
_SHOWN_TOKENS = 8
_CONTEXT = 34  # characters before a token that the line has room for
_LONGEST_TOKEN = 24
_SETTINGS = {"preset": 0, "window": 1, "stride": 2, "bos": 3, "joined": 4}
# What differs between the methods of measures that are otherwise the same.
_DEGREES = re.compile(r", Student t with [\d.]+ degrees of freedom|(?<=the )\d+ (?=lowest freq)")


def evaluation_summary(results: TextResults) -> RenderableType:
    """An evaluation on text on one screen."""
    parts: list[RenderableType] = [
        _title(results["title"]),
        Text(
            f"{_count(results['documents'], 'document')}, {results['bytes']:,} bytes, "
            f"{results['scored_tokens']:,} of {results['tokens']:,} tokens scored in "
            f"{seconds(results['seconds'])}, "
            f"{results['tokens_per_second']:,.0f} tokens/s"
        ),
        _protocol(results["protocol"], results["fingerprint"]),
        _measures(results["measures"]),
        *_notes(results["measures"], results["notes"]),
    ]
    return Constrain(Group(*parts), WIDTH)


def comparison_summary(results: ComparisonResults) -> RenderableType:
    """A comparison on one screen or two."""
    took = seconds(results["seconds"])
    parts: list[RenderableType] = [
        _title(results["title"]),
        Text(
            f"{_count(results['documents'], 'document')}, {results['bytes']:,} bytes, "
            f"{results['scored_tokens']:,} tokens scored in {took}"
        ),
        _protocol(results["protocol"], results["fingerprint"]),
        _verdict(results),
        _measures(results["measures"]),
    ]
    if results["kl_quantiles"]:
        parts.append(_quantiles(results["kl_quantiles"]))
    if results["schemes"]:
        parts.append(_schemes(results["schemes"]))
        if any(scheme["above_noise"] is False for scheme in results["schemes"]):
            parts.append(Text(f"{NOT_ABOVE} {NOT_ABOVE_MEANS}", style="dim"))
    if results["sensitivity"]:
        parts += _sensitivity(results)
    if results["worst"]:
        parts.append(_worst(results["worst"]))
    parts += _notes(results["measures"], results["notes"])
    return Constrain(Group(*parts), WIDTH)


def stored_summary(results: StoredResults) -> RenderableType:
    """A comparison of what is on disk, or by bytes, on one screen."""
    parts: list[RenderableType] = [
        _title(results["title"]),
        Text(f"{_count(results['scored_tokens'], 'token')} scored"),
        *_origins(results),
        _measures(results["measures"]),
    ]
    if results["kl_quantiles"]:
        parts.append(_quantiles(results["kl_quantiles"]))
    if results["spans"]:
        table = _table("where they differ most", "reference, nats", "candidate, nats")
        for span in results["spans"]:
            text = span["text"] if len(span["text"]) < 60 else span["text"][:57] + "..."
            nlls = (span["reference_nll"], span["candidate_nll"])
            _add(table, [text, *(write_number(nll) for nll in nlls)])
        parts.append(table)
    parts += _notes(results["measures"], results["notes"])
    return Constrain(Group(*parts), WIDTH)


def _origins(results: StoredResults) -> Iterable[RenderableType]:
    """What each side's numbers depend on, where that is known."""
    if results["fingerprint"]:
        yield _protocol(results["protocol"], results["fingerprint"], "reference")
    if results["candidate_fingerprint"]:
        identity = (results["candidate_protocol"], results["candidate_fingerprint"])
        yield _protocol(*identity, "candidate")


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


def _measures(measures: Mapping[str, MeasurementData]) -> Table:
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


def _notes(
    measures: Mapping[str, MeasurementData], notes: Sequence[str]
) -> Iterable[RenderableType]:
    """Where the intervals come from, and what else the reader must know."""
    methods = {_DEGREES.sub("", each["method"]): None for each in measures.values()}
    for text in (*methods, *notes):
        if text:
            yield Text(f"• {visible(text)}", style="dim")


def _quantiles(quantiles: Mapping[str, float]) -> Text:
    line = ", ".join(f"{visible(name)} {write_number(kl, 3)}" for name, kl in quantiles.items())
    return Text(f"KL of single tokens, nats: {line}")


def _verdict(results: ComparisonResults) -> Text:
    kl = results["measures"].get("kl")
    text = Text("KL(reference‖candidate) ")
    if kl is not None:
        text.append(str(write(kl, MEASURES["kl"])), style="bold")
    above = results["above_noise"]
    if above is None:
        text.append("; the noise floor was not measured" if not results["noise_floor"] else "")
    else:
        text.append(" is ")
        text.append(
            "above the noise floor" if above else "not above the noise floor",
            style="bold green" if above else "bold yellow",
        )
    for name, measured in results["noise_floor"].items():
        text.append(f"\n  the reference against itself, {visible(name)}: {write(measured)}")
        size, floor = None if kl is None else kl["value"], measured["value"]
        if above and size is not None and floor is not None and floor >= size:
            text.append(", which is no less", style="yellow")
    return text


def _schemes(schemes: Sequence[SchemeResult]) -> Table:
    table = _table(
        "candidate", "size", "KL, nats/token", "ΔCE, nats/token", "top-1 agreement", "front"
    )
    names = short_names([scheme["name"] for scheme in schemes])
    for name, scheme in zip(names, schemes, strict=True):
        mark = f" {NOT_ABOVE}" if scheme["above_noise"] is False else ""
        cells = [
            write(scheme["kl"], measure("kl")).both + mark,
            write(scheme["delta_cross_entropy"], measure("delta_cross_entropy")).both,
            write(scheme["top1_agreement"], measure("top1_agreement")).both,
        ]
        front = "●" if scheme["on_pareto_front"] else ""
        size = "–" if scheme["bytes"] is None else byte_size(scheme["bytes"])
        _add(table, [name, size, *cells, front])
    return table


def _sensitivity(results: ComparisonResults) -> Iterable[RenderableType]:
    layers: Sequence[LayerSensitivity] = results["sensitivity"]
    table = _table("quantised alone", "KL, nats/token", "bytes saved")
    for each in layers[:_SHOWN_LAYERS]:
        saved = byte_size(each["bytes_saved"])
        _add(table, [each["layer"], write(each["kl"], measure("kl")).both, saved])
    yield table
    if len(layers) > _SHOWN_LAYERS:
        yield Text(f"and {len(layers) - _SHOWN_LAYERS} more groups")
    total, whole = results["sensitivity_sum"], results["sensitivity_whole"]
    if total is not None and whole is not None:
        yield Text(
            f"the parts add up to {write_number(total)} nats/token, "
            f"all together cost {write_number(whole)}"
        )


def _worst(tokens: Sequence[WorstToken]) -> Table:
    table = _table("KL", "where they differ most", "reference expects", "candidate expects")
    for token in tokens[:_SHOWN_TOKENS]:
        before = visible(token["before"])[-_CONTEXT:]
        context = Text.assemble(before, (visible(token["token"])[:_LONGEST_TOKEN], "bold reverse"))
        table.add_row(
            Text(write_number(token["kl"], 3)),
            context,
            _first(token["reference_top"]),
            _first(token["candidate_top"]),
        )
    table.columns[0].justify = "right"
    for column in table.columns[1:]:
        column.justify = "left"
    return table


def _first(top: Sequence[tuple[str, float]]) -> Text:
    """What a model found likeliest."""
    if not top:
        return Text("–")
    word, p = top[0]
    return Text(f"{visible_token(word)[:_LONGEST_TOKEN]} {probability(p)}")


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
