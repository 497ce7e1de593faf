"""`kullback lab`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.output import print_line, print_result, progress_console
from kullback.cli.parsing import add_command, add_force, given, number, output_name
from kullback.report.lab_files import lab_outputs
from kullback.runtime.interruption import exit_code
from kullback.runtime.outputs import check_outputs
from kullback.runtime.ranges import SEEDS
from kullback.runtime.ranks import check_one_process
from kullback.training.config import RANGES

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands


__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    lab = add_command(
        commands, "lab", _lab,
        "train, evaluate and quantise a model on the embedded language, with a report",
        "kullback lab -o lab",
        "kullback lab -o quick --steps 200",
    )  # fmt: skip
    lab.add_argument(
        "-o", "--output", type=output_name, default=Path("lab"), metavar="DIR",
        help="folder for the run, results.json and report.html (default: lab)",
    )  # fmt: skip
    add_force(lab, "report, figures or results")
    lab.add_argument(
        "--steps",
        type=number(RANGES["steps"]),
        default=800,
        metavar="N",
        help="training steps (default: 800)",
    )
    lab.add_argument(
        "--seed",
        type=number(SEEDS),
        default=0,
        metavar="N",
        help="seed of everything random (default: 0)",
    )


def _lab(options: argparse.Namespace) -> int:
    check_one_process("the lab is run")
    # Before torch is imported, which takes seconds; `run_lab` decides again.
    check_outputs(*lab_outputs(options.output), **given(options, "force"))
    from kullback.lab import LabConfig, run_lab
    from kullback.report.terminal.lab_progress import LabDisplay
    from kullback.sources.catalogue import open_source
    from kullback.training.interruption import Interrupted

    console = progress_console()
    config = LabConfig(steps=options.steps, seed=options.seed)
    floor = open_source("conjugation", config.holdout, config.seed).training.entropy_per_token
    try:
        with LabDisplay(console, config.steps, floor) as display:
            results = run_lab(
                options.output, config, display, options.command_line, display.step,
                **given(options, "force"),
            )  # fmt: skip
    except Interrupted as stop:
        console.print(
            f"stopped at step {stop.step}; resume with: {options.command_line}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        return exit_code()
    print_result(results, options.json)
    if not options.json:
        print_line("")
        print_line(f"report: {options.output / 'report.html'}")
        print_line(f"numbers: {options.output / 'results.json'}")
    return 0
