"""`kullback derive`: the derivation of the loss, in numbers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, result_console
from kullback.cli.parsing import add_command, number
from kullback.runtime.ranges import SEEDS

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands

__all__ = ["add"]

NOTES = """
docs/derivation.md is the same argument in words.  p and q are probabilities, or
fractions, of the same 2 to 64 outcomes; all results are in nats."""


def add(commands: Commands) -> None:
    """Declare the command."""
    derive = add_command(
        commands, "derive", _derive, "derive the cross-entropy loss step by step, in numbers",
        "kullback derive",
        "kullback derive --p 0.5,0.5 --q 0.9,0.1",
        "kullback derive --p 1/3,1/3,1/3 --q 0.2,0.3,0.5 --json",
        notes=NOTES,
    )  # fmt: skip
    derive.add_argument(
        "--p", metavar="P,P,...", help="the true distribution (default: an example)"
    )
    derive.add_argument(
        "--q", metavar="Q,Q,...", help="the model's distribution (default with --p: uniform)"
    )
    derive.add_argument(
        "--seed", type=number(SEEDS), default=0, metavar="N",
        help="seed of the samples (default: 0)",
    )  # fmt: skip


def _derive(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from kullback.report.terminal.derivation import derivation_text
    from kullback.theory.derivation import derive, distribution_from_text

    given = (("--p", options.p), ("--q", options.q))
    p, q = (None if text is None else distribution_from_text(name, text) for name, text in given)
    derivation = derive(p, q, options.seed)
    if options.json:
        print_json(asdict(derivation))
    else:
        result_console().print(derivation_text(derivation))
