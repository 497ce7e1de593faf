"""`kullback source`: list, describe, sample and export languages whose entropy is known exactly."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, print_line, result_console
from kullback.cli.parsing import add_command, output_name, seed
from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.sources.catalogue import Source
    from kullback.sources.language import Language

__all__ = ["add", "open_named"]

GRAMMAR_HELP = """
A grammar file is TOML.  A rule is a list of alternatives; an alternative contains
words and references <rule>.  The name of a rule is the slot of its words, and a rule
may refer to itself only at its end:

  name = "weather"
  start = "sentence"
  [rules]
  sentence = [{ p = 0.7, then = "today <sky>" }, { p = 0.3, then = "tomorrow <sky>" }]
  sky = ["it rains", "the sun shines"]          # without p: equally likely"""

EXPORT_HELP = """
DIR gets train.txt, train.tokens.npy, train.surprisals.npy, tokenizer.json and a
README.txt.  The expected loss of a model on fresh sentences is at least the entropy
floor: a loss clearly below it is a bug of the trainer."""


def add(commands: Commands) -> None:
    """Declare the commands."""
    source = commands.add_parser("source", help="languages whose entropy is known exactly")
    actions = source.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_command(actions, "list", _source_list, "list the sources", "kullback source list")
    describe = add_command(
        actions, "describe", _source_describe, "show the exact entropies of a source",
        "kullback source describe conjugation --holdout 24",
        "kullback source describe weather.toml",
        notes=GRAMMAR_HELP,
    )  # fmt: skip
    sample = add_command(
        actions, "sample", _source_sample, "sample sentences with their true surprisal",
        "kullback source sample conjugation -n 5",
        "kullback source sample conjugation -n 5 --holdout 24 --held-out",
    )  # fmt: skip
    sample.add_argument(
        "-n", type=int, default=10, metavar="N", help="number of sentences (default: 10)"
    )
    sample.add_argument(
        "--held-out", action="store_true", help="sample the held-out language (needs --holdout)"
    )
    export = add_command(
        actions, "export", _source_export, "write training data for another training stack",
        "kullback source export conjugation --tokens 5000000 -o data",
        notes=EXPORT_HELP,
    )  # fmt: skip
    export.add_argument(
        "--tokens", type=int, default=1_000_000, metavar="N",
        help="minimum number of tokens, in complete sentences (default: 1000000)",
    )  # fmt: skip
    export.add_argument(
        "-o", "--output", type=output_name, required=True, metavar="DIR", help="folder to write to"
    )
    for action, seeded in (
        (describe, "the held-out cells"),
        (sample, "the held-out cells and of the sample"),
        (export, "the held-out cells and of the sample"),
    ):
        action.add_argument("name", metavar="NAME", help="conjugation, or a grammar file (.toml)")
        action.add_argument(
            "--holdout", type=int, default=0, metavar="CELLS",
            help="number of cells of the conjugation table to hold out (default: 0)",
        )  # fmt: skip
        action.add_argument(
            "--seed", type=seed, default=0, metavar="N", help=f"seed of {seeded} (default: 0)"
        )


def open_named(options: argparse.Namespace) -> Source:
    """The source that the options `name`, `holdout` and `seed` describe."""
    from kullback.sources.catalogue import open_source

    return open_source(options.name, options.holdout, options.seed)


def _source_list(options: argparse.Namespace) -> None:
    from kullback.sources.catalogue import NAMES

    if options.json:
        print_json(NAMES)
        return
    for name, what in NAMES.items():
        print(f"{name:<14}{what}")
    print("GRAMMAR.toml  a grammar file (kullback source describe --help shows the format)")


def _source_describe(options: argparse.Namespace) -> None:
    from kullback.report.terminal.source import source_table

    source = open_named(options)
    if options.json:
        document = {"name": source.name, "training": _facts(source.training)}
        if source.held_out is not None:
            document["held_out"] = _facts(source.held_out)
        print_json(document)
        return
    name = source.name if source.held_out is None else f"{source.name} (training)"
    result_console().print(source_table(name, source.training))
    if source.held_out is not None:
        result_console().print(source_table(f"{source.name} (held out)", source.held_out))


def _facts(language: Language) -> dict[str, object]:
    slots = language.entropy_by_slot()
    return {
        "vocabulary": list(language.vocabulary),
        "number_of_sentences": _exact(language.number_of_sentences),
        "number_of_prefixes": _exact(language.number_of_prefixes),
        "tokens_per_sentence": language.tokens_per_sentence,
        "entropy_per_sentence": language.entropy_per_sentence,
        "entropy_per_token": language.entropy_per_token,
        "slots": {name: slot._asdict() for name, slot in slots.items()},
    }


def _exact(number: float | int) -> float | int | str:
    """An exact integer, or a string where Python writes no number of so many digits."""
    return number if number == math.inf or number < 10**4000 else f"10^{math.log10(number):.3f}"


def _source_sample(options: argparse.Namespace) -> None:
    import numpy as np

    source = open_named(options)
    language = source.held_out if options.held_out else source.training
    if language is None:
        raise InvalidValueError("--held-out needs held-out cells: add --holdout CELLS")
    sample = language.sample(options.n, np.random.default_rng(options.seed))
    rows = zip(
        sample.texts(), sample.surprisals.sum(axis=1).tolist(), sample.lengths.tolist(), strict=True
    )
    if options.json:
        print_json([{"text": text, "surprisal": s, "tokens": length} for text, s, length in rows])
        return
    for text, surprisal, _ in rows:
        print_line(f"{surprisal:8.4f} nats  {text}")


def _source_export(options: argparse.Namespace) -> None:
    from kullback.runtime.outputs import Output, check_outputs
    from kullback.sources.export import export_source

    check_outputs(Output("-o", options.output, "new folder"), inputs=[options.name])
    facts = export_source(open_named(options), options.tokens, options.output, options.seed)
    if options.json:
        print_json(facts)
        return
    print_line(
        f"{options.output}: {facts['tokens']:,} tokens in {facts['sentences']:,} sentences, "
        f"entropy floor {facts['entropy_per_token']:.9f} nats/token (see README.txt)"
    )
