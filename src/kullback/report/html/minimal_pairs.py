"""Tables of minimal pairs for the HTML report of a lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kullback.results.lab import MinimalPairAccuracy, PairGroup

__all__ = ["PairRow", "PairTable", "pair_tables"]

_GROUPS: tuple[PairGroup, ...] = ("all", "tense", "person", "regularity", "verb")


@dataclass(frozen=True)
class PairRow:
    """A line of a table: for each part of the language, the pairs and each model's accuracy."""

    value: str
    parts: tuple[tuple[int | None, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class PairTable:
    """The minimal pairs in one language: rows by group, columns by part and model."""

    language: str
    models: tuple[str, ...]
    held_out: tuple[bool, ...]
    groups: tuple[tuple[str, tuple[PairRow, ...]], ...]


def pair_tables(pairs: Sequence[MinimalPairAccuracy]) -> tuple[PairTable, ...]:
    """One table for each language of pairs; models and values in the order in which they come."""
    tables = []
    for language in ("english", "spanish"):
        here = [pair for pair in pairs if pair.side == language]
        if here:
            tables.append(_table(language, here))
    return tuple(tables)


def _table(language: str, pairs: Sequence[MinimalPairAccuracy]) -> PairTable:
    models = tuple(dict.fromkeys(pair.model for pair in pairs))
    held_out = tuple(sorted({pair.held_out for pair in pairs}))
    cells = {(p.group, p.value, p.held_out, p.model): (p.pairs, p.accuracy) for p in pairs}
    groups = []
    for group in _GROUPS:
        rows = []
        for value in dict.fromkeys(pair.value for pair in pairs if pair.group == group):
            parts = []
            for part in held_out:
                row = [cells.get((group, value, part, model)) for model in models]
                number = next((cell[0] for cell in row if cell), None)
                parts.append((number, tuple(cell[1] if cell else None for cell in row)))
            rows.append(PairRow(value, tuple(parts)))
        if rows:
            groups.append((group, tuple(rows)))
    return PairTable(language, models, held_out, tuple(groups))
