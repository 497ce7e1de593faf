"""`kullback source`: languages whose entropy is known exactly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, result_console
from kullback.cli.parsing import add_command, seed
from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.sources.catalogue import Source
    from kullback.sources.language import Language


__all__ = ["add", "open_named"]

GRAMMAR_HELP = """
a grammar file is TOML; a rule's name is the slot of the words it writes, and a
rule may refer to itself only at its end:

  name = "weather"
  start = "sentence"
  [rules]
  sentence = [{ p = 0.7, then = "today <sky>" }, { p = 0.3, then = "tomorrow <sky>" }]
  sky = ["it rains", "the sun shines"]          # no p: all alike"""


def add(commands: Commands) -> None:
    """Declare the commands."""
    source = commands.add_parser("source", help="languages whose entropy is known exactly")
    actions = source.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_command(actions, "list", _source_list, "the sources there are", "kullback source list")
    describe = add_command(
        actions, "describe", _source_describe, "exact entropies of a source",
        "kullback source describe conjugation --holdout 24",
        "kullback source describe weather.toml",
        notes=GRAMMAR_HELP,
    )  # fmt: skip
    sample = add_command(
        actions, "sample", _source_sample, "sentences with their true surprisal",
        "kullback source sample conjugation -n 5",
    )  # fmt: skip
    sample.add_argument("-n", type=int, default=10, help="how many sentences (default: 10)")
    sample.add_argument("--held-out", action="store_true", help="of the held-out language")
    export = add_command(
        actions, "export", _source_export, "data to train another stack on",
        "kullback source export conjugation --tokens 5000000 -o data",
    )  # fmt: skip
    export.add_argument("--tokens", type=int, default=1_000_000, help="at least so many")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    for action in (describe, sample, export):
        action.add_argument("name", metavar="NAME", help="conjugation, or a grammar file")
        action.add_argument(
            "--holdout",
            type=int,
            default=0,
            metavar="CELLS",
            help="cells of the conjugation table to hold out (default: 0)",
        )
        action.add_argument("--seed", type=seed, default=0, help="of what is drawn (default: 0)")


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
    print("GRAMMAR.toml  a grammar file of your own (kullback source describe --help)")


def _source_describe(options: argparse.Namespace) -> None:
    from kullback.report.terminal.lab import source_table

    source = open_named(options)
    parts = {"training": source.training, "held out": source.held_out}
    if options.json:
        print_json({part: _facts(x) for part, x in parts.items() if x is not None})
        return
    for part, language in parts.items():
        if language is not None:
            name = source.name if source.held_out is None else f"{source.name} ({part})"
            result_console().print(source_table(name, language))


def _facts(language: Language) -> dict[str, object]:
    return {
        "vocabulary": list(language.vocabulary),
        "number_of_sentences": language.number_of_sentences,
        "number_of_prefixes": language.number_of_prefixes,
        "tokens_per_sentence": language.tokens_per_sentence,
        "entropy_per_sentence": language.entropy_per_sentence,
        "entropy_per_token": language.entropy_per_token,
        "slots": {slot: found._asdict() for slot, found in language.entropy_by_slot().items()},
    }


def _source_sample(options: argparse.Namespace) -> None:
    import numpy as np

    source = open_named(options)
    language = source.held_out if options.held_out else source.training
    if language is None:
        raise InvalidValueError("nothing is held out: give --holdout CELLS with --held-out")
    sample = language.sample(options.n, np.random.default_rng(options.seed))
    texts, surprisals = list(sample.texts()), sample.surprisals.sum(axis=1)
    if options.json:
        print_json(
            [
                {"text": text, "surprisal": surprisal}
                for text, surprisal in zip(texts, surprisals.tolist(), strict=True)
            ]
        )
        return
    for text, surprisal in zip(texts, surprisals, strict=True):
        print(f"{surprisal:8.4f} nats  {text}")


def _source_export(options: argparse.Namespace) -> None:
    from kullback.sources.export import export_source

    facts = export_source(open_named(options), options.tokens, options.output, options.seed)
    if options.json:
        print_json(facts)
        return
    print(
        f"{facts['tokens']:,} tokens in {options.output}: reach "
        f"{facts['entropy_per_token']:.9f} nats/token, and no less (README.txt says how to use it)"
    )
