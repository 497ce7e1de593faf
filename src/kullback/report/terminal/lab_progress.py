"""Progress of the lab: its stages, and the loss while it trains.

In a terminal each stage has a bar; in a file or a pipe it has a line, and training has one every
five seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from kullback.report.numbers import count
from kullback.report.terminal.training import losses_text
from kullback.results.training import StepMetrics
from kullback.runtime.progress import Progress
from kullback.runtime.wording import count_of

__all__ = ["LabDisplay"]

SECONDS_BETWEEN_LINES = 5.0


class LabDisplay(Progress):
    """Shows which stage the lab is in, how far it is, and each `StepMetrics`; a context manager."""

    def __init__(self, console: Console, steps: int, floor: float) -> None:
        self.console, self.steps, self.floor = console, steps, floor
        self._stages = self._stage = 0
        self._bars = _Bars(console)
        self._task: TaskID | None = None
        self._printed_at = -SECONDS_BETWEEN_LINES

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            if kind is None:
                self._finish()
            self._bars.stop()

    def plan(self, stages: int) -> None:
        """How many stages there will be."""
        self._stages = stages

    def stage(self, what: str) -> None:
        """A stage begins: the one before is finished."""
        self._stage += 1
        where = f"stage {self._stage} of {self._stages}"
        if not self.console.is_terminal:
            self.console.print(f"{where}: {what}", soft_wrap=True, markup=False, highlight=False)
            return
        self._finish()
        self._task = self._bars.add_task(what, total=None, where=where)

    def tokens(self, done: int, total: int) -> None:
        """`done` of the stage's `total` tokens, or steps, are done."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def step(self, metrics: StepMetrics) -> None:
        """Training has come to a step."""
        line = self._line(metrics)
        if self.console.is_terminal:
            self._bars.line = line
            speed = f"training for {count_of(self.steps, 'step')}, "
            speed += f"{count(metrics.tokens_per_second)} tokens/s"
            if self._task is not None:
                self._bars.update(self._task, description=speed)
            self.tokens(metrics.step, self.steps)
            return
        now = time.monotonic()
        if now - self._printed_at >= SECONDS_BETWEEN_LINES or metrics.step == self.steps:
            self._printed_at = now
            left = max(0, round(metrics.seconds_left))
            line.append(f", {left // 60}:{left % 60:02d} left")
            self.console.print(line, soft_wrap=True)

    def _finish(self) -> None:
        """The bar of the stage is full, and the line of training has gone."""
        self._bars.line = None
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1)

    def _line(self, metrics: StepMetrics) -> Text:
        text = Text(f"step {count(metrics.step)}: ", no_wrap=True)
        return text.append_text(losses_text(metrics, self.floor))


class _Bars(Bars):
    """A bar a stage, and below them a line."""

    def __init__(self, console: Console) -> None:
        self.line: Text | None = None
        super().__init__(
            TextColumn("{task.fields[where]}"),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            BarColumn(bar_width=16),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            refresh_per_second=4,
            expand=console.width <= 100,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars and the line."""
        yield self.make_tasks_table(self.tasks)
        if self.line is not None:
            yield self.line
