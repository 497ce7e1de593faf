"""`kullback compare`: models, recordings, token records and logits files on the same text."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_result, reserved, terminal_progress
from kullback.cli.parsing import add_command, add_force, given, number, output_name
from kullback.cli.text_options import add_stream, add_text_options, text_options
from kullback.errors import InvalidValueError
from kullback.runtime.outputs import Output
from kullback.runtime.ranges import TOLERANCES

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.results.comparison import Comparison
    from kullback.results.evaluation import NonZeroRank

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    compare = add_command(
        commands, "compare", _compare,
        "how far candidates are from a reference, where they differ, and which to choose",
        "kullback compare FOLDER FOLDER@int8 --text book.txt --noise-floor",
        "kullback compare FOLDER OTHER --text texts/ --report compared.html",
        "kullback compare FOLDER --schemes int8,int4-g32,int2-g32 --text book.txt --json",
        "kullback compare FOLDER Q8_0.gguf Q5_K_M.gguf Q4_K_M.gguf --text book.txt --budget 110MB",
        "kullback compare LARGE OTHER --text book.txt --stream       # both larger than memory",
        "kullback compare reference.rec FOLDER FOLDER@int8 --text book.txt",
        "kullback compare reference.parquet FOLDER@int8 --text book.txt      # ΔCE, no KL",
        "kullback compare base.kld MODEL",
        "kullback compare base.kld other.kld      # llama.cpp --kl-divergence-base files",
        "kullback compare FOLDER OTHER --by-bytes --text book.txt",
        "torchrun --nproc-per-node 4 -m kullback compare FOLDER OTHER --text texts/",
        notes=(
            "\nKL(reference‖candidate) says how far the candidate moved, not that it is worse.\n"
            "What kullback record writes can replace any model: an exact recording gives all that\n"
            "its model would, a top-k one bounds of the KL, token records a ΔCE and no KL.  Text,\n"
            "tokenizer and protocol must be those that were recorded; the protocol is adopted.\n"
        ),
    )  # fmt: skip
    compare.add_argument(
        "reference", metavar="REFERENCE",
        help="a model (a folder, a name, an adapter, or a .gguf file: FILE.gguf@ctk=q8_0,fa=on "
        "sets llama.cpp's options, FILE.gguf@transformers dequantises), MODEL@SCHEME, a recording, "
        "token records, or a logits file of llama.cpp",
    )  # fmt: skip
    compare.add_argument(
        "candidate", metavar="CANDIDATE", nargs="*", help="what to compare with it, as above"
    )
    compare.add_argument(
        "--schemes", metavar="NAMES",
        help="quantisations of the reference, separated by commas: int8,int4-g32,fp8,bf16 ...",
    )  # fmt: skip
    compare.add_argument(
        "--tolerance", type=number(TOLERANCES), metavar="NATS", default=argparse.SUPPRESS,
        help="ΔCE per token within which the smallest candidate is chosen (default: 0.01)",
    )  # fmt: skip
    compare.add_argument(
        "--budget", metavar="BYTES", default=argparse.SUPPRESS,
        help="choose the candidate nearest by KL that takes at most 90MB, 1.5GiB, ... instead",
    )  # fmt: skip
    compare.add_argument(
        "--noise-floor", action="store_true",
        help="measure the reference against itself in another batch shape and in bfloat16",
    )  # fmt: skip
    compare.add_argument(
        "--by-bytes", action="store_true",
        help="for tokenizers that differ: compare where both have a boundary",
    )  # fmt: skip
    compare.add_argument(
        "--sensitivity", action="store_true",
        help="quantise one layer group at a time by the first scheme, and rank them by KL",
    )  # fmt: skip
    add_text_options(compare)
    add_stream(compare)
    compare.add_argument(
        "--report", type=output_name, metavar="FILE.html", help="write an HTML report"
    )
    add_force(compare, "a report")
    compare.add_argument(
        "--verbose",
        action="store_true",
        help="also print design effects, effective sample sizes, and the seconds of each stage",
    )


def _compare(options: argparse.Namespace) -> None:
    force = given(options, "force")
    if force and options.report is None:
        raise InvalidValueError("--force: there is no --report; remove it")
    read = [options.reference, *options.candidate, *(options.text or ())]
    with reserved(Output("--report", options.report, "report"), inputs=read, **force):
        result = _compared(options)
        print_result(result, options.json, options.report, options.verbose, **force)


def _compared(options: argparse.Namespace) -> Comparison | NonZeroRank:
    from kullback.comparison.compare import compare

    with terminal_progress(options.verbose) as progress:
        return compare(
            options.reference,
            options.candidate,
            options.text,
            schemes=_names(options.schemes),
            noise_floor=options.noise_floor,
            sensitivity=options.sensitivity,
            by_bytes=options.by_bytes,
            passages=options.report is not None,
            progress=progress,
            command=options.command_line,
            **given(options, "tolerance", "budget"),
            **text_options(options),
        )


def _names(text: str | None) -> list[str]:
    """What stands between commas; an empty name is left to be refused."""
    return [] if text is None else [name.strip() for name in text.split(",")]
