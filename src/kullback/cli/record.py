"""`kullback record`: what a model predicts of a text, on disk."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_document, print_line, terminal_progress
from kullback.cli.parsing import add_command, add_force, given, number, output_name
from kullback.cli.text_options import add_stream, add_text_options, text_options
from kullback.errors import InvalidValueError
from kullback.runtime.contents import FileKind
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.ranges import TOP_K

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    record = add_command(
        commands, "record", _record, "write what a model predicts, to compare later or elsewhere",
        "kullback record FOLDER --text book.txt -o book.parquet",
        "kullback record FOLDER --text book.txt --distributions exact -o book.rec",
        "kullback record FOLDER --text book.txt --distributions top-k -k 64 -o book.rec",
        "kullback record FOLDER --text book.txt --format llama.cpp -o book.kld",
        "kullback record LARGE --text book.txt --stream --distributions exact -o book.rec",
        "kullback compare book.rec FOLDER@int8 --text book.txt",
        notes=(
            "\nWithout --distributions: token records, at most 64 bytes a token, as Parquet;\n"
            "compared, they give a ΔCE and no KL.\n"
            "exact keeps hidden states and the head: any KL can be computed from it.\n"
            "top-k keeps k probabilities a token: a KL is then only bounded.\n"
            "--format llama.cpp writes the file that llama-perplexity --kl-divergence reads.\n"
            "A killed run resumes, except with --format llama.cpp: give the same command again.\n"
        ),
    )  # fmt: skip
    record.add_argument("model", metavar="MODEL", help="a model, or MODEL@SCHEME")
    record.add_argument(
        "-o", "--output", type=output_name, required=True, metavar="FILE",
        help="FILE.parquet for token records, any other name for distributions and logits files",
    )  # fmt: skip
    record.add_argument(
        "--distributions", choices=("exact", "top-k"),
        help="write distributions instead of token records",
    )  # fmt: skip
    record.add_argument(
        "--format", choices=("llama.cpp",), help="write a base-logits file of llama.cpp instead"
    )
    record.add_argument(
        "-k", type=number(TOP_K), default=argparse.SUPPRESS,
        help="tokens of the vocabulary kept at each position, for top-k (default: 64)",
    )  # fmt: skip
    add_force(record, "a recording or records")
    add_text_options(record)
    add_stream(record)
    record.add_argument("--verbose", action="store_true", help="print the seconds of each stage")


def _record(options: argparse.Namespace) -> None:
    if options.text is None:
        raise InvalidValueError("--text FILE is missing: say which text the model is to read")
    # Before torch is imported, which takes seconds; `record` decides again.
    kind: FileKind = (
        "logits" if options.format else "recording" if options.distributions else "records"
    )
    check_outputs(
        Output("the output (-o)", options.output, kind),
        inputs=[options.model, *options.text],
        **given(options, "force"),
    )
    from kullback.evaluation.record import record
    from kullback.results.recording import RecordingResult

    with terminal_progress(options.verbose) as progress:
        result = record(
            options.model,
            options.text,
            options.output,
            distributions=options.distributions,
            format=options.format,
            progress=progress,
            **given(options, "k", "force"),
            **text_options(options),
        )
    if not isinstance(result, RecordingResult):
        return
    if options.json:
        print_document(result.to_json())
    else:
        print_line(f"written: {result}")
        for note in result.notes:
            print_line(f"note: {note}")
