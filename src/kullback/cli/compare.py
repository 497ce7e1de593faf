"""`kullback compare`: models, and exact recordings of models."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.compare_stored import compare_stored, is_recorded, is_stored, open_operand
from kullback.cli.evaluate import add_text_options, protocol_of, read_text
from kullback.cli.output import loading, print_json, progress_console, result_console
from kullback.cli.parsing import add_command
from kullback.errors import InvalidValueError
from kullback.runtime.files import check_outputs

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    compare = add_command(
        commands, "compare", _compare, "is it still the same model, and how far is it?",
        "kullback compare FOLDER FOLDER@int8 --text book.txt --noise-floor",
        "kullback compare FOLDER OTHER --text texts/ --report compared.html",
        "kullback compare FOLDER --schemes int8,int4-g32,int2-g32 --text book.txt --json",
        "kullback compare reference.rec FOLDER FOLDER@int8 --text book.txt",
        "kullback compare reference.parquet FOLDER@int8 --text book.txt      # ΔCE, no KL",
        "kullback compare base.kld other.kld      # llama.cpp --kl-divergence-base files",
        "kullback compare FOLDER OTHER --by-bytes --text book.txt",
        notes=(
            "\nKL(reference‖candidate) says how far the candidate moved, not that it is worse.\n"
            "What kullback record writes stands in the place of any model: an exact recording\n"
            "gives all that its model would, a top-k one bounds of the KL, token statistics a ΔCE\n"
            "and no KL.  Text, tokenizer and protocol must be those that were recorded.\n"
        ),
    )  # fmt: skip
    compare.add_argument(
        "reference", metavar="REFERENCE",
        help="a model, MODEL@SCHEME, a recording, token statistics, or a logits file of llama.cpp",
    )  # fmt: skip
    compare.add_argument(
        "candidate", metavar="CANDIDATE", nargs="*", help="what to compare with it, as above"
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
        "--by-bytes", action="store_true",
        help="for tokenizers that differ: compare where both have a boundary",
    )  # fmt: skip
    compare.add_argument(
        "--sensitivity", action="store_true",
        help="quantise one layer group at a time by the first scheme, and rank them by KL",
    )  # fmt: skip
    add_text_options(compare)
    compare.add_argument("--report", type=Path, metavar="FILE.html", help="a page to look at")


def _compare(options: argparse.Namespace) -> None:
    if is_stored(options):
        compare_stored(options)
    else:
        _compare_models(options)


def _compare_models(options: argparse.Namespace) -> None:
    import torch

    from kullback.comparison.models import Candidate, Job, compare_models
    from kullback.models.load import load_text_model
    from kullback.models.quantization import Scheme
    from kullback.models.quantized import split_scheme
    from kullback.report.html.text import write_comparison_report
    from kullback.report.terminal.progress import TextProgress
    from kullback.report.terminal.text import comparison_summary

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
    if schemes and is_recorded(Path(options.reference)):
        raise InvalidValueError(
            f"--schemes quantises the reference, and {options.reference} is a recording: name the "
            "quantised models, MODEL@SCHEME, as candidates"
        )
    wanted = _scheme_of(names[0])
    if options.sensitivity and (wanted is None or scheme is not None):
        raise InvalidValueError(
            "--sensitivity needs a scheme to try on the reference's layers: give --schemes NAME, "
            "and a reference that is not quantised"
        )
    check_outputs(
        {"--report": options.report}, [options.reference, *options.candidate, *options.text]
    )
    protocol, documents = protocol_of(options), read_text(options)
    with loading(options.reference):
        reference = open_operand(options.reference, options)
    noise_dtype = None
    model = reference.model
    is_plain = model is not None and model.dtype == torch.float32 and scheme is None
    if options.noise_floor and is_plain:
        noise_dtype = partial(
            load_text_model, base, torch.bfloat16, options.device, options.trust_remote_code
        )
    with TextProgress(progress_console()) as progress:
        results = compare_models(
            reference,
            [Candidate(name, partial(open_operand, name, options)) for name in names],
            documents,
            protocol,
            Job(
                options.noise_floor, noise_dtype,
                Scheme.parse(wanted) if options.sensitivity and wanted else None,
                progress.show_named, options.command_line,
                with_passages=options.report is not None,
            ),
        )  # fmt: skip
    if options.json:
        print_json(results)
    else:
        result_console().print(comparison_summary(results))
    if options.report is None:
        return
    write_comparison_report(results, options.report)
    if not options.json:
        print(f"written: {options.report}")


def _scheme_of(name: str) -> str | None:
    from kullback.models.quantized import split_scheme

    _, scheme = split_scheme(name)
    return None if scheme is None else scheme.name
