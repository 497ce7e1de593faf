"""What a terminal shows: what the tests of summaries share."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, RenderableType


def printed(shown: RenderableType, width: int = 100) -> str:
    """What a terminal of that width, without colours, would show."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(shown)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def cells(shown: str, label: str) -> list[str]:
    """The words of the first line that begins with `label`, after it."""
    line = next(line for line in shown.splitlines() if line.startswith(label))
    return line.removeprefix(label).split()


def cut_numbers(shown: str, complete: Sequence[str]) -> list[str]:
    """Those of the numbers that no line holds whole."""
    lines = shown.splitlines()
    return [number for number in complete if not any(number in line for line in lines)]
