"""What people see in the terminal: progress while it lasts, then tables.

Progress goes to standard error.  In a terminal it is a bar and a line that stay in place; in a file
or a pipe it is a line now and then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kullback.results.lab import Evaluation, LabResults, Quantisation
from kullback.sources.language import Language
from kullback.training.loop import StepMetrics

__all__ = ["TrainingDisplay", "evaluation_table", "lab_summary", "source_table"]


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


def source_table(name: str, language: Language) -> Group:
    """What a source says of itself."""
    facts = Table(title=f"{name}: exact", show_header=False, title_justify="left")
    sentences, prefixes = language.number_of_sentences, language.number_of_prefixes
    for label, value in (
        ("vocabulary", f"{len(language.vocabulary):,} words"),
        ("distinct sentences", f"{sentences:,}"),
        ("distinct prefixes", f"{prefixes:,}"),
        ("tokens per sentence", f"{language.tokens_per_sentence:.6f}"),
        ("entropy per sentence", f"{language.entropy_per_sentence:.9f} nats"),
        ("entropy per token (the floor)", f"{language.entropy_per_token:.9f} nats/token"),
    ):
        facts.add_row(label, value)
    slots = Table(title="by slot", title_justify="left")
    slots.add_column("slot")
    slots.add_column("tokens/sentence", justify="right")
    slots.add_column("entropy (nats/token)", justify="right")
    for slot, entropy in language.entropy_by_slot().items():
        slots.add_row(
            slot, f"{entropy.tokens_per_sentence:.4f}", f"{max(entropy.entropy, 0.0):.6f}"
        )
    return Group(facts, slots)


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """Models beside each other."""
    table = Table(title="cross-entropy = entropy + KL, in nats/token", title_justify="left")
    for column in ("model", "language"):
        table.add_column(column)
    for column in (
        "cross-entropy", "= entropy", "+ KL", "perplexity", "top-1", "(best)", "top-5", "ECE"
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for found in evaluations:
        table.add_row(
            found["name"],
            found["language"],
            f"{found['cross_entropy']:.6f}",
            f"{found['entropy']:.6f}",
            f"{found['kl']:.6f}",
            f"{found['perplexity']:.4f}",
            f"{found['top1_accuracy']:.2%}",
            f"{found['best_top1_accuracy']:.2%}",
            f"{found['top5_accuracy']:.2%}",
            f"{found['ece']:.4f}",
        )
    return table


def slot_table(evaluation: Evaluation) -> Table:
    """The three terms by slot."""
    table = Table(title="by slot (nats per token of the slot)", title_justify="left")
    table.add_column("slot")
    for column in ("tokens/sentence", "cross-entropy", "= entropy", "+ KL"):
        table.add_column(column, justify="right")
    for slot in evaluation["by_slot"]:
        table.add_row(
            slot["slot"],
            f"{slot['tokens_per_sentence']:.4f}",
            f"{slot['cross_entropy']:.6f}",
            f"{max(slot['entropy'], 0.0):.6f}",
            f"{slot['kl']:.6f}",
        )
    return table


def quantisation_table(quantisations: Sequence[Quantisation]) -> Table:
    """What fewer bits cost."""
    table = Table(title="quantisation, in nats/token", title_justify="left")
    table.add_column("scheme")
    for column in ("bytes", "ΔCE", "KL(original‖quantised)", "KL(truth‖quantised)", "top-1 agrees"):
        table.add_column(column, justify="right")
    for found in quantisations:
        table.add_row(
            found["scheme"],
            f"{found['bytes']:,}",
            f"{found['delta_cross_entropy']:+.6f}",
            f"{found['kl_original']:.6f}",
            f"{found['kl_truth']:.6f}",
            f"{found['top1_agreement']:.3%}",
        )
    return table


def pair_table(results: LabResults) -> Table:
    """Right forms over wrong ones, all cells together."""
    table = Table(title="right forms preferred (minimal pairs)", title_justify="left")
    columns = [(s, h) for h in (False, True) for s in ("english", "spanish")]
    table.add_column("model")
    for side, held_out in columns:
        table.add_column(
            f"{side.capitalize()}, {'held out' if held_out else 'seen'}", justify="right"
        )
    accuracy: dict[str, dict[tuple[str, bool], float]] = {}
    for found in results["minimal_pairs"]:
        if found["group"] == "all":
            row = accuracy.setdefault(found["model"], {})
            row[found["side"], found["held_out"]] = found["accuracy"]
    for model, row in accuracy.items():
        table.add_row(model, *(f"{row[key]:.2%}" if key in row else "" for key in columns))
    return table


def lab_summary(results: LabResults, files: Mapping[str, str]) -> Group:
    """The whole lab on one screen."""
    model = results["evaluations"][0]
    identity = Text.assemble(
        "\n  cross-entropy = entropy + KL\n  ",
        (f"{model['cross_entropy']:.6f}", "bold"),
        " = ",
        (f"{model['entropy']:.6f}", "bold"),
        " + ",
        (f"{model['kl']:.6f}", "bold green"),
        f" nats/token, exact over {model['prefixes']:,} prefixes",
        f" (residual {model['identity_residual']:.1e})\n",
    )
    seconds = results["seconds"]
    closing = Text(
        f"\n{seconds['training']:.1f} s of training, {seconds['total']:.1f} s in all, "
        f"{results['peak_memory_mb']:,.0f} MB at most\n"
        + "".join(f"{what}: {where}\n" for what, where in files.items())
    )
    return Group(
        identity,
        evaluation_table(results["evaluations"]),
        pair_table(results),
        quantisation_table(results["quantisations"]),
        closing,
    )
