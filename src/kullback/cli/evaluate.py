"""`kullback evaluate`: on text, or on a source whose entropy is known."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_line, print_result, reserved, terminal_progress
from kullback.cli.parsing import add_command, add_force, given, number, output_name
from kullback.cli.text_options import add_stream, add_text_options, text_options
from kullback.errors import InvalidValueError
from kullback.runtime.outputs import Output
from kullback.runtime.ranges import SEEDS, SENTENCES

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.results.evaluation import Evaluation, NonZeroRank

__all__ = ["add"]

SOURCE_ONLY = ("source", "sentences", "seed")
# Of a text, and of the windows of a process.
OF_BOTH = ("window",)


def add(commands: Commands) -> None:
    """Declare the command."""
    evaluate = add_command(
        commands, "evaluate", _evaluate, "cross-entropy, perplexity and calibration of a model",
        "kullback evaluate runs/mine",
        "kullback evaluate FOLDER",
        "kullback evaluate FOLDER --source data/floor.json --json",
        "kullback evaluate HuggingFaceTB/SmolLM2-135M --text book.txt --report book.html",
        "kullback evaluate model.gguf --text texts/ --records tokens.parquet",
        "kullback evaluate FOLDER --text wiki.jsonl --field text --protocol lm-eval",
        "kullback evaluate LARGE --text book.txt --stream --dtype bfloat16   # larger than memory",
        "torchrun --nproc-per-node 2 -m kullback evaluate FOLDER --text book.txt",
        notes=(
            "\nWith --text every byte is scored once, with as much context as the window holds.\n"
            "Without it a run folder is measured on the source that it was trained on, and\n"
            "another folder on the export (kullback source export) whose tokenizer it has, in\n"
            "or beside the folder or in the current one: cross-entropy = entropy + KL, exact,\n"
            "by slot and position.  --source names another one.\n"
        ),
    )  # fmt: skip
    evaluate.add_argument(
        "model", metavar="MODEL",
        help="a run folder, a Hugging Face folder or name (also of an adapter), or a .gguf file "
        "(FILE.gguf@ctk=q8_0,fa=on sets llama.cpp's options, FILE.gguf@transformers dequantises)",
    )  # fmt: skip
    add_text_options(evaluate)
    add_stream(evaluate)
    evaluate.add_argument(
        "--records",
        type=output_name,
        metavar="FILE.parquet",
        help="write a row a token; the same command resumes after those that are written",
    )
    evaluate.add_argument(
        "--temperature", action="store_true",
        help="also find the temperature that minimises the nll, and the nats it would save",
    )  # fmt: skip
    evaluate.add_argument(
        "--report", type=output_name, metavar="FILE.html", help="write an HTML report"
    )
    add_force(evaluate, "a report or records")
    evaluate.add_argument(
        "--verbose",
        action="store_true",
        help="also print design effects, effective sample sizes, and the seconds of each stage",
    )
    known = evaluate.add_argument_group("on a source")
    known.add_argument(
        "--source", metavar="NAME",
        help="a name, a .toml or .txt file, or the folder or floor.json of an export (default: "
        "what the model was trained on)",
        default=argparse.SUPPRESS,
    )  # fmt: skip
    known.add_argument(
        "--sentences", type=number(SENTENCES), default=argparse.SUPPRESS, metavar="N",
        help="measure on a sample of N sentences, or windows of --window symbols (default: all "
        "prefixes if feasible)",
    )  # fmt: skip
    known.add_argument(
        "--seed", type=number(SEEDS), metavar="N", default=argparse.SUPPRESS,
        help="seed of the sample (default: 0)",
    )  # fmt: skip


def _evaluate(options: argparse.Namespace) -> None:
    on_source = given(options, *SOURCE_ONLY)
    if options.text is not None:
        if on_source:
            raise InvalidValueError(
                f"{_flags(on_source)}: with --text no source is measured; leave out one of both"
            )
        _on_text(options)
        return
    on_text = {
        **{name: value for name, value in text_options(options).items() if name not in OF_BOTH},
        **given(options, "force"),
        **{name: True for name in ("records", "report", "temperature") if getattr(options, name)},
    }
    if on_text:
        raise InvalidValueError(f"{_flags(on_text)}: this is for a text; add --text FILE")
    _on_source(options)


def _flags(names: dict[str, object]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _on_text(options: argparse.Namespace) -> None:
    force = given(options, "force")
    if force and options.report is None and options.records is None:
        raise InvalidValueError("--force: there is no --report and no --records; remove it")
    report = Output("--report", options.report, "report")
    records = Output("--records", options.records, "records")
    with reserved(report, records, inputs=[options.model, *options.text], **force):
        result = _evaluated(options)
        print_result(result, options.json, options.report, options.verbose, **force)
    from kullback.results.evaluation import NonZeroRank

    if isinstance(result, NonZeroRank):  # rank 0 writes and prints
        return
    if options.records is not None and not options.json:
        print_line(f"written: {options.records}")


def _evaluated(options: argparse.Namespace) -> Evaluation | NonZeroRank:
    from kullback.evaluation.evaluate import evaluate

    with terminal_progress(options.verbose) as progress:
        return evaluate(
            options.model,
            options.text,
            records=options.records,
            temperature=options.temperature,
            passages=options.report is not None,
            progress=progress,
            command=options.command_line,
            **given(options, "force"),
            **text_options(options),
        )


def _on_source(options: argparse.Namespace) -> None:
    from kullback.evaluation.evaluate_source import evaluate_source

    with terminal_progress(options.verbose) as progress:
        result = evaluate_source(
            options.model, progress=progress, **given(options, *SOURCE_ONLY, *OF_BOTH)
        )
    print_result(result, options.json, verbose=options.verbose)
