"""Tables in a terminal: no frame, numbers to the right, and no cell ever cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from kullback.report.escaping import visible

__all__ = ["add_row", "numbers_table"]


def numbers_table(title: str, first: str, *others: str) -> Table:
    """A table of the columns `first`, for names, and `others`, for numbers."""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
    )
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def add_row(table: Table, cells: Sequence[str], style: str = "") -> None:
    """Add a row of text: no markup, no control characters."""
    table.add_row(*(Text(visible(cell), style=style) for cell in cells))
