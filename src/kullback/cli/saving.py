"""`kullback record` and `kullback quantise`: what a model says, or the model itself, on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.evaluating import add_text_options, protocol_of, read_text, torch_dtype
from kullback.cli.output import print_json, progress_console
from kullback.cli.parsing import add_command
from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the commands."""
    record = add_command(
        commands, "record", _record, "write down what a model says, to compare later or elsewhere",
        "kullback record FOLDER --text book.txt -o book.rec",
        "kullback record FOLDER --text book.txt --distributions top-k -k 64 -o book.rec",
        "kullback compare book.rec FOLDER@int8 --text book.txt",
        notes=(
            "\nexact keeps hidden states and the head: any KL can be computed from it.\n"
            "top-k keeps k probabilities a token: a KL is then only bounded.\n"
            "Statistics of the tokens alone: kullback evaluate --records FILE.parquet.\n"
        ),
    )  # fmt: skip
    record.add_argument("model", metavar="MODEL", help="a model, or MODEL@SCHEME")
    record.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    record.add_argument("--distributions", choices=("exact", "top-k"), default="exact")
    record.add_argument("-k", type=int, default=64, help="for top-k (default: 64)")
    add_text_options(record)

    quantise = add_command(
        commands, "quantise", _quantise, "save a quantised model that transformers loads",
        "kullback quantise FOLDER --scheme int8 -o FOLDER-int8",
        "kullback quantise runs/mine --scheme int4-g32 -o runs/mine-int4",
    )  # fmt: skip
    quantise.add_argument("model", metavar="MODEL", help="a folder, a hub name or a .gguf file")
    quantise.add_argument("--scheme", required=True, help="int8, int4-g32, fp8, bf16 and the like")
    quantise.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    quantise.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model"
    )


def _record(options: argparse.Namespace) -> None:
    from kullback.models.quantised import load_named
    from kullback.report.text_progress import TextProgress
    from kullback.stored_comparison import record_text

    if options.text is None:
        raise InvalidValueError("--text FILE is missing: say which text the model is to read")
    protocol, documents = protocol_of(options), read_text(options)
    model = load_named(
        options.model, torch_dtype(options), options.device, options.trust_remote_code
    ).model
    with TextProgress(progress_console()) as progress:
        tokens = record_text(
            model, documents, protocol, options.output, options.distributions, options.k,
            progress.show,
        )  # fmt: skip
    size = options.output.stat().st_size
    if options.json:
        print_json({"file": str(options.output), "tokens": tokens, "bytes": size})
        return
    print(f"written: {options.output}, {tokens:,} tokens, {size:,} bytes")


def _quantise(options: argparse.Namespace) -> None:
    from kullback.models.quantised import save_quantised
    from kullback.quantise import Scheme

    scheme = Scheme.parse(options.scheme)
    with progress_console().status(f"quantising {options.model} to {scheme.name}"):
        size = save_quantised(options.model, scheme, options.output, options.trust_remote_code)
    if options.json:
        print_json({"folder": str(options.output), "scheme": scheme.name, "bytes": size})
        return
    print(
        f"written: {options.output}, {size:,} bytes "
        f"(kullback compare {options.model} {options.output} --text FILE)"
    )
