"""Columns of equal length with names: what a notebook makes a data frame of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kullback.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "Table"]

Column: TypeAlias = "np.ndarray | Sequence[object]"

SHOWN_ROWS = 20  # of a table in a notebook


class Table:
    """Named columns; some are computed when they are first asked for.

    >>> table = Table({"token": ["a", "b"], "nll": lambda: [0.5, 1.5]})
    >>> len(table), table["nll"], table.column_names
    (2, [0.5, 1.5], ('token', 'nll'))
    """

    def __init__(self, columns: Mapping[str, Column | Callable[[], Column]]) -> None:
        self._columns = dict(columns)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self._columns)

    def __getitem__(self, name: str) -> Column:
        column = self._columns[name]
        if callable(column):
            column = self._columns[name] = column()
        return column

    def __len__(self) -> int:
        return len(self[next(iter(self._columns))]) if self._columns else 0

    def rows(self) -> Iterator[dict[str, object]]:
        """One dictionary a row."""
        columns = {name: self[name] for name in self._columns}
        for i in range(len(self)):
            yield {name: column[i] for name, column in columns.items()}

    def to_dict(self) -> dict[str, list[object]]:
        """Lists by the name of the column."""
        return {name: list(self[name]) for name in self._columns}

    def to_pandas(self) -> pd.DataFrame:
        """A data frame; raises `MissingExtraError` without pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install pandas") from error
        return pd.DataFrame({name: self[name] for name in self._columns})

    def __reduce__(self) -> tuple[type[Table], tuple[dict[str, Column]]]:
        """With all columns computed: the functions that compute them cannot be pickled."""
        return type(self), ({name: self[name] for name in self._columns},)

    def __repr__(self) -> str:
        return f"Table({len(self):,} rows: {', '.join(self._columns)})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self._columns)
        columns = [self[name] for name in self._columns]
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(column[i])}</td>" for column in columns) + "</tr>"
            for i in range(min(len(self), SHOWN_ROWS))
        )
        more = len(self) - SHOWN_ROWS
        caption = f"<caption>{more:,} more rows</caption>" if more > 0 else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return escape(f"{value:.6g}" if isinstance(value, float | np.floating) else str(value))
