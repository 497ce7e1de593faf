"""`kullback scaling`: a ladder of runs, and the irreducible loss of their law."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_error, print_result, progress_console, reserved
from kullback.cli.parsing import add_command, add_force, given, input_name, number, output_name
from kullback.errors import InvalidValueError
from kullback.runtime.interruption import exit_code
from kullback.runtime.outputs import Output
from kullback.runtime.ranges import LADDER_MINUTES, RUNGS, SEEDS
from kullback.training.config import RANGES, SIZES

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.results.scaling import Scaling

__all__ = ["add"]

NOTES = """
A ladder of data trains one size of model on more and more tokens; a ladder of sizes wider and
wider models, with tokens in proportion to the parameters.  All rungs are scored on one validation
sample, which the bootstrap resamples.  On a source the exact entropy is printed beside E.  Ctrl-C
writes a checkpoint; the same command resumes, and does not train finished rungs again."""


def add(commands: Commands) -> None:
    """Declare the command."""
    scaling = add_command(
        commands, "scaling", _scaling, "fit the irreducible loss to a ladder of training runs",
        "kullback scaling -o ladder",
        "kullback scaling --vary size --rungs 6 --minutes 20 -o sizes --report sizes.html",
        "kullback scaling --text book.txt --minutes 30 -o book --json",
        notes=NOTES,
    )  # fmt: skip
    data = scaling.add_mutually_exclusive_group()
    data.add_argument(
        "--source", metavar="NAME", help="a source or a grammar file (default: conjugation)"
    )
    data.add_argument(
        "--text", type=input_name, nargs="+", action="extend", metavar="FILE",
        help="files, folders or patterns, as of train",
    )  # fmt: skip
    scaling.add_argument(
        "-o", "--output", type=output_name, metavar="DIR", required=True,
        help="new folder, in which each rung has a run folder; or that of the same ladder",
    )  # fmt: skip
    scaling.add_argument(
        "--vary", choices=("data", "size"), default="data",
        help="what grows from rung to rung (default: data)",
    )  # fmt: skip
    scaling.add_argument(
        "--rungs", type=number(RUNGS), default=7, metavar="N",
        help="runs of the ladder, at least 4 (default: 7)",
    )  # fmt: skip
    length = scaling.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=number(LADDER_MINUTES), metavar="M",
        help="training time of all rungs together (default: 4)",
    )  # fmt: skip
    length.add_argument(
        "--steps", type=number(RANGES["steps"]), metavar="N", help="steps of the first rung"
    )
    for flag, limits, default, shown, what in (
        ("--width", SIZES["width"], 64, "64", "width of the last rung's model"),
        ("--threads", RANGES["shards"], None, "2; 1 on one core", "threads, one shard each"),
        ("--seed", SEEDS, 0, "0", "seed of weights, data and bootstrap"),
    ):
        scaling.add_argument(
            flag, type=number(limits), default=default, metavar="N",
            help=f"{what} (default: {shown})",
        )  # fmt: skip
    scaling.add_argument(
        "--batch", type=number(SIZES["batch"]), metavar="N",
        help="sentences or windows of text per step of the last rung (default: 64 and 48)",
    )  # fmt: skip
    scaling.add_argument(
        "--report", type=output_name, metavar="FILE.html", help="write an HTML report"
    )
    add_force(scaling, "a report")


def _scaling(options: argparse.Namespace) -> int:
    force = given(options, "force")
    if force and options.report is None:
        raise InvalidValueError("--force: there is no --report; remove it")
    read = [*(options.text or ()), *([options.source] if options.source else [])]
    outputs = (
        Output("--report", options.report, "report"), Output("-o", options.output, "folder"),
    )  # fmt: skip
    with reserved(*outputs, inputs=read, **force):
        result = _scaled(options)
        if result is None:
            return exit_code()
        print_result(result, options.json, options.report, **force)
    return 0


def _scaled(options: argparse.Namespace) -> Scaling | None:
    """The result; None where it was interrupted, which has been said."""
    from kullback.ladder.scaling import scaling
    from kullback.report.terminal.training import TrainingDisplay
    from kullback.training.interruption import Interrupted

    try:
        with TrainingDisplay(progress_console()) as display:
            return scaling(
                options.output, source=options.source, text=options.text, vary=options.vary,
                rungs=options.rungs, minutes=options.minutes, steps=options.steps,
                width=options.width, batch=options.batch, threads=options.threads,
                seed=options.seed, progress=display,
            )  # fmt: skip
    except Interrupted as stop:
        print_error(f"stopped at step {stop.step}; resume with: {options.command_line}")
        return None
