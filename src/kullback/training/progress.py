"""The interface through which training reports its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.runtime.progress import Progress

if TYPE_CHECKING:
    from kullback.results.training import StepMetrics

__all__ = ["ForwardedProgress", "SilentProgress", "TrainingProgress"]


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


class SilentProgress(TrainingProgress):
    """Tells nothing, not even notes: of non-zero ranks, and where notes have been told before."""

    def note(self, text: str) -> None:
        """Leave it out."""


class ForwardedProgress(TrainingProgress):
    """Passes everything on to `receiver`; what derives from it does something more."""

    def __init__(self, receiver: TrainingProgress) -> None:
        self.receiver = receiver

    def plan(self, stages: int) -> None:
        """Passed on."""
        self.receiver.plan(stages)

    def stage(self, what: str) -> None:
        """Passed on."""
        self.receiver.stage(what)

    def part(self, what: str) -> None:
        """Passed on."""
        self.receiver.part(what)

    def note(self, text: str) -> None:
        """Passed on."""
        self.receiver.note(text)

    def tokens(self, done: int, total: int) -> None:
        """Passed on."""
        self.receiver.tokens(done, total)

    def advance(self, done: int, total: int) -> None:
        """Passed on."""
        self.receiver.advance(done, total)

    def tell(self, text: str) -> None:
        """Passed on."""
        self.receiver.tell(text)

    def begin(self, steps: int, floor: float | None) -> None:
        """Passed on."""
        self.receiver.begin(steps, floor)

    def step(self, metrics: StepMetrics) -> None:
        """Passed on."""
        self.receiver.step(metrics)
