"""`kullback lab`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, progress_console, result_console
from kullback.cli.parsing import INTERRUPTED, add_command, seed

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands


__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    lab = add_command(
        commands, "lab", _lab, "the whole story on the embedded language, with a report",
        "kullback lab -o lab",
        "kullback lab -o quick --steps 200",
    )  # fmt: skip
    lab.add_argument(
        "-o", "--output", type=Path, default=Path("lab"), metavar="DIR",
        help="folder for the run, results.json and report.html (default: lab)",
    )  # fmt: skip
    lab.add_argument("--steps", type=int, default=800, help="training steps (default: 800)")
    lab.add_argument("--seed", type=seed, default=0, help="of everything random (default: 0)")


def _lab(options: argparse.Namespace) -> int:
    from rich.text import Text

    from kullback.lab import LabConfig, Progress, run_lab
    from kullback.report.terminal.lab import lab_summary
    from kullback.report.terminal.training import TrainingDisplay
    from kullback.sources.catalogue import open_source
    from kullback.training.interruption import Interrupted

    progress = progress_console()
    config = LabConfig(steps=options.steps, seed=options.seed)
    floor = open_source("conjugation", config.holdout, config.seed).training.entropy_per_token
    try:
        with TrainingDisplay(progress, config.steps, floor) as display:
            results = run_lab(
                options.output,
                config,
                Progress(lambda what: progress.print(Text(f"· {what}", style="dim")), display.show),
                options.command_line,
            )
    except Interrupted as stop:
        progress.print(f"stopped at step {stop.step}; go on with: {options.command_line}")
        return INTERRUPTED
    report = options.output / "report.html"
    if options.json:
        print_json(results)
    else:
        files = {"report": str(report), "numbers": str(options.output / "results.json")}
        result_console().print(lab_summary(results, files))
    return 0
