"""The interface through which training reports its steps."""

from __future__ import annotations

from kullback.results.training import StepMetrics
from kullback.runtime.progress import Progress

__all__ = ["TrainingProgress"]


class TrainingProgress(Progress):
    """Receives stages and the metrics of a run; this one ignores them.

    The terminal's is `kullback.report.terminal.training.TrainingDisplay`.
    """

    def tell(self, text: str) -> None:
        """A fact about the run that begins: its data, its size, its time."""

    def begin(self, steps: int, floor: float | None) -> None:
        """Training begins or resumes; `floor` is the exact entropy in nats/token, if known."""

    def step(self, metrics: StepMetrics) -> None:
        """A line of metrics: after the first step, and then after every `log_every` steps."""
