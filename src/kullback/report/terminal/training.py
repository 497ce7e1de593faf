"""Progress of a training run.

Progress goes to standard error.  In a terminal it is a bar and a line that stay in place; in a file
or a pipe it is a line now and then.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kullback.training.metrics import StepMetrics

__all__ = ["TrainingDisplay"]


class TrainingDisplay:
    """Shows each `StepMetrics`: the loss, the floor, the KL between them, the speed, the rest.

    A context manager; call :meth:`show` with the metrics as they come.
    """

    def __init__(self, console: Console, steps: int, floor: float | None) -> None:
        self.console, self.steps, self.floor = console, steps, floor
        self._live = Live(console=console, transient=False, auto_refresh=False)
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def show(self, metrics: StepMetrics) -> None:
        """Show the metrics now (terminal), or every five seconds and at the end (elsewhere)."""
        line = self._line(metrics)
        if self.console.is_terminal:
            # A grid: in a group the bar does not end its line, and the time left is cut off.
            rows = Table.grid()
            rows.add_row(ProgressBar(self.steps, metrics.step, width=40))
            rows.add_row(line)
            self._live.update(rows, refresh=True)
            return
        now = time.monotonic()
        if now - self._printed_at >= 5 or metrics.step == self.steps:
            self._printed_at = now
            self.console.print(line, soft_wrap=True)

    def _line(self, metrics: StepMetrics) -> Text:
        text = Text(f"step {metrics.step:>5}/{self.steps}  ")
        text.append(f"cross-entropy {metrics.cross_entropy:.4f}", style="bold")
        if self.floor is not None and metrics.kl is not None:
            text.append(f"  floor {self.floor:.4f}  ")
            text.append(
                f"KL {metrics.kl:.5f} ± {metrics.kl_standard_error:.5f}", style="bold green"
            )
        text.append(" nats/token")
        left = max(0, round(metrics.seconds_left))
        text.append(
            f"  {metrics.tokens_per_second:,.0f} tokens/s  {left // 60}:{left % 60:02d} left"
        )
        return text
