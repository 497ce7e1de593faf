"""``RUN/report.html``: a page that follows a training, rewritten about every minute."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from kullback.errors import KullbackError
from kullback.results.training import StepMetrics, TrainingRun
from kullback.runtime.contents import is_kind
from kullback.runtime.files import write_atomically
from kullback.runtime.ranks import is_rank_zero
from kullback.training.interruption import Interrupted
from kullback.training.metrics import read_metrics
from kullback.training.progress import ForwardedProgress, TrainingProgress

__all__ = ["LivePage"]

SECONDS = 60.0


class LivePage(ForwardedProgress):
    """Writes the page of `run` after its first step, then each minute, and at the end.

    A page that cannot be written is noted once, and training continues; a file of another kind at
    its place is left alone.
    """

    def __init__(self, receiver: TrainingProgress, run: Path) -> None:
        super().__init__(receiver)
        self._run, self._path = run, run / "report.html"
        self._lines: list[StepMetrics] = []
        self._steps = 0
        self._floor: float | None = None
        self._written = -math.inf
        self._off = not is_rank_zero()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._lines:
            self._write(str(error) if isinstance(error, KullbackError | Interrupted) else "stopped")

    def begin(self, steps: int, floor: float | None) -> None:
        """Training begins or resumes: keep the lines that are there."""
        super().begin(steps, floor)
        self._steps, self._floor = steps, floor
        self._lines = _earlier(self._run)

    def step(self, metrics: StepMetrics) -> None:
        """Keep the line, and rewrite the page where it is a minute old."""
        super().step(metrics)
        self._lines = [line for line in self._lines if line.step < metrics.step] + [metrics]
        if time.monotonic() - self._written >= SECONDS:
            self._write("training")

    def finish(self, result: TrainingRun) -> None:
        """The page of the finished run, with its result."""
        self._lines = _earlier(self._run)
        self._steps, self._floor = result.steps, result.floor
        self._write("finished", str(result))

    def _write(self, state: str, result: str = "") -> None:
        if self._off:
            return
        from kullback.report.html.training import render_training  # and Matplotlib

        try:
            if (
                self._path.exists()
                and self._path.stat().st_size
                and not is_kind(self._path, "report")
            ):
                self._off = True
                self.note(f"{self._path} is no report of kullback: it is kept, and none is written")
                return
            name = self._run.resolve().name
            page = render_training(name, self._lines, self._steps, self._floor, state, result)
            write_atomically(self._path, page.encode())
        except (OSError, KullbackError) as error:
            self._off = True
            self.note(f"{self._path} cannot be written ({error}): the run has no page")
        self._written = time.monotonic()


def _earlier(run: Path) -> list[StepMetrics]:
    """The lines of ``metrics.jsonl``; none where it is missing or damaged."""
    try:
        return [msgspec.convert(line, StepMetrics) for line in read_metrics(run / "metrics.jsonl")]
    except (KullbackError, msgspec.ValidationError):
        return []
