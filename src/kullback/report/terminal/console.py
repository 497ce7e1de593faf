"""The terminal of all commands: a console on which no text can act."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from kullback.runtime.escaping import visible_lines

__all__ = ["VisibleConsole"]


class VisibleConsole(Console):
    """A console of Rich that shows control characters instead of sending them to the terminal.

    What Rich itself sends (colours, the movements of a progress bar) is not text and stays.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """The segments of a renderable; the text of each is visible."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Let the command decide: it may have a report to write before it ends."""
        raise  # Rich calls it while it handles the `BrokenPipeError`
