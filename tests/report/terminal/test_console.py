"""A console on which no text can act."""

from __future__ import annotations

import io

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from kullback.report.terminal.console import VisibleConsole

HOSTILE = "a\x1b]0;title\x07\x9b2J\u202eb\x00"


def written(*renderables: object, **settings: object) -> str:
    """What a console writes."""
    console = VisibleConsole(file=io.StringIO(), width=80, **settings)
    for renderable in renderables:
        console.print(renderable, markup=False, highlight=False)
    return console.file.getvalue()


def test_text_cannot_act():
    """Strings, texts and cells of tables, with colours or without, are shown."""
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE))
    shown = written(HOSTILE, Text(HOSTILE), table)
    assert not set(shown) & set("\x1b\x07\x9b\u202e\x00")
    assert shown.count("a␛]0;title") == 4


def test_colours_and_bars_stay():
    """What Rich sends itself reaches the terminal; the description of a bar is text."""
    settings = {"force_terminal": True, "color_system": "truecolor"}
    assert "\x1b[1m" in written(Text("bold", style="bold"), **settings)
    console = VisibleConsole(file=io.StringIO(), width=80, **settings)
    with Progress(console=console) as bars:
        bars.add_task(HOSTILE.replace("[", ""), total=3)
    shown = console.file.getvalue()
    assert "\x1b[?25l" in shown  # the cursor is hidden
    assert "␛]0;title" in shown
    assert "\x1b]0;" not in shown
    assert "\x9b" not in shown
