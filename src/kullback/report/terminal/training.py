"""Training in the terminal: progress while it runs, and the table at its end.

Progress goes to standard error: in a terminal a bar and a line that stay in place, in a file or a
pipe a line every five seconds.  Losses are cross-entropies in nats/token.  No line is longer than
80 columns.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from textwrap import wrap
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from kullback.report.labels import Measure
from kullback.report.numbers import count, nats, seconds, write
from kullback.report.terminal.tables import add_row, numbers_table
from kullback.results.measurement import Measurement
from kullback.results.training import StepMetrics, TrainingRun
from kullback.runtime.escaping import visible
from kullback.runtime.wording import count_of
from kullback.training.progress import TrainingProgress

__all__ = ["TrainingDisplay", "losses_text", "training_summary"]

SECONDS_BETWEEN_LINES = 5.0
WIDTH = 80


class TrainingDisplay(TrainingProgress):
    """Shows the stages and each `StepMetrics` of a run on a console.  A context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._steps, self._stage = 0, ""
        self._validation: float | None = None  # the last one
        self._floor: float | None = None
        self._bars = _Bars(console) if console.is_terminal else None
        self._printed_at = 0.0

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
        if self._bars is not None:
            self._bars.stop()

    def stage(self, what: str) -> None:
        """Show what begins, where the time that it takes is unknown."""
        self._stage = visible(what)
        if self._bars is not None:
            self._bars.show(self._stage, 0, None, "")
        else:
            self._print(f"{visible(what)} ...")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._print(visible(text))

    def tell(self, text: str) -> None:
        """Print a fact about the run."""
        self._print(visible(text))

    def advance(self, done: int, total: int) -> None:
        """Show how much of the stage is done."""
        if self._bars is not None:
            self._bars.show(self._stage, done, total, f"{done / max(total, 1):.0%}")

    def begin(self, steps: int, floor: float | None) -> None:
        """Training begins: show the number of steps, and the floor where it is known."""
        # Of a ladder each run begins anew.
        self._steps, self._floor, self._validation = steps, floor, None
        if self._bars is not None:
            self._bars.losses = None
        else:
            exact = "" if floor is None else f", floor {floor:.6f} (exact)"
            self._print(f"training for {count_of(steps, 'step')}; losses in nats/token{exact}")

    def step(self, metrics: StepMetrics) -> None:
        """Show the metrics now (terminal), or every five seconds and at the end (elsewhere)."""
        if metrics.validation_cross_entropy is not None:
            self._validation = metrics.validation_cross_entropy
        speed = f"{count(metrics.tokens_per_second)} tokens/s"
        left = f"{_clock(metrics.seconds_left)} left"
        if self._bars is not None:
            self._bars.losses = losses_text(metrics, self._floor, self._validation)
            done = f"step {count(metrics.step)} of {count(self._steps)}"
            self._bars.show(done, metrics.step, self._steps, f"{speed}  {left}")
        elif time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES or metrics.step in (
            1,
            self._steps,
        ):
            self._printed_at = time.monotonic()
            parts = [f"step {metrics.step}/{self._steps}", f"loss {metrics.cross_entropy:.4f}"]
            if metrics.kl is not None:
                parts.append(f"KL {metrics.kl:.5f} ± {metrics.kl_standard_error:.5f}")
            elif self._validation is not None:
                parts.append(f"validation {self._validation:.4f}")
            with_speed = ", ".join([*parts, speed, left])
            self._print(with_speed if len(with_speed) <= WIDTH else ", ".join([*parts, left]))

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


def losses_text(metrics: StepMetrics, floor: float | None, validation: float | None = None) -> Text:
    """The loss of the last steps in one line, with the floor and the KL of a source.

    On a text with the last cross-entropy of its validation split.
    """
    text = Text(no_wrap=True)
    text.append(f"CE {metrics.cross_entropy:.4f}", style="bold")
    if floor is not None and metrics.kl is not None:
        text.append(f", floor {floor:.4f}, ")
        text.append(f"KL {metrics.kl:.5f} ± {metrics.kl_standard_error:.5f}", style="bold green")
    elif validation is not None:
        text.append(f", validation {validation:.4f}", style="bold green")
    return text.append(" nats/token")


def _clock(duration: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(max(0, round(duration)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Bars(Progress):
    """A bar, and below it a line with the losses."""

    def __init__(self, console: Console) -> None:
        self.losses: Text | None = None
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            console=console,
            refresh_per_second=4,
        )
        self._task = self.add_task("", total=None, visible=False, numbers="")

    def show(self, what: str, completed: int, total: int | None, numbers: str) -> None:
        """Change the bar and the text beside it."""
        self.update(
            self._task,
            description=what,
            completed=completed,
            total=total,
            numbers=numbers,
            visible=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar and the line."""
        yield self.make_tasks_table(self.tasks)
        if self.losses is not None:
            yield self.losses


# --- the table at the end ----------------------------------------------------------------------


def training_summary(result: TrainingRun, verbose: bool = False) -> RenderableType:
    """The losses of a run beside its baseline, which of the two is better, and what to do next."""
    baseline = result.best_baseline
    units = ["nats/token"] if result.bits_per_byte is None else ["nats/token", "bits/byte"]
    table = numbers_table("cross-entropy", *units)
    first, last = map(count, result.training_steps)
    training = nats(result.training_cross_entropy)
    of = f"step {last}" if first == last else f"steps {first} to {last}"
    add_row(table, [f"training, {of}", training])
    add_row(table, ["validation", *_cells(result.cross_entropy, result.bits_per_byte)])
    same = "same tokens" if result.running_text is None else "in the same windows"
    name = f"{baseline.order}-gram Kneser-Ney, {same}"
    add_row(table, [name, *_cells(baseline.cross_entropy, baseline.bits_per_byte)])
    others = [(result.unigram, "unigram"), (result.uniform, "uniform")]
    if result.running_text is not None:
        running = f"{result.running_text.order}-gram Kneser-Ney, running text"
        others.insert(0, (result.running_text, running))
    for other, called in others:
        if other is not None:
            add_row(table, [called, *_cells(other.cross_entropy, other.bits_per_byte)])
    if result.floor is not None:
        name = "floor (exact entropy)"
        if result.cut_at is not None:
            name += f", first {count(result.cut_at)} tokens"
        add_row(table, [name, f"{result.floor:.6f}"])
    if result.kl is not None:
        add_row(table, ["KL(source‖model), validation", write(result.kl).both])
    folder, operand = visible(result.folder), visible(shlex.quote(result.folder))
    of_text = "" if result.bits_per_byte is None else " --text FILE"
    sentences = (*_verdict(result).splitlines(), _fit(result))
    lines = (
        f"written: {folder}",
        f"next: kullback evaluate {operand}{of_text}",
        f"      kullback sample {operand}",
    )
    wrapped = (Text("\n".join(wrap(text, WIDTH))) for text in sentences)
    return Group(table, *wrapped, *map(Text, lines))


def _cells(cross_entropy: Measurement, bits_per_byte: Measurement | None) -> list[str]:
    measurements = [cross_entropy] if bits_per_byte is None else [cross_entropy, bits_per_byte]
    return [write(measurement).both for measurement in measurements]


def _verdict(result: TrainingRun) -> str:
    """Whether the model or the baseline is better on the validation data."""
    low, high = result.difference.interval
    difference = write(result.difference, Measure("", signed=True))
    name = f"the {result.best_baseline.order}-gram"
    if result.running_text is not None:
        name += " in the same windows"
    if not result.difference.has_interval:
        return (
            f"The validation data has too few independent pieces to compare the model with {name}: "
            f"{difference}, without an interval."
        )
    if high < 0:
        return f"The model is better than {name}: {difference}."
    if low > 0:
        return (
            f"The model is worse than {name}: {difference}.\n"
            "Train for more steps, or train a larger model."
        )
    return f"The model and {name} are indistinguishable on this data: {difference}."


def _fit(result: TrainingRun) -> str:
    """What the baseline was chosen from and fitted to, and how long that took."""
    orders = ", ".join(str(baseline.order) for baseline in result.baselines)
    tokens = count(result.baseline_tokens)
    if result.baseline_tokens < result.training_split_tokens:
        of = count(result.training_split_tokens)
        # A text is counted from its end, beside which its validation split may be.
        tokens = f"the last {tokens} of {of}" if result.uniform is not None else f"{tokens} of {of}"
    return (
        f"n-grams: the best of orders {orders}, fitted to {tokens} training tokens in "
        f"{seconds(result.seconds.baseline)}"
    )
