"""`kullback compare` and `kullback quantise`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.evaluating import add_text_options, protocol_of, read_text, torch_dtype
from kullback.cli.output import print_json, progress_console, result_console
from kullback.cli.parsing import add_command
from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.models.quantised import SizedModel

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the commands."""
    compare = add_command(
        commands, "compare", _compare, "is it still the same model, and how far is it?",
        "kullback compare FOLDER FOLDER@int8 --text book.txt --noise-floor",
        "kullback compare FOLDER OTHER --text texts/ --report compared.html",
        "kullback compare FOLDER --schemes int8,int4-g32,int2-g32 --text book.txt --json",
        notes="\nKL(reference‖candidate) says how far the candidate moved, not that it is worse.\n",
    )  # fmt: skip
    compare.add_argument("reference", metavar="REFERENCE", help="a model, or MODEL@SCHEME")
    compare.add_argument(
        "candidate", metavar="CANDIDATE", nargs="*", help="models to compare with it"
    )
    compare.add_argument(
        "--schemes", default="", metavar="NAMES",
        help="quantisations of the reference with commas between them: int8,int4-g32,fp8,bf16 ...",
    )  # fmt: skip
    compare.add_argument(
        "--noise-floor", action="store_true",
        help="measure the reference against itself in another batch shape and in bfloat16",
    )  # fmt: skip
    compare.add_argument(
        "--sensitivity", action="store_true",
        help="quantise one layer group at a time by the first scheme, and rank them by KL",
    )  # fmt: skip
    add_text_options(compare)
    compare.add_argument("--report", type=Path, metavar="FILE.html", help="a page to look at")

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


def _open(name: str, options: argparse.Namespace) -> SizedModel:
    from kullback.models.quantised import load_named

    return load_named(name, torch_dtype(options), options.device, options.trust_remote_code)


def _compare(options: argparse.Namespace) -> None:
    import torch

    from kullback.model_comparison import Candidate, Job, compare_models
    from kullback.models.load import load_text_model
    from kullback.models.quantised import split_scheme
    from kullback.quantise import Scheme
    from kullback.report.text_page import write_comparison_report
    from kullback.report.text_progress import TextProgress
    from kullback.report.text_terminal import comparison_summary

    if options.text is None:
        raise InvalidValueError("--text FILE is missing: say which text to compare the models on")
    schemes = [name for name in options.schemes.split(",") if name]
    for name in schemes:
        Scheme.parse(name)
    names = [*options.candidate, *(f"{options.reference}@{name}" for name in schemes)]
    if not names:
        raise InvalidValueError("there is no candidate: name a model, or schemes with --schemes")
    base, scheme = split_scheme(options.reference)
    if schemes and scheme is not None:
        raise InvalidValueError(
            f"--schemes quantises the reference, and {options.reference} is quantised already: "
            f"give {base}"
        )
    wanted = _scheme_of(names[0])
    if options.sensitivity and (wanted is None or scheme is not None):
        raise InvalidValueError(
            "--sensitivity needs a scheme to try on the reference's layers: give --schemes NAME, "
            "and a reference that is not quantised"
        )
    protocol, documents = protocol_of(options), read_text(options)
    reference = _open(options.reference, options).model
    noise_dtype = None
    if options.noise_floor and reference.dtype == torch.float32 and scheme is None:
        noise_dtype = partial(
            load_text_model, base, torch.bfloat16, options.device, options.trust_remote_code
        )
    with TextProgress(progress_console()) as progress:
        results = compare_models(
            reference,
            [Candidate(name, partial(_open, name, options)) for name in names],
            documents,
            protocol,
            Job(
                options.noise_floor, noise_dtype,
                Scheme.parse(wanted) if options.sensitivity and wanted else None,
                progress.show_named, options.command_line,
                with_passages=options.report is not None,
            ),
        )  # fmt: skip
    if options.report is not None:
        write_comparison_report(results, options.report)
    if options.json:
        print_json(results)
        return
    result_console().print(comparison_summary(results))
    if options.report is not None:
        print(f"written: {options.report}")


def _scheme_of(name: str) -> str | None:
    from kullback.models.quantised import split_scheme

    _, scheme = split_scheme(name)
    return None if scheme is None else scheme.name


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
