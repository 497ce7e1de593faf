"""Progress of long work: the stage, tokens done, tokens per second, and the time left.

In a terminal it is one line that stays in place, never wider than the terminal.  In a file or a
pipe it is one line at each stage and one every five seconds.  On request each stage leaves a line
with its seconds.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from kullback.report.names import shorten
from kullback.runtime.escaping import visible
from kullback.runtime.progress import Progress

__all__ = ["TerminalProgress"]

SECONDS_BETWEEN_LINES = 5.0
_REFRESHES_PER_SECOND = 4.0  # more would cost a machine of two cores what it measures
_BAR_WIDTH = 10
_LEAST_FOR_BAR = 80  # columns of the terminal; a narrower one has no bar
_NUMBERS_WIDTH = 31  # at least: " 1,234,567 tokens/s  123:45 left"
_MOST_COLUMNS = 100


class TerminalProgress(Progress):
    """Shows stages and tokens on `console`; a console of None shows nothing.  A context manager.

    The time left is that of the remaining tokens at the mean speed of the stage so far, its first
    report, which includes warming up, left out.  With `began`, by `time.monotonic`, the seconds of
    all stages since then are printed, and those of the parts between them.
    """

    def __init__(self, console: Console | None, began: float | None = None) -> None:
        self.console = console
        self._timed: tuple[str, float] | None = None if began is None else ("starting", began)
        self._stages = 0
        self._stage = 0
        self._what = ""
        self._first: tuple[float, int] | None = None
        self._printed_at = time.monotonic()
        self._bars: Bars | None = None
        if console is not None and console.is_terminal:
            self._bars = Bars(
                SpinnerColumn(),
                _Description(console),
                *([BarColumn(bar_width=_BAR_WIDTH)] if console.width >= _LEAST_FOR_BAR else []),
                _Numbers(),
                console=console,
                transient=True,
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._task = self._bars.add_task("", total=None, visible=False, numbers="")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.part("")
        self._timed = None
        if self._bars is not None:
            self._bars.stop()

    def plan(self, stages: int) -> None:
        """How many stages there will be, so that each can be shown as "stage 4 of 8"."""
        self._stages = stages

    def stage(self, what: str) -> None:
        """A stage begins: show what it is."""
        self.part(what)
        self._stage += 1
        # Where there are more stages than were planned, their number would be wrong.
        known = self._stage <= self._stages
        number = f"stage {self._stage} of {self._stages}: " if known else ""
        self._what, self._first = number + visible(what), None
        if self._bars is not None:
            self._bars.reset(
                self._task, total=None, description=self._what, visible=True, numbers=""
            )
        elif self.console is not None:
            self._print(shorten(self._what, self._width))

    def part(self, what: str) -> None:
        """Print the seconds of the part that ends, where seconds are wanted."""
        if self._timed is None or self.console is None:
            return
        (ended, began), now = self._timed, time.monotonic()
        self._timed = what, now
        self._print(f"{now - began:8.2f} s  {visible(ended)}")

    def note(self, text: str) -> None:
        """Print a note, in a terminal above the line of the stage."""
        if self.console is not None:
            self._print(f"note: {visible(text)}")

    def tokens(self, done: int, total: int) -> None:
        """Show that `done` of the stage's `total` tokens are done."""
        now = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = now, done
        if self._bars is not None:
            self._bars.update(
                self._task,
                completed=done,
                total=total,
                visible=True,
                numbers=self._numbers(done, total, now),
            )
        elif self.console is not None and self._is_due(now):
            self._print(self.line(done, total, now))

    def advance(self, done: int, total: int) -> None:
        """Show how much of a stage without tokens is done."""
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=total, visible=True)
        elif self.console is not None and self._is_due(time.monotonic()):
            self._print(f"  {done / total:.0%} done")

    def line(self, done: int, total: int, now: float) -> str:
        """The line of a pipe, below that of its stage, at time `now` in seconds."""
        numbers = f"  {done:,} of {total:,} tokens"
        speed = self._numbers(done, total, now)
        return f"{numbers}  {speed}" if speed else numbers

    def _is_due(self, now: float) -> bool:
        return now - self._printed_at >= SECONDS_BETWEEN_LINES

    @property
    def _width(self) -> int:
        return min(_MOST_COLUMNS, 80 if self.console is None else self.console.width)

    def _numbers(self, done: int, total: int, now: float) -> str:
        """Speed and time left; empty before the second report."""
        if self._first is None:
            return ""
        began, before = self._first
        if done <= before or now <= began:
            return ""
        speed = (done - before) / (now - began)
        left = round((total - done) / speed)
        return f"{speed:,.0f} tokens/s  {left // 60}:{left % 60:02d} left"

    def _print(self, line: str) -> None:
        assert self.console is not None
        self._printed_at = time.monotonic()
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


class _Description(ProgressColumn):
    """The stage, in the columns that bar and numbers leave."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self._console = console

    def render(self, task: Task) -> Text:
        """The text at this moment; the terminal may have been resized."""
        width = min(_MOST_COLUMNS, self._console.width) - 4
        numbers = task.fields["numbers"]
        width -= max(_NUMBERS_WIDTH, len(numbers) + 1) if numbers else 0
        width -= _BAR_WIDTH + 1 if self._console.width >= _LEAST_FOR_BAR else 0
        return Text(shorten(task.description, max(12, width)), overflow="ellipsis", no_wrap=True)


class _Numbers(ProgressColumn):
    """Speed and time left."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The text at this moment."""
        return Text(str(task.fields["numbers"]), no_wrap=True)
