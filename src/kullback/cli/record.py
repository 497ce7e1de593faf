"""`kullback record`: what a model says of a text, on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.evaluate import add_text_options, load_sized, protocol_of, read_text
from kullback.cli.output import loading, print_json, progress_console
from kullback.cli.parsing import add_command
from kullback.errors import InvalidValueError
from kullback.runtime.files import check_outputs

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.text.documents import Document
    from kullback.text.protocol import Protocol

__all__ = ["add"]

DEFAULT_K = 64


def add(commands: Commands) -> None:
    """Declare the command."""
    record = add_command(
        commands, "record", _record, "write down what a model says, to compare later or elsewhere",
        "kullback record FOLDER --text book.txt -o book.parquet",
        "kullback record FOLDER --text book.txt --distributions exact -o book.rec",
        "kullback record FOLDER --text book.txt --distributions top-k -k 64 -o book.rec",
        "kullback compare book.rec FOLDER@int8 --text book.txt",
        notes=(
            "\nWithout --distributions: token statistics, at most 64 bytes a token, as Parquet;\n"
            "goes on where a killed run stopped.  Compared, they give a ΔCE and no KL.\n"
            "exact keeps hidden states and the head: any KL can be computed from it.\n"
            "top-k keeps k probabilities a token: a KL is then only bounded.\n"
        ),
    )  # fmt: skip
    record.add_argument("model", metavar="MODEL", help="a model, or MODEL@SCHEME")
    record.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="FILE.parquet for token statistics, any other name for distributions",
    )  # fmt: skip
    record.add_argument(
        "--distributions", choices=("exact", "top-k"), help="write them instead of token statistics"
    )
    record.add_argument("-k", type=int, help=f"words a token, for top-k (default: {DEFAULT_K})")
    add_text_options(record)


def _record(options: argparse.Namespace) -> None:
    _check_record(options)
    protocol, documents = protocol_of(options), read_text(options)
    write = _record_statistics if options.distributions is None else _record_distributions
    tokens = write(options, documents, protocol)
    if tokens is None:
        return
    size = options.output.stat().st_size
    if options.json:
        print_json({"file": str(options.output), "tokens": tokens, "bytes": size})
        return
    print(f"written: {options.output}, {tokens:,} tokens, {size:,} bytes")


def _check_record(options: argparse.Namespace) -> None:
    """Raise `InvalidValueError` for what can be seen to be wrong before anything is loaded."""
    if options.text is None:
        raise InvalidValueError("--text FILE is missing: say which text the model is to read")
    check_outputs({"-o": options.output}, options.text)
    if options.k is not None and options.distributions != "top-k":
        raise InvalidValueError(f"-k {options.k} is for top-k: add --distributions top-k")
    is_parquet = options.output.suffix == ".parquet"
    if options.distributions is None and not is_parquet:
        raise InvalidValueError(
            f"-o is {options.output}: token statistics are a Parquet file; give a name that ends "
            "in .parquet, or --distributions exact (or top-k) to keep distributions"
        )
    if options.distributions is not None and is_parquet:
        raise InvalidValueError(
            f"-o is {options.output}: distributions are no Parquet file; give another name, such "
            f"as {options.output.with_suffix('.rec')}, or leave out --distributions"
        )


def _record_statistics(
    options: argparse.Namespace, documents: list[Document], protocol: Protocol
) -> int | None:
    """Write token statistics; None for a process that does not lead its team."""
    from kullback.evaluation.on_text import evaluate_text
    from kullback.report.terminal.progress import TextProgress
    from kullback.runtime.workers import process_group

    with process_group() as processes:
        with loading(options.model):
            model = load_sized(options.model, options).model
        with TextProgress(progress_console() if processes.is_rank_zero else None) as progress:
            results = evaluate_text(
                model, documents, protocol, processes, options.output, progress.show
            )
    return None if results is None else results["scored_tokens"]


def _record_distributions(
    options: argparse.Namespace, documents: list[Document], protocol: Protocol
) -> int:
    from kullback.comparison.recordings import record_text
    from kullback.report.terminal.progress import TextProgress

    with loading(options.model):
        sized = load_sized(options.model, options)
    with TextProgress(progress_console()) as progress:
        return record_text(
            sized.model, documents, protocol, options.output, options.distributions,
            DEFAULT_K if options.k is None else options.k, progress.show, sized.size_bytes,
        )  # fmt: skip
