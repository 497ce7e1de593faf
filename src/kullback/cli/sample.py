"""`kullback sample`: sentences from a trained model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, print_lines
from kullback.cli.parsing import add_command, input_name, number
from kullback.runtime.ranges import SEEDS, SENTENCES, TEMPERATURES

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    sample = add_command(
        commands, "sample", _sample, "sentences from a trained model",
        "kullback sample runs/mine -n 5",
        "kullback sample runs/mine --prompt 'tomorrow you' --temperature 0 -n 1",
    )  # fmt: skip
    sample.add_argument(
        "run_folder", type=input_name, metavar="RUN", help="a run folder of kullback train"
    )
    sample.add_argument("--prompt", default="", metavar="TEXT", help="how the sentences begin")
    sample.add_argument(
        "-n",
        type=number(SENTENCES),
        default=10,
        metavar="N",
        help="number of sentences (default: 10)",
    )
    sample.add_argument(
        "--temperature", type=number(TEMPERATURES), default=1.0, metavar="T",
        help="temperature of the softmax; 0 takes the most probable token (default: 1)",
    )  # fmt: skip
    sample.add_argument(
        "--seed", type=number(SEEDS), default=0, metavar="N",
        help="seed of the sampling (default: 0)",
    )  # fmt: skip


def _sample(options: argparse.Namespace) -> None:
    from kullback.training.sampling import sample_texts

    texts = sample_texts(
        options.run_folder, options.prompt, options.n, options.temperature, options.seed
    )
    if options.json:
        print_json(texts)
        return
    for text in texts:
        print_lines(text)
