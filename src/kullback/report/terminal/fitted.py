"""Tables and sentences that fit the terminal: words fold, numbers never do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from kullback.runtime.escaping import visible

__all__ = ["WIDTH", "Cell", "Column", "FittedTable", "Sentence"]

#: No line is wider.
WIDTH = 100
_GAP = 2

#: Text, or a pair of what a wide and what a narrow terminal shows.
Cell: TypeAlias = str | Text | tuple[str, str]


@dataclass(frozen=True)
class Column:
    """A column; its title has a line for each ``\\n``."""

    title: str
    justify: Literal["left", "right"] = "right"
    folds: bool = False
    """Whether its words may fold: names and contexts, never numbers."""
    least: int = 14
    """Columns of the terminal that a folding column keeps."""
    dropped: int = 0
    """Where there is no room the column with the largest number is left out first; never at 0."""


class FittedTable:
    """A table without frame whose number cells are always complete."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._rows: list[tuple[tuple[tuple[Text, Text], ...], str]] = []

    def add(self, cells: Sequence[Cell], style: str = "") -> None:
        """A row; strings are made visible, so that a text cannot steer the terminal."""
        shown = tuple(map(_wide_and_narrow, cells))
        assert len(shown) == len(self._columns)
        self._rows.append((shown, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDTH)
        shown, narrow = self._fitting(width)
        room = (
            width
            - self._needed(shown, narrow)
            + sum(self._least(i) for i in shown if self._columns[i].folds)
        )
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        folding = [i for i in shown if self._columns[i].folds]
        for i in shown:
            column = self._columns[i]
            natural = self._natural(i, narrow)
            if column.folds:
                # Those to come keep what they need at least.
                later = sum(self._least(j) for j in folding if j > i)
                natural = min(natural, room - later)
                room -= natural
            table.add_column(
                column.title, justify=column.justify, width=natural, no_wrap=not column.folds,
                overflow="fold",
            )  # fmt: skip
        for cells, style in self._rows:
            table.add_row(*(cells[i][narrow] for i in shown), style=style)
        yield table
        if len(shown) < len(self._columns):
            titles = [
                column.title.replace("-\n", "").replace("\n", " ") for column in self._columns
            ]
            left_out = ", ".join(titles[i] for i in range(len(titles)) if i not in shown)
            yield Sentence(f"columns left out: {left_out}", "dim")

    def _fitting(self, width: int) -> tuple[list[int], bool]:
        """The columns to show, and whether in their narrow form."""
        shown = list(range(len(self._columns)))
        if self._needed(shown, narrow=False) <= width:
            return shown, False
        while self._needed(shown, narrow=True) > width:
            last = max(shown, key=lambda i: self._columns[i].dropped)
            if not self._columns[last].dropped:
                break
            shown.remove(last)
        return shown, True

    def _needed(self, shown: Sequence[int], narrow: bool) -> int:
        widths = (
            self._least(i) if self._columns[i].folds else self._natural(i, narrow) for i in shown
        )
        return sum(widths) + _GAP * (len(shown) - 1)

    def _least(self, i: int) -> int:
        return min(self._columns[i].least, self._natural(i, narrow=True))

    def _natural(self, i: int, narrow: bool) -> int:
        texts = [self._columns[i].title, *(cells[i][narrow].plain for cells, _ in self._rows)]
        return max(cell_len(line) for text in texts for line in text.split("\n"))


def _wide_and_narrow(cell: Cell) -> tuple[Text, Text]:
    if isinstance(cell, Text):
        return cell, cell
    wide, narrow = (cell, cell) if isinstance(cell, str) else cell
    return _shown(wide), _shown(narrow)


def _shown(text: str) -> Text:
    return Text("\n".join(map(visible, text.split("\n"))))


class Sentence:
    """Text that folds between words and not at a no-break space; `strong` leading characters."""

    def __init__(self, text: str, style: str = "", strong: int = 0, indent: str = "") -> None:
        self._text, self._style, self._strong = visible(text), style, strong
        self._indent = indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for i, line in enumerate(self._folded(min(options.max_width, WIDTH))):
            text = Text(line.replace("\u00a0", " "), style=self._style)
            if i == 0:
                text.stylize("bold", 0, self._strong)
            yield text

    def _folded(self, width: int) -> Iterator[str]:
        # textwrap breaks at ASCII's spaces only, unlike Rich.
        yield from textwrap.wrap(
            self._text, width, subsequent_indent=self._indent, break_on_hyphens=False
        ) or [""]
