"""`kullback evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, progress_console, result_console
from kullback.cli.parsing import add_command
from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.report.results import LanguagePart
    from kullback.sources.language import Language


__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the command."""
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        "cross-entropy = entropy + KL, by slot",
        "kullback evaluate runs/mine",
        "kullback evaluate runs/mine --source conjugation --json",
    )
    evaluate.add_argument("model", type=Path, metavar="RUN")
    evaluate.add_argument("--source", metavar="NAME", help="default: what the run was trained on")
    evaluate.add_argument(
        "--sentences",
        type=int,
        default=0,
        help="measure on a sample of so many (default: all prefixes if feasible)",
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")


def _evaluate(options: argparse.Namespace) -> None:
    from kullback.evaluate.truth import Corpus, evaluate_on_source
    from kullback.lab import plain_evaluation
    from kullback.models.checkpoint import GPTModel
    from kullback.report.terminal import evaluation_table, slot_table
    from kullback.sources.catalogue import open_source, source_from_spec
    from kullback.train import training_description

    model = GPTModel.load(options.model)
    if options.source is not None:
        source = open_source(options.source)
    else:
        data = training_description(options.model)["data"]
        if "source" not in data:
            raise InvalidValueError(
                f"{options.model} was trained on a text, whose entropy nobody knows: "
                "name a source with --source"
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
    if options.json:
        print_json([plain for _, plain in found])
        return
    console = result_console()
    for evaluation, _ in found:
        console.print(f"{evaluation.language}:")
        for name in ("cross_entropy", "entropy", "kl"):
            measured = getattr(evaluation, name)
            console.print(f"  {name.replace('_', '-'):<14}{measured}  ({measured.method})")
        console.print(f"  {'identity':<14}CE − (H + KL) = {evaluation.identity_residual:.1e}")
    console.print(evaluation_table([plain for _, plain in found]))
    console.print(slot_table(found[0][1]))
