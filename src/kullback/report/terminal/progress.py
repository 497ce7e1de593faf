"""What people see while a text is read: tokens done, tokens a second, an honest time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["TextProgress"]

SECONDS_BETWEEN_LINES = 5.0


class TextProgress:
    """A line that stays in place in a terminal, and comes now and then elsewhere.

    The time left is that of the tokens to come at the mean speed so far, the first window, which
    warms everything up, left out.  A console of None shows nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._first: tuple[float, int] | None = None
        self._printed_at = time.monotonic()
        self._what = ""

    def __enter__(self) -> Self:
        if self.console is not None and self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console is not None and self.console.is_terminal:
            self._live.stop()

    def show_named(self, what: str, done: int, total: int) -> None:
        """Show how far one of several passes is; each has a time left of its own."""
        if what != self._what:
            self._what, self._first = what, None
        self.show(done, total)

    def stage(self, what: str) -> None:
        """Say what comes next, where nothing is known of how long it takes."""
        if self.console is None:
            return
        if self.console.is_terminal:
            self._live.update(Text(what), refresh=True)
        else:
            self.console.print(what, soft_wrap=True, markup=False)

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` tokens are done."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        if self.console is None:
            return
        line = self.line(done, total, now)
        if self.console.is_terminal:
            self._live.update(line, refresh=True)
        elif now - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._printed_at = now
            self.console.print(line, soft_wrap=True)

    def line(self, done: int, total: int, now: float) -> Text:
        """The line at time `now`, in seconds."""
        assert self._first is not None
        began, before = self._first
        text = f"{self._what}  " if self._what else ""
        text += f"{done:>9,} of {total:,} tokens"
        if done > before and now > began:
            speed = (done - before) / (now - began)
            left = round((total - done) / speed)
            text += f"  {speed:,.0f} tokens/s  {left // 60}:{left % 60:02d} left"
        return Text(text)
