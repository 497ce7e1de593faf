"""`kullback evaluate`: on a source whose entropy is known, or on text."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.output import loading, print_json, progress_console, result_console
from kullback.cli.parsing import add_command, seed
from kullback.errors import InvalidValueError
from kullback.runtime.files import check_outputs

if TYPE_CHECKING:
    import torch

    from kullback.cli.parsing import Commands
    from kullback.models.interface import TextModel
    from kullback.models.quantized import SizedModel
    from kullback.results.lab import LanguagePart
    from kullback.sources.language import Language
    from kullback.text.documents import Document
    from kullback.text.protocol import Protocol

__all__ = ["add", "add_text_options", "load_sized", "protocol_of", "read_text"]

DTYPES = ("float32", "float64", "bfloat16", "float16")


def add(commands: Commands) -> None:
    """Declare the command."""
    evaluate = add_command(
        commands, "evaluate", _evaluate, "what a model knows of a text, or of a source",
        "kullback evaluate runs/mine",
        "kullback evaluate runs/mine --source conjugation --json",
        "kullback evaluate HuggingFaceTB/SmolLM2-135M --text book.txt --report book.html",
        "kullback evaluate model.gguf --text texts/ --records tokens.parquet",
        "kullback evaluate FOLDER --text wiki.jsonl --field text --protocol lm-eval",
        "torchrun --nproc-per-node 2 -m kullback evaluate FOLDER --text book.txt",
        notes=(
            "\nWith --text every byte is scored once, with as much context as the window holds.\n"
            "Without it a run folder is measured on the source that it was trained on.\n"
        ),
    )  # fmt: skip
    evaluate.add_argument(
        "model", metavar="MODEL", help="a run folder, a Hugging Face folder or name, a .gguf file"
    )
    add_text_options(evaluate)
    evaluate.add_argument(
        "--records", type=Path, metavar="FILE.parquet", help="one row a token; resumes where it was"
    )
    evaluate.add_argument(
        "--temperature", action="store_true",
        help="also find the temperature that minimises the nll, and the nats it would save",
    )  # fmt: skip
    evaluate.add_argument("--report", type=Path, metavar="FILE.html", help="a page to look at")
    known = evaluate.add_argument_group("on a source")
    known.add_argument("--source", metavar="NAME", help="default: what the run was trained on")
    known.add_argument(
        "--sentences", type=int, default=0,
        help="measure on a sample of so many (default: all prefixes if feasible)",
    )  # fmt: skip
    known.add_argument("--seed", type=seed, default=0, help="of the sample (default: 0)")


def add_text_options(command: argparse.ArgumentParser) -> None:
    """How a text is read, and in what arithmetic."""
    text = command.add_argument_group("on text")
    text.add_argument(
        "--text", nargs="+", action="extend", metavar="FILE",
        help="files, folders of .txt, .jsonl and .parquet files, or - for standard input",
    )  # fmt: skip
    text.add_argument("--field", default="text", help="of .jsonl and .parquet (default: text)")
    text.add_argument(
        "--protocol", default="sliding", metavar="PRESET",
        help="sliding (default), hf-stride, lm-eval or llama.cpp",
    )  # fmt: skip
    text.add_argument(
        "--joined", action=argparse.BooleanOptionalAction, default=None,
        help="read the documents as one, with a blank line between (default: as the protocol does)",
    )  # fmt: skip
    text.add_argument("--window", type=int, help="tokens that the model reads at once")
    text.add_argument("--stride", type=int, help="tokens by which the window moves")
    text.add_argument(
        "--bos", choices=("auto", "always", "never"), default="auto",
        help="whether BOS stands in front (default: as the tokenizer's configuration says)",
    )  # fmt: skip
    text.add_argument(
        "--dtype", choices=DTYPES, help="of the model's arithmetic (default: float32)"
    )
    text.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    text.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model"
    )


def protocol_of(options: argparse.Namespace) -> Protocol:
    """The protocol that the options describe."""
    from kullback.text.protocol import Protocol

    return Protocol(options.protocol, options.window, options.stride, options.bos, options.joined)


def read_text(options: argparse.Namespace) -> list[Document]:
    """The documents that the options name."""
    from kullback.text.documents import read_documents

    return read_documents(
        options.text, options.field, note=lambda note: print(f"note: {note}", file=sys.stderr)
    )


def torch_dtype(options: argparse.Namespace) -> torch.dtype | None:
    """torch's name for the type that the options ask for."""
    import torch

    return None if options.dtype is None else getattr(torch, options.dtype)


def load_sized(name: str, options: argparse.Namespace) -> SizedModel:
    """The model called `name`, in the arithmetic and on the device that the options ask for."""
    from kullback.models import load

    return load.load_sized(name, torch_dtype(options), options.device, options.trust_remote_code)


def check_parquet(option: str, path: Path | None) -> None:
    """Raise `InvalidValueError` where a file of records would be called something else."""
    if path is not None and path.suffix != ".parquet":
        raise InvalidValueError(
            f"{option} is {path}: the records of tokens are a Parquet file; give a name that ends "
            "in .parquet"
        )


def _evaluate(options: argparse.Namespace) -> None:
    if options.text is not None:
        if options.source is not None:
            raise InvalidValueError("give --text or --source, not both: they are two measurements")
        _on_text(options)
        return
    if options.records is not None or options.report is not None:
        raise InvalidValueError("--records and --report need --text: they show a text's tokens")
    _on_source(options)


def _on_text(options: argparse.Namespace) -> None:
    from kullback.evaluation.on_text import evaluate_text
    from kullback.report.html.text import write_text_report
    from kullback.report.terminal.progress import TextProgress
    from kullback.report.terminal.text import evaluation_summary
    from kullback.runtime.workers import process_group

    check_parquet("--records", options.records)
    check_outputs({"--records": options.records, "--report": options.report}, options.text)
    protocol, documents = protocol_of(options), read_text(options)
    with process_group() as processes:
        with loading(options.model):
            model = load_sized(options.model, options).model
        exact = None
        if options.dtype in ("bfloat16", "float16"):
            exact = partial(_load_exact, options)
        with TextProgress(progress_console() if processes.is_rank_zero else None) as progress:
            results = evaluate_text(
                model, documents, protocol, processes, options.records, progress.show,
                options.command_line, with_passages=options.report is not None, exact=exact,
                with_temperature=options.temperature, stage=progress.stage,
            )  # fmt: skip
    if results is None:
        return
    # The numbers first: whatever may happen to the page, they are not lost.
    if options.json:
        print_json(results)
    else:
        result_console().print(evaluation_summary(results))
    if options.report is not None:
        write_text_report(results, options.report)
    if options.json:
        return
    for path in (options.records, options.report):
        if path is not None:
            print(f"written: {path}")


def _load_exact(options: argparse.Namespace) -> TextModel:
    import torch

    from kullback.models import load

    return load.load_sized(
        options.model, torch.float32, options.device, options.trust_remote_code
    ).model


def _check_is_run(options: argparse.Namespace) -> None:
    """Raise `InvalidValueError` for a model of transformers, whose source nobody knows."""
    folder = Path(options.model)
    known = options.source is not None or (folder / "training.json").exists()
    if not known and ((folder / "config.json").exists() or folder.suffix == ".gguf"):
        raise InvalidValueError(
            f"{options.model} was not trained by kullback on a source: say which text to evaluate "
            "it on, --text FILE"
        )


def _on_source(options: argparse.Namespace) -> None:
    from kullback.evaluation.on_source import Corpus, evaluate_on_source
    from kullback.evaluation.on_text import plain
    from kullback.lab import plain_evaluation
    from kullback.models.mini_gpt import GPTModel
    from kullback.report.terminal.lab import evaluation_table, slot_table
    from kullback.sources.catalogue import open_source, source_from_spec
    from kullback.training.description import read_description

    _check_is_run(options)
    model = GPTModel.load(Path(options.model))
    if options.source is not None:
        source = open_source(options.source)
    else:
        data = read_description(Path(options.model)).data
        if "source" not in data:
            raise InvalidValueError(
                f"{options.model} was trained on a text, whose entropy nobody knows: "
                "name a source with --source, or a text with --text"
            )
        source = source_from_spec(data["source"])
    progress = progress_console()
    found = []
    parts: tuple[tuple[LanguagePart, Language | None], ...] = (
        ("training", source.training),
        ("held out", source.held_out),
    )
    for part, language in parts:
        if language is None:
            continue
        if options.sentences:
            corpus = Corpus.sample(language, options.sentences, options.seed)
        else:
            corpus = Corpus.best(language, 20_000, options.seed)
        with progress.status(f"measuring {model.name} on {language.name}"):
            evaluation = evaluate_on_source(model, corpus)
        found.append((evaluation, plain_evaluation(evaluation, part)))
    names = ("cross_entropy", "entropy", "kl")
    if options.json:
        print_json(
            [
                {**data, "measurements": {name: plain(getattr(evaluation, name)) for name in names}}
                for evaluation, data in found
            ]
        )
        return
    console = result_console()
    for evaluation, _ in found:
        console.print(f"{evaluation.language}:")
        for name in names:
            measured = getattr(evaluation, name)
            console.print(f"  {name.replace('_', '-'):<14}{measured}  ({measured.method})")
        console.print(f"  {'identity':<14}CE − (H + KL) = {evaluation.identity_residual:.1e}")
    console.print(evaluation_table([data for _, data in found]))
    console.print(slot_table(found[0][1]))
