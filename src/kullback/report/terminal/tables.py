"""Tables in a terminal: no frame, numbers to the right, and no cell ever cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kullback.runtime.escaping import visible

__all__ = ["add_row", "numbers_table", "titled"]


def numbers_table(first: str, *others: str) -> Table:
    """A table of the columns `first`, for names, and `others`, for numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def titled(title: str, table: Table) -> Group:
    """A table below its title, with a blank line above."""
    return Group(Text(f"\n{visible(title)}", style="bold"), table)


def add_row(table: Table, cells: Sequence[str], style: str = "") -> None:
    """Add a row of text: no markup, no control characters."""
    table.add_row(*(Text(visible(cell), style=style) for cell in cells))
