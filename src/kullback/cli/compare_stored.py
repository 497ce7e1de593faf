"""`kullback compare` where something is on disk, or tokenizers differ: which way is it done?

================================  ==================================================
among the names                   what is compared
================================  ==================================================
logits files of llama.cpp         two of them
token statistics (.parquet)       with others, a recording, or a model: no KL
recordings on all sides           two of them, without reading the text again
a top-k recording                 with a model: bounds of the KL
exact recordings and models       everything (`kullback.cli.compare`)
================================  ==================================================

An option that cannot apply is an error: none is left out in silence.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kullback.cli.evaluate import load_sized, protocol_of, read_text
from kullback.cli.output import loading, print_json, progress_console, result_console
from kullback.errors import InvalidValueError
from kullback.runtime.files import check_outputs

if TYPE_CHECKING:
    from kullback.comparison.operands import ModelOperand, RecordingOperand
    from kullback.results.text import StoredResults

__all__ = ["compare_stored", "is_recorded", "is_stored", "open_operand"]

Kind = Literal["model", "exact", "top-k", "records", "logits"]
# Names that end so are files, and no models of the hub.
FILE_SUFFIXES = (".gguf", ".kld", ".parquet", ".rec")
NO_TEXT = "--text FILE is missing: the model must read what was recorded"


def open_operand(name: str, options: argparse.Namespace) -> ModelOperand | RecordingOperand:
    """The recording or the model called `name`."""
    from kullback.comparison.operands import ModelOperand, RecordingOperand

    if is_recorded(Path(name)):
        return RecordingOperand.open(Path(name))
    return ModelOperand(load_sized(name, options))


def is_stored(options: argparse.Namespace) -> bool:
    """Whether the comparison is one of this file's."""
    if options.by_bytes:
        return True
    kinds = _kinds(options)
    if {"records", "logits", "top-k"} & set(kinds):
        return True
    return len(kinds) > 1 and "model" not in kinds


def compare_stored(options: argparse.Namespace) -> None:
    """Compare the reference and the one candidate, and show the results."""
    _check_one_candidate(options)
    read = [options.reference, *options.candidate, *(options.text or ())]
    check_outputs({"--report": options.report}, read)
    kinds = _kinds(options)
    if options.by_bytes:
        results = _by_bytes(options, kinds)
    elif "logits" in kinds:
        results = _logits(options)
    elif "model" not in kinds:
        _check_nothing_is_read(options)
        results = _records(options, kinds) if "records" in kinds else _recorded(options)
    elif options.text is None:
        raise InvalidValueError(NO_TEXT)
    else:
        results = _records(options, kinds) if "records" in kinds else _recorded(options)
    _show(results, options)


def _kinds(options: argparse.Namespace) -> list[Kind]:
    from kullback.predictions.llama_cpp_logits import is_llama_cpp_logits

    paths = [Path(name) for name in (options.reference, *options.candidate)]
    for path in paths:
        if path.suffix in FILE_SUFFIXES and not path.exists():
            raise InvalidValueError(f"there is no file {path}")
    others = [path for path in paths if not is_llama_cpp_logits(path)]
    if 0 < len(others) < len(paths):
        raise InvalidValueError(
            "a logits file of llama.cpp is compared with another such file, and "
            f"{others[0]} is none"
        )
    return [_kind(path) for path in paths]


def _kind(path: Path) -> Kind:
    from kullback.evaluation.token_records import is_records
    from kullback.predictions.llama_cpp_logits import is_llama_cpp_logits
    from kullback.predictions.recording import Recording

    if is_llama_cpp_logits(path):
        return "logits"
    if is_records(path):
        return "records"
    return Recording.open(path).kind if is_recorded(path) else "model"


def is_recorded(path: Path) -> bool:
    """Whether it can only be a recording, perhaps a damaged one: no other file but GGUF is read."""
    return path.is_file() and path.suffix != ".gguf"


def _check_one_candidate(options: argparse.Namespace) -> None:
    if not options.candidate:
        raise InvalidValueError("there is no candidate: name a model or a file to compare with")
    if len(options.candidate) != 1 or options.schemes or options.sensitivity or options.noise_floor:
        raise InvalidValueError(
            "token statistics, top-k recordings, logits files, two recordings and --by-bytes "
            "compare one candidate, without --schemes, --sensitivity and --noise-floor: these "
            "need the models themselves"
        )


def _check_nothing_is_read(options: argparse.Namespace, text: bool = False) -> None:
    """Raise `InvalidValueError` for an option that says how to read, or to compute."""
    given = {
        "--text": text and options.text is not None,
        "--field": options.text is None and options.field != "text",
        "--protocol": options.protocol != "sliding",
        "--joined": options.joined is not None,
        "--window": options.window is not None,
        "--stride": options.stride is not None,
        "--bos": options.bos != "auto",
        "--dtype": options.dtype is not None,
        "--device": options.device != "cpu",
        "--trust-remote-code": options.trust_remote_code,
    }
    found = [name for name, is_given in given.items() if is_given]
    if found:
        raise InvalidValueError(
            f"{', '.join(found)}: both sides are files, and no model reads a text here; leave "
            f"{'that' if len(found) == 1 else 'these'} out"
        )


def _by_bytes(options: argparse.Namespace, kinds: list[Kind]) -> StoredResults:
    from kullback.comparison.by_bytes import compare_by_bytes
    from kullback.report.terminal.progress import TextProgress

    if set(kinds) != {"model"}:
        raise InvalidValueError("--by-bytes needs two models that read the text now")
    if options.text is None:
        raise InvalidValueError("--text FILE is missing: say which text to compare the models on")
    protocol, documents = protocol_of(options), read_text(options)
    with loading(f"{options.reference} and {options.candidate[0]}"):
        models = [
            load_sized(name, options).model for name in (options.reference, options.candidate[0])
        ]
    with TextProgress(progress_console()) as progress:
        return compare_by_bytes(models[0], models[1], documents, protocol, progress.show)


def _logits(options: argparse.Namespace) -> StoredResults:
    from kullback.comparison.recordings import compare_logits_files

    _check_nothing_is_read(options, text=True)
    return compare_logits_files(Path(options.reference), Path(options.candidate[0]))


def _recorded(options: argparse.Namespace) -> StoredResults:
    from kullback.comparison.recordings import compare_recorded
    from kullback.report.terminal.progress import TextProgress

    protocol = protocol_of(options)
    documents = [] if options.text is None else read_text(options)
    with loading(f"{options.reference} and {options.candidate[0]}"):
        sides = [open_operand(name, options) for name in (options.reference, options.candidate[0])]
    with TextProgress(progress_console()) as progress:
        return compare_recorded(sides[0], sides[1], documents, protocol, progress.show)


def _records(options: argparse.Namespace, kinds: list[Kind]) -> StoredResults:
    from kullback.comparison.operands import RecordingOperand
    from kullback.comparison.token_records import TokenRows, compare_records
    from kullback.report.terminal.progress import TextProgress

    protocol = protocol_of(options)
    documents = [] if options.text is None else read_text(options)
    names = (options.reference, options.candidate[0])
    # A file first: what is wrong with it, or with the text, is found before a model reads.
    order = (1, 0) if kinds[0] == "model" else (0, 1)
    sides: dict[int, TokenRows] = {}
    for i in order:
        if kinds[i] == "records":
            sides[i] = TokenRows.of_file(Path(names[i]))
            continue
        side = open_operand(names[i], options)
        if isinstance(side, RecordingOperand):
            sides[i] = TokenRows.of_recording(side)
            continue
        with TextProgress(progress_console()) as progress:
            sides[i] = TokenRows.of_model(
                side.model, documents, protocol, progress.show, against=sides[order[0]]
            )
    return compare_records(sides[0], sides[1], documents)


def _show(results: StoredResults, options: argparse.Namespace) -> None:
    from kullback.report.html.text import write_stored_report
    from kullback.report.terminal.text import stored_summary

    results["command"] = options.command_line
    if options.json:
        print_json(results)
    else:
        result_console().print(stored_summary(results))
        if "llama_cpp" in results:
            print(
                "\nas llama.cpp prints it (its ± takes tokens as independent), ours beside:\n"
                f"{results['llama_cpp']}"
            )
    if options.report is None:
        return
    write_stored_report(results, options.report)
    if not options.json:
        print(f"written: {options.report}")
