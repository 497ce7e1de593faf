"""Rows of a comparison while they are computed: in memory while they are few, then on disk.

Axes: M rows, K most probable tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import attrgetter

import numpy as np
from jaxtyping import Shaped

from kullback.runtime.columns import IN_MEMORY_EACH, PART_ROWS, Column
from kullback.scoring.divergence import DivergenceStatistics, concatenate_divergences
from kullback.scoring.pair_sums import TOP_K

__all__ = ["COLUMNS", "WIDTHS", "DivergenceColumns"]

_OF_MODEL: dict[str, type[np.generic]] = {
    "nll": np.float64,
    "top1": np.int32,
    "top_tokens": np.int32,
}
_OF_MODEL |= {"top_log_probabilities": np.float64}
COLUMNS: dict[str, type[np.generic]] = {
    "kl": np.float64,
    "reverse_kl": np.float64,
    "jensen_shannon": np.float64,
    "total_variation": np.float64,
    "top5_overlap": np.int32,
    "reference_padding": np.float64,
    "candidate_padding": np.float64,
    **{f"reference.{name}": kind for name, kind in _OF_MODEL.items()},
    "reference.rank": np.int32,
    "reference.top1_probability": np.float64,
    **{f"candidate.{name}": kind for name, kind in _OF_MODEL.items()},
}
"""What a comparison reads of `DivergenceStatistics`, with the type that it is kept in."""
WIDTHS = {name: TOP_K if ".top_" in name else 1 for name in COLUMNS}
"""The numbers of a row."""
# Rows that are appended together, since windows may be short.
ROWS_AT_ONCE = 8192


class DivergenceColumns:
    """Rows in the order of the text, about 200 bytes each.

    An append that Ctrl-C interrupts adds all of its rows or none.
    """

    def __init__(self) -> None:
        self._columns = {name: Column(kind, IN_MEMORY_EACH) for name, kind in COLUMNS.items()}
        self._rows = 0
        self._waiting: list[DivergenceStatistics] = []

    def __len__(self) -> int:
        """M."""
        return self._rows + sum(map(len, self._waiting))

    def append(self, divergences: DivergenceStatistics) -> None:
        """Add rows; raises `RunError` where they do not fit on the disk."""
        self._waiting.append(divergences)
        if len(self) - self._rows >= ROWS_AT_ONCE:
            self._write()

    def append_columns(self, columns: Mapping[str, Shaped[np.ndarray, "m ..."]]) -> None:
        """Add rows that `parts` gave, before any other."""
        self._append(columns)
        self._rows += len(columns["kl"])

    def statistics(self) -> DivergenceStatistics:
        """All rows, read-only, memory-mapped where they are on disk; nothing may be added after.

        What is not in `COLUMNS` is empty.
        """
        self._write()
        return _statistics({name: self._mapped(name) for name in COLUMNS})

    def settled(self) -> int:
        """How many rows there are now; `parts` up to them may be read while others are added."""
        self._write()
        return self._rows

    def parts(self, first: int, rows: int) -> Iterator[dict[str, Shaped[np.ndarray, "m ..."]]]:
        """The columns from row `first` up to `rows`, which are settled or all, in pieces."""
        settled = min(rows, self._rows)
        for begin in range(first, settled, PART_ROWS):
            last = min(begin + PART_ROWS, settled)
            yield {
                name: _shaped(name, column[begin * WIDTHS[name] : last * WIDTHS[name]])
                for name, column in self._columns.items()
            }
        if max(first, settled) < rows:
            waiting = _typed(concatenate_divergences(self._waiting))
            yield {name: values[max(first - settled, 0) :] for name, values in waiting.items()}

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = concatenate_divergences(self._waiting)
        self._append(_typed(rows))
        self._rows, self._waiting = self._rows + len(rows), []

    def _append(self, columns: Mapping[str, Shaped[np.ndarray, "m ..."]]) -> None:
        for name, values in columns.items():
            self._columns[name].append(values.reshape(-1))

    def _mapped(self, name: str) -> Shaped[np.ndarray, "M ..."]:
        return _shaped(name, self._columns[name].mapped())


def _statistics(columns: Mapping[str, Shaped[np.ndarray, "m ..."]]) -> DivergenceStatistics:
    """Rows of `COLUMNS`; what is not among them is empty."""
    empty = DivergenceStatistics.empty(0)

    def of(prefix: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): values
            for name, values in columns.items()
            if name.startswith(prefix)
        }

    return replace(
        empty,
        reference=replace(empty.reference, **of("reference.")),
        candidate=replace(empty.candidate, **of("candidate.")),
        **{name: values for name, values in columns.items() if "." not in name},
    )


def _typed(divergences: DivergenceStatistics) -> dict[str, Shaped[np.ndarray, "m ..."]]:
    return {name: np.asarray(attrgetter(name)(divergences), kind) for name, kind in COLUMNS.items()}


def _shaped(name: str, values: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "m ..."]:
    return values if WIDTHS[name] == 1 else values.reshape(-1, WIDTHS[name])
