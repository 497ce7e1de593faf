"""The HTML report of a training run, while it runs and after its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from kullback.report.figures.live_curves import Series, panel
from kullback.report.html.environment import render
from kullback.report.numbers import count, nats
from kullback.results.training import StepMetrics

__all__ = ["REFRESH_SECONDS", "render_training"]

REFRESH_SECONDS = 30


def render_training(
    name: str,
    lines: Sequence[StepMetrics],
    steps: int,
    floor: float | None,
    state: str = "training",
    result: str = "",
) -> str:
    """The report as HTML; while `state` is "training" the browser reads it again by itself.

    `lines` are those of ``metrics.jsonl`` so far, `result` the table at the end.
    """
    running = state == "training"
    last = lines[-1] if lines else None
    return render(
        "training.html.jinja",
        _figures(lines, steps, floor),
        name=name,
        state=state,
        steps=steps,
        last=last,
        left=last.seconds_left if last is not None and running else None,
        floor=floor,
        refresh=REFRESH_SECONDS if running else 0,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=_facts(lines, floor),
        result=Markup.escape(result),
    )


def _series(
    lines: Sequence[StepMetrics],
    name: str,
    colour: str,
    value: Callable[[StepMetrics], float | None],
) -> Series:
    points = [(line.step, value(line)) for line in lines]
    return Series(name, colour, [(step, v) for step, v in points if v is not None])


def _figures(lines: Sequence[StepMetrics], steps: int, floor: float | None) -> dict[str, str]:
    """The panels by name; those without a number are left out."""
    losses = [
        _series(lines, "training", "muted", lambda m: m.cross_entropy),
        _series(lines, "validation", "ink", lambda m: m.validation_cross_entropy),
    ]
    if floor is not None:
        ends = [(0, floor), (steps, floor)]
        losses.append(Series("floor", "entropy", ends, dashed=True))
    panels = {
        "losses": panel("cross-entropy, nats/token", losses, steps),
        "kl": panel(
            "KL, nats/token",
            [
                _series(lines, "live", "kl", lambda m: m.kl),
                _series(lines, "validation", "ink", lambda m: m.validation_kl),
            ],
            steps,
        ),
        "bits": panel(
            "bits per byte, validation",
            [_series(lines, "validation", "ink", lambda m: m.validation_bits_per_byte)],
            steps,
        ),
        "rate": panel(
            "learning rate of the blocks' matrices",
            [_series(lines, "rate", "other", lambda m: m.learning_rate)],
            steps,
        ),
        "speed": panel(
            "tokens/s", [_series(lines, "speed", "other", lambda m: m.tokens_per_second)], steps
        ),
    }
    return {name: svg for name, svg in panels.items() if svg}


def _facts(lines: Sequence[StepMetrics], floor: float | None) -> list[tuple[str, str]]:
    """The last numbers of the run, with their names."""
    if not lines:
        return []
    last = lines[-1]
    facts = [("cross-entropy, training", nats(last.cross_entropy))]
    if floor is not None:
        facts.append(("floor (exact entropy)", nats(floor, 6)))
    if last.kl is not None:
        error = "" if last.kl_standard_error is None else f" ± {nats(last.kl_standard_error, 5)}"
        facts.append(("KL, live ± standard error", nats(last.kl, 5) + error))
    for label, field in (
        ("cross-entropy, validation", "validation_cross_entropy"),
        ("bits per byte, validation", "validation_bits_per_byte"),
    ):
        values = [getattr(line, field) for line in lines if getattr(line, field) is not None]
        if values:
            facts.append((label, nats(values[-1])))
    facts.append(("tokens", count(last.tokens)))
    facts.append(("tokens/s", count(last.tokens_per_second)))
    return facts
