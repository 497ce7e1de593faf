"""Parts of the summaries of an evaluation and of a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from kullback.report.labels import measure
from kullback.report.numbers import Written, stacked, write, write_number
from kullback.report.terminal.fitted import Cell, Column, FittedTable, Sentence
from kullback.results.measurement import Measurement
from kullback.runtime.escaping import visible

__all__ = [
    "breakable",
    "measures_table",
    "notes_of",
    "protocol_line",
    "quantiles_line",
    "title_of",
]

_SETTINGS = {"preset": 0, "window": 1, "stride": 2, "bos": 3, "joined": 4, "special_tokens": 5}
# What differs between the methods of measures that are otherwise the same.
NO_INTERVAL = "no interval"
# Measures that are named beside how their intervals are computed.
FEW = 3
_DEGREES = re.compile(
    r", Student t with [\d.]+ degrees of freedom|(?<=the )\d+ (?=lowest freq)| \(p = [^)]*\)"
)


def title_of(title: str) -> Text:
    """The title."""
    return Text(visible(title), style="bold", overflow="fold")


def protocol_line(
    protocol: Mapping[str, object], fingerprint: str, label: str = "protocol"
) -> Sentence:
    """The settings of the protocol without the hashes, and the fingerprint of it all."""
    settings: list[str] = []
    how = protocol.get("protocol")
    if isinstance(how, Mapping):
        # The same order for what comes from a file, where the names are sorted.
        names = sorted(how, key=lambda name: _SETTINGS.get(str(name), len(_SETTINGS)))
        settings += [_setting(str(name), how[name]) for name in names]
    settings += [str(protocol[name]) for name in ("dtype", "device") if name in protocol]
    settings = [setting for setting in settings if setting]
    identity = f"fingerprint\u00a0{fingerprint[:16]}"
    return Sentence(f"{label}: {', '.join([*settings, identity])}", "dim", indent="  ")


def _setting(name: str, value: object) -> str:
    if name == "preset":
        return str(value)
    if isinstance(value, bool):
        return name if value else ""
    if (name, value) == ("special_tokens", "text"):
        return ""  # as nearly always
    return "" if value is None else f"{name}\u00a0{value}"


def measures_table(measures: Mapping[str, Measurement], verbose: bool) -> FittedTable:
    """Value, interval and unit; with `verbose` the design effect and the effective n, too."""
    columns = [
        Column("", "left", folds=True, least=24),
        Column("value, 95 % interval"),
        Column("unit", "left"),
    ]
    if verbose:
        columns += [Column("design\neffect"), Column("effective\nn")]
    table = FittedTable(columns)
    for name, measured in measures.items():
        how = measure(name)
        written = write(measured, how)
        cells: list[Cell] = [how.label, breakable(written), written.unit]
        if verbose:
            cells += [written.design_effect, written.effective_n]
        table.add(cells, "bold" if name in ("cross_entropy", "kl") else "")
    return table


def breakable(written: Written, mark: str = "") -> tuple[str, str]:
    """Value and interval for a wide cell, and below each other for a narrow one.

    >>> breakable(write(Measurement(5e-7, "", 1e-7, 9, 9, "", bounds=(4e-7, 6e-7))))
    ('(5.0 ± 1.0) × 10⁻⁷', '5.0 × 10⁻⁷\\n± 1.0 × 10⁻⁷')
    """
    value, interval = stacked(written)
    wide = written.both + mark
    return (wide, f"{value}{mark}\n{interval}") if interval else (wide, wide)


def quantiles_line(quantiles: Mapping[str, float]) -> Sentence:
    """The quantiles of the KL of single tokens."""
    parts = (
        f"{name} {write_number(kl, 3)}".replace(" ", "\u00a0") for name, kl in quantiles.items()
    )
    return Sentence(f"KL of single tokens, nats: {', '.join(parts)}", indent="  ")


def notes_of(measures: Mapping[str, Measurement], notes: Sequence[str]) -> Iterator[RenderableType]:
    """How the intervals are computed, and the notes of the result.

    What is of few of the measures names them.
    """
    labels: dict[str, list[str]] = {}
    for name, measured in measures.items():
        # The note says why there is none, and what to give.
        reason = measured.note if measured.method == NO_INTERVAL else ""
        labels.setdefault(reason or _DEGREES.sub("", measured.how), []).append(measure(name).label)
    methods = [
        f"{', '.join(of)}: {text}" if text and len(of) <= min(FEW, len(measures) // 2) else text
        for text, of in labels.items()
    ]
    for text in (*methods, *notes):
        if text:
            yield Sentence(f"• {text}", "dim", indent="  ")
