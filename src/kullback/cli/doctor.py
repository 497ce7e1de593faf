"""`kullback doctor`: is there a bug in a training command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kullback.cli.output import print_line, print_result, terminal_progress
from kullback.cli.parsing import add_command, number, output_name
from kullback.errors import InvalidValueError
from kullback.runtime.ranges import EXPORTED_TOKENS, PASSES, SEEDS, Range
from kullback.runtime.ranks import process_count

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.results.doctor import Diagnosis

__all__ = ["add"]

MINUTES = Range(0.001, 100_000, whole=False)
NOTES = """
{data} and {out} in COMMAND are replaced by two folders, which are also in the environment:
KULLBACK_DATA and KULLBACK_OUT.  The first contains documents of a source whose entropy is
known (train.txt, train.jsonl, datasets/, parquet/, nanogpt/ and a tokenizer.json); the command
must train on it with its tokenizer, each document by itself from <s> to </s>, and save a Hugging
Face folder in the second.  What is named where the model shows it: labels shifted by one,
padding that counts in the loss, a loss averaged per micro-batch, a leak of the future, softmax
before the loss, an end token that is not trained."""


def add(commands: Commands) -> None:
    """Declare the command."""
    doctor = add_command(
        commands, "doctor", _doctor, "find the bug of a training command, by the floor it reaches",
        "kullback doctor -- python train.py {data} {out}",
        "kullback doctor -o checked --minutes 30 -- ./train.sh --data {data} --save {out}",
        "kullback doctor --json -- sh -c 'python train.py $KULLBACK_DATA $KULLBACK_OUT'",
        notes=NOTES,
    )  # fmt: skip
    doctor.usage = "%(prog)s [OPTIONS] -- COMMAND ..."
    doctor.add_argument(
        "-o", "--output", type=output_name, metavar="DIR",
        help="new folder for data, model and output of the command, or that of a diagnosis that "
        "failed, which is replaced (default: a temporary one)",
    )  # fmt: skip
    doctor.add_argument(
        "--minutes", type=number(MINUTES), default=10.0, metavar="M",
        help="minutes that the command may take (default: 10)",
    )  # fmt: skip
    doctor.add_argument(
        "--tokens", type=number(EXPORTED_TOKENS), default=100_000, metavar="N",
        help="tokens of the training split (default: 100000)",
    )  # fmt: skip
    doctor.add_argument(
        "--passes", type=number(PASSES), metavar="N",
        help="how often the command reads the training split, for the reference run (default: that "
        "of its trainer_state.json, else 1)",
    )  # fmt: skip
    doctor.add_argument(
        "--seed", type=number(SEEDS), default=0, metavar="N",
        help="seed of the data and of the reference run (default: 0)",
    )  # fmt: skip
    doctor.add_argument(
        "training", nargs=argparse.REMAINDER, metavar="-- COMMAND",
        help="the training command, after --",
    )  # fmt: skip


def _doctor(options: argparse.Namespace) -> None:
    training = options.training[1:] if options.training[:1] == ["--"] else options.training
    if process_count("WORLD_SIZE") > 1:
        raise InvalidValueError(
            "WORLD_SIZE is above 1: a command is diagnosed by one process; start kullback doctor "
            "without torchrun, which may be in COMMAND"
        )
    from kullback.doctor.command import check_command
    from kullback.doctor.folder import kept_folder, temporary_diagnosis

    check_command(training)
    is_kept = options.output is not None
    with kept_folder(options.output) if is_kept else temporary_diagnosis() as folder:
        result = _diagnosis(options, training, folder)
        print_result(result if is_kept else replace(result, folder=None), options.json)
    if is_kept and not options.json:
        print_line(f"data, model and output of the command: {options.output}")


def _diagnosis(options: argparse.Namespace, training: list[str], folder: Path) -> Diagnosis:
    from kullback.doctor.doctor import diagnose

    with terminal_progress() as progress:
        return diagnose(
            training, folder, options.minutes, options.tokens, options.passes, options.seed,
            progress,
        )  # fmt: skip
