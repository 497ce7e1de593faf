"""`kullback quantise`: a quantised model on disk."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from kullback.cli.output import print_document, print_line, terminal_progress
from kullback.cli.parsing import add_command, output_name
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.ranks import check_one_process

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    quantise = add_command(
        commands, "quantise", _quantise, "save a quantised model that transformers loads",
        "kullback quantise FOLDER --scheme int8 -o FOLDER-int8",
        "kullback quantise runs/mine --scheme int4-g32 -o runs/mine-int4",
        notes=(
            "\nThe linear layers (and Conv1D, and experts) are quantised, but not embedding and\n"
            "head: the output lists what is left.  In the folder every integer takes a byte, even\n"
            "one of 4 bits; both sizes are shown, packed and as saved.\n"
        ),
    )  # fmt: skip
    quantise.add_argument("model", metavar="MODEL", help="a folder, a hub name or a .gguf file")
    quantise.add_argument(
        "--scheme", required=True, metavar="NAME",
        help="int1 to int8 (a scale for each row), int4-g32 and so on (for each 32 weights of a "
        "row), fp8, bf16 or fp16",
    )  # fmt: skip
    quantise.add_argument(
        "-o", "--output", type=output_name, required=True, metavar="DIR",
        help="new folder to save the model in",
    )  # fmt: skip
    quantise.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model"
    )
    # The American spelling, which the list of commands does not show.
    assert isinstance(commands.choices, dict)
    commands.choices["quantize"] = quantise


def _quantise(options: argparse.Namespace) -> None:
    check_one_process("a model is quantised")
    # Before torch is imported, which takes seconds; `quantise` decides again.
    check_outputs(Output("the output (-o)", options.output, "new folder"), inputs=[options.model])
    from kullback.models.quantise import quantise

    with terminal_progress() as progress:
        result = quantise(
            options.model, options.scheme, options.output, options.trust_remote_code, progress
        )
    if options.json:
        print_document(result.to_json())
        return
    sizes, *others = result.lines
    print_line(f"written: {sizes}")
    for line in others:
        print_line(f"  {line}")
    operands = shlex.join([options.model, result.folder])
    print_line(f"next: kullback compare {operands} --text FILE")
