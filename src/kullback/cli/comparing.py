"""`kullback compare`: models, recordings and logits files."""

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
    """Declare the command."""
    compare = add_command(
        commands, "compare", _compare, "is it still the same model, and how far is it?",
        "kullback compare FOLDER FOLDER@int8 --text book.txt --noise-floor",
        "kullback compare FOLDER OTHER --text texts/ --report compared.html",
        "kullback compare FOLDER --schemes int8,int4-g32,int2-g32 --text book.txt --json",
        "kullback compare reference.rec FOLDER --text book.txt",
        "kullback compare base.kld other.kld      # llama.cpp --kl-divergence-base files",
        "kullback compare FOLDER OTHER --by-bytes --text book.txt",
        notes="\nKL(reference‖candidate) says how far the candidate moved, not that it is worse.\n",
    )  # fmt: skip
    compare.add_argument(
        "reference", metavar="REFERENCE",
        help="a model, MODEL@SCHEME, a recording, or a logits file of llama.cpp",
    )  # fmt: skip
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
        "--by-bytes", action="store_true",
        help="for tokenizers that differ: compare where both have a boundary",
    )  # fmt: skip
    compare.add_argument(
        "--sensitivity", action="store_true",
        help="quantise one layer group at a time by the first scheme, and rank them by KL",
    )  # fmt: skip
    add_text_options(compare)
    compare.add_argument("--report", type=Path, metavar="FILE.html", help="a page to look at")


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

    stored = _stored_kinds(options)
    if stored or options.by_bytes:
        _compare_stored(options, stored)
        return
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


def _stored_kinds(options: argparse.Namespace) -> set[str]:
    """What there is among the names but models: "recording", "logits"."""
    from kullback.models.llama_cpp_logits import is_llama_cpp_logits
    from kullback.models.recording import is_recording

    paths = [Path(name) for name in (options.reference, *options.candidate)]
    found = {"logits" for path in paths if is_llama_cpp_logits(path)}
    return found | {"recording" for path in paths if is_recording(path)}


def _compare_stored(options: argparse.Namespace, stored: set[str]) -> None:
    from kullback.models.recording import Recording, is_recording
    from kullback.report.text_progress import TextProgress
    from kullback.report.text_terminal import stored_summary
    from kullback.stored_comparison import (
        compare_by_bytes,
        compare_logits_files,
        compare_recorded,
    )

    if len(options.candidate) != 1 or options.schemes or options.sensitivity or options.noise_floor:
        raise InvalidValueError(
            "recordings, logits files and --by-bytes compare one candidate, without --schemes, "
            "--sensitivity and --noise-floor: these need the models themselves"
        )
    names, printed = (options.reference, options.candidate[0]), ""
    if stored == {"logits"}:
        results, printed = compare_logits_files(*map(Path, names))
    elif "logits" in stored:
        raise InvalidValueError("a logits file of llama.cpp is compared with another such file")
    else:
        recorded = [is_recording(Path(name)) for name in names]
        if options.text is None and not all(recorded):
            raise InvalidValueError("--text FILE is missing: the model must read what was recorded")
        documents = [] if options.text is None else read_text(options)
        sides = [
            Recording.open(Path(name)) if is_file else _open(name, options).model
            for name, is_file in zip(names, recorded, strict=True)
        ]
        with TextProgress(progress_console()) as progress:
            if options.by_bytes:
                models = [side for side in sides if not isinstance(side, Recording)]
                if len(models) != 2:
                    raise InvalidValueError("--by-bytes needs two models that read the text now")
                results = compare_by_bytes(
                    models[0], models[1], documents, protocol_of(options), progress.show
                )
            else:
                results = compare_recorded(
                    sides[0], sides[1], documents, protocol_of(options), progress.show
                )
    if options.json:
        print_json({**results, "llama.cpp": printed} if printed else results)
        return
    result_console().print(stored_summary(results))
    if printed:
        print(
            f"\nas llama.cpp prints it (its ± takes tokens as independent), ours beside:\n{printed}"
        )


def _scheme_of(name: str) -> str | None:
    from kullback.models.quantised import split_scheme

    _, scheme = split_scheme(name)
    return None if scheme is None else scheme.name
