"""`kullback source`: list, describe, sample and export languages whose entropy is known exactly."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, print_line, result_console, terminal_progress
from kullback.cli.parsing import add_command, number, output_name
from kullback.runtime.ranges import EXPORTED_TOKENS, HOLDOUTS, LENGTHS, SEEDS, SENTENCES, Range
from kullback.runtime.ranks import check_one_process
from kullback.runtime.wording import count_of
from kullback.sources.help import EXPORT_HELP, FORMATS, GRAMMAR_HELP

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.sources.catalogue import AnySource

__all__ = ["add"]

EXAMPLES = (
    "examples:\n"
    "  kullback source list\n"
    "  kullback source describe conjugation\n"
    "  kullback source sample conjugation -n 5\n"
    "  kullback source export conjugation --tokens 5000000 -o data\n"
)


def add(commands: Commands) -> None:
    """Declare the commands."""
    what = "languages whose entropy is known exactly"
    source = commands.add_parser("source", help=what, description=what, epilog=EXAMPLES)
    actions = source.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_command(actions, "list", _source_list, "list the sources", "kullback source list")
    describe = add_command(
        actions, "describe", _source_describe, "show the exact entropies of a source",
        "kullback source describe conjugation --holdout 24",
        "kullback source describe mess3 --window 16",
        "kullback source describe weather.toml",
        "kullback source describe book.txt --order 2 --unit words",
        notes=GRAMMAR_HELP,
    )  # fmt: skip
    sample = add_command(
        actions, "sample", _source_sample, "sample sentences with their true surprisal",
        "kullback source sample conjugation -n 5",
        "kullback source sample conjugation -n 5 --holdout 24 --held-out",
    )  # fmt: skip
    sample.add_argument(
        "-n", type=number(SENTENCES), default=10, metavar="N",
        help="number of sentences (default: 10)",
    )  # fmt: skip
    sample.add_argument(
        "--held-out", action="store_true", help="sample the held-out language (needs --holdout)"
    )
    export = add_command(
        actions, "export", _source_export, "write training data for another training stack",
        "kullback source export conjugation --tokens 5000000 -o data",
        "kullback source export mess3 --window 128 --format datasets,nanogpt -o data",
        "kullback source export book.txt --order 3 --format all -o data",
        notes=EXPORT_HELP,
    )  # fmt: skip
    export.add_argument(
        "--tokens", type=number(EXPORTED_TOKENS), default=1_000_000, metavar="N",
        help="minimum number of tokens, in complete sentences (default: 1000000)",
    )  # fmt: skip
    export.add_argument(
        "--validation", type=number(Range(0, EXPORTED_TOKENS.high)), metavar="N",
        help="tokens of the validation split (default: a tenth, at most a million)",
    )  # fmt: skip
    export.add_argument(
        "--format", type=_formats, default=("text", "npy"), metavar="NAMES",
        help=f"{', '.join(FORMATS)}, between commas, or all (default: text,npy)",
    )  # fmt: skip
    export.add_argument(
        "-o", "--output", type=output_name, required=True, metavar="DIR", help="folder to write to"
    )
    for action, seeded in (
        (describe, "the held-out cells"),
        (sample, "the held-out cells and of the sample"),
        (export, "the held-out cells and of the sample"),
    ):
        action.add_argument(
            "name", metavar="NAME",
            help="a name (kullback source list), a grammar or process file (.toml), or a text "
            "(.txt), whose n-gram model is the source",
        )  # fmt: skip
        action.add_argument(
            "--window", type=number(LENGTHS), metavar="N",
            help="of a process: symbols of a window, the first of which is given (default: 64)",
        )  # fmt: skip
        action.add_argument(
            "--order", type=number(LENGTHS), metavar="N",
            help="of a text: n of the n-gram model (default: 3)",
        )  # fmt: skip
        action.add_argument(
            "--unit", choices=("characters", "words"),
            help="of a text: what a token is (default: characters)",
        )  # fmt: skip
        action.add_argument(
            "--holdout", type=number(HOLDOUTS), default=0, metavar="CELLS",
            help="number of cells of the conjugation table to hold out (default: 0)",
        )  # fmt: skip
        action.add_argument(
            "--seed", type=number(SEEDS), default=0, metavar="N",
            help=f"seed of {seeded} (default: 0)",
        )  # fmt: skip


def _opened(options: argparse.Namespace) -> AnySource:
    from kullback.sources.catalogue import open_any_source

    return open_any_source(options.name, options.holdout, options.seed, options.order, options.unit)


def _source_list(options: argparse.Namespace) -> None:
    from kullback.sources.catalogue import NAMES

    if options.json:
        print_json(NAMES)
        return
    for name, what in NAMES.items():
        print_line(f"{name:<14}{what}")
    print_line("FILE.toml     a grammar, a Markov chain or a hidden Markov process")
    print_line("              (kullback source describe --help shows the formats)")
    print_line("FILE.txt      the n-gram model of a text (--order, --unit)")


def _source_describe(options: argparse.Namespace) -> None:
    from kullback.report.terminal.source import source_tables
    from kullback.sources.facts import source_facts, window_of

    source = _opened(options)
    if options.json:
        print_json(source_facts(source, options.window))
        return
    result_console().print(source_tables(source, window_of(source, options.window)))


def _source_sample(options: argparse.Namespace) -> None:
    from kullback.sources.facts import sampled_sentences

    rows = sampled_sentences(
        _opened(options), options.n, options.seed, options.held_out, options.window
    )
    if options.json:
        print_json(rows)
        return
    for row in rows:
        print_line(f"{row['surprisal']:8.4f} nats  {row['text']}")


def _source_export(options: argparse.Namespace) -> None:
    from kullback.runtime.outputs import Output, check_outputs

    check_one_process("a source is exported")
    # Before SciPy is imported, which takes a second.
    check_outputs(Output("-o", options.output, "new folder"), inputs=[options.name])
    from kullback.sources.export import export_source

    with terminal_progress() as progress:
        floor = export_source(
            _opened(options),
            options.tokens,
            options.output,
            options.seed,
            options.validation,
            options.format,
            options.window,
            progress,
        )
    if options.json:
        print_json(floor)
        return
    for split, about in floor["splits"].items():
        print_line(
            f"{options.output}: {about['tokens']:,} tokens in {count_of(about['rows'], 'row')} "
            f"({split})"
        )
    error = f" ± {floor['error']:.1e}" if floor["error"] else ""
    print_line(f"entropy floor {floor['nats_per_token']:.9f}{error} nats/token (see README.txt)")


def _formats(text: str) -> tuple[str, ...]:
    """The names of formats between commas; "all" is all of them."""
    return tuple(FORMATS) if text == "all" else tuple(text.split(","))
