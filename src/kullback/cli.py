"""The command line: parses and calls; the arithmetic is elsewhere.

Results go to standard output (with ``--json``: one JSON document and nothing else), progress to
standard error.  Exit codes: 0 done, 2 something that the user can mend, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kullback import __version__
from kullback.errors import InvalidValueError, KullbackError

if TYPE_CHECKING:
    from rich.console import Console

    from kullback.batches import Batches

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv` (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    options.command_line = shlex.join(["kullback", *arguments])
    try:
        run: Callable[[argparse.Namespace], int | None] = options.run
        return run(options) or 0
    except KullbackError as error:
        print(f"kullback: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kullback: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0


# --- commands ------------------------------------------------------------------------------


def _lab(options: argparse.Namespace) -> int:
    from rich.text import Text

    from kullback.lab import LabConfig, Progress, run_lab
    from kullback.report.terminal import TrainingDisplay, lab_summary
    from kullback.sources.catalogue import open_source
    from kullback.train import Interrupted

    progress = _progress_console()
    config = LabConfig(steps=options.steps, seed=options.seed)
    floor = open_source("conjugation", config.holdout, config.seed).training.entropy_per_token
    try:
        with TrainingDisplay(progress, config.steps, floor) as display:
            results = run_lab(
                options.output,
                config,
                Progress(
                    lambda what: progress.print(Text(f"· {what}", style="dim")), display.show
                ),
                options.command_line,
            )
    except Interrupted as stop:
        progress.print(f"stopped at step {stop.step}; go on with: {options.command_line}")
        return INTERRUPTED
    report = options.output / "report.html"
    if options.json:
        _print_json(results)
    else:
        files = {"report": str(report), "numbers": str(options.output / "results.json")}
        _result_console().print(lab_summary(results, files))
    return 0


def _source_list(options: argparse.Namespace) -> None:
    from kullback.sources.catalogue import NAMES

    if options.json:
        _print_json(NAMES)
        return
    for name, what in NAMES.items():
        print(f"{name:<14}{what}")
    print("GRAMMAR.toml  a grammar file of your own (kullback source describe --help)")


def _source_describe(options: argparse.Namespace) -> None:
    from kullback.report.terminal import source_table

    source = _open(options)
    parts = {"training": source.training, "held out": source.held_out}
    if options.json:
        _print_json({part: _facts(x) for part, x in parts.items() if x is not None})
        return
    for part, language in parts.items():
        if language is not None:
            name = source.name if source.held_out is None else f"{source.name} ({part})"
            _result_console().print(source_table(name, language))


def _facts(language: Any) -> dict[str, Any]:
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

    source = _open(options)
    language = source.held_out if options.held_out else source.training
    if language is None:
        raise InvalidValueError("nothing is held out: give --holdout CELLS with --held-out")
    sample = language.sample(options.n, np.random.default_rng(options.seed))
    texts, surprisals = list(sample.texts()), sample.surprisals.sum(axis=1)
    if options.json:
        _print_json(
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

    facts = export_source(_open(options), options.tokens, options.output, options.seed)
    if options.json:
        _print_json(facts)
        return
    print(
        f"{facts['tokens']:,} tokens in {options.output}: reach "
        f"{facts['entropy_per_token']:.9f} nats/token, and no less (README.txt says how to use it)"
    )


def _train(options: argparse.Namespace) -> int:
    from kullback.batches import SentenceBatches, TextBatches
    from kullback.gpt import GPTConfig
    from kullback.report.terminal import TrainingDisplay
    from kullback.train import Interrupted, TrainingConfig, resume, train, training_description

    progress = _progress_console()
    try:
        if options.resume is not None:
            description = training_description(options.resume)
            steps, floor = description["config"]["steps"], description["floor"]
            with TrainingDisplay(progress, steps, floor) as display:
                resume(options.resume, display.show)
            run = options.resume
        else:
            if options.output is None:
                raise InvalidValueError("-o RUN is missing: say which folder to train into")
            run = options.output
            batches: Batches
            if options.text:
                batches = TextBatches.read(
                    options.text, options.vocabulary, options.context, options.batch or 48,
                    options.seed,
                )  # fmt: skip
            else:
                batches = SentenceBatches(_open(options), options.batch or 256, options.seed)
            gpt = GPTConfig(
                batches.vocabulary_size,
                batches.context,
                options.width,
                options.layers,
                options.heads,
                options.mlp_width or 32 * math.ceil(2.5 * options.width / 32),
            )
            config = TrainingConfig(
                steps=options.steps,
                muon_lr=options.muon_lr,
                adamw_lr=options.adamw_lr,
                shards=options.threads,
                seed=options.seed,
            )
            with TrainingDisplay(progress, config.steps, batches.floor) as display:
                train(run, batches, gpt, config, display.show)
    except Interrupted as stop:
        print(f"kullback: {stop}", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        from kullback.train import read_metrics

        _print_json({"run": str(run), **read_metrics(run / "metrics.jsonl")[-1]})
    else:
        print(f"trained: {run} (kullback evaluate {run}; kullback sample {run})")
    return 0


def _sample(options: argparse.Namespace) -> None:
    import numpy as np
    from tokenizers import Tokenizer

    from kullback.generate import generate
    from kullback.run_folder import load_model

    gpt = load_model(options.run_folder)
    tokenizer = Tokenizer.from_file(str(options.run_folder / "tokenizer.json"))
    known = tokenizer.get_vocab()
    word_level = json.loads(tokenizer.to_str())["model"]["type"] == "WordLevel"
    for word in options.prompt.split() if word_level else ():
        if word not in known:
            raise InvalidValueError(
                f"the prompt's word {word!r} is not in the vocabulary of {options.run_folder} "
                f"({len(known)} words)"
            )
    prompt = tokenizer.encode(options.prompt, add_special_tokens=False).ids
    rng = np.random.default_rng(options.seed)
    sentences = generate(gpt, prompt, options.n, rng, options.temperature)
    texts = [tokenizer.decode(sentence) for sentence in sentences]
    if options.json:
        _print_json(texts)
        return
    for text in texts:
        print(text)


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
    progress = _progress_console()
    found = []
    for part, language in (("training", source.training), ("held out", source.held_out)):
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
        _print_json([plain for _, plain in found])
        return
    console = _result_console()
    for evaluation, _ in found:
        console.print(f"{evaluation.language}:")
        for name in ("cross_entropy", "entropy", "kl"):
            measured = getattr(evaluation, name)
            console.print(f"  {name.replace('_', '-'):<14}{measured}  ({measured.method})")
        console.print(f"  {'identity':<14}CE − (H + KL) = {evaluation.identity_residual:.1e}")
    console.print(evaluation_table([plain for _, plain in found]))
    console.print(slot_table(found[0][1]))


# --- parsing -------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Keeps the layout of examples, and ends every error with where to look."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        print(f"kullback: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kullback",
        description="Train, evaluate and quantise language models with every nat accounted for.",
        epilog="examples:\n  kullback lab -o lab\n  kullback source describe conjugation\n"
        "  kullback train --source conjugation -o runs/mine\n  kullback evaluate runs/mine\n"
        "  kullback sample runs/mine --prompt 'yesterday she'",
    )
    parser.add_argument("--version", action="version", version=f"kullback {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    lab = _command(commands, "lab", _lab, "the whole story on the embedded language, with a report",
                   "kullback lab -o lab\n  kullback lab -o quick --steps 200")  # fmt: skip
    lab.add_argument("-o", "--output", type=Path, default=Path("lab"), metavar="DIR",
                     help="folder for the run, results.json and report.html (default: lab)")  # fmt: skip
    lab.add_argument("--steps", type=int, default=800, help="training steps (default: 800)")
    lab.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")

    source = commands.add_parser("source", help="languages whose entropy is known exactly")
    actions = source.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "list", _source_list, "the sources there are", "kullback source list")
    describe = _command(actions, "describe", _source_describe, "exact entropies of a source",
                        "kullback source describe conjugation --holdout 24\n"
                        "  kullback source describe weather.toml\n\n" + _GRAMMAR_HELP)  # fmt: skip
    _source_options(describe)
    sample = _command(actions, "sample", _source_sample, "sentences with their true surprisal",
                      "kullback source sample conjugation -n 5")  # fmt: skip
    _source_options(sample)
    sample.add_argument("-n", type=int, default=10, help="how many sentences (default: 10)")
    sample.add_argument("--held-out", action="store_true", help="of the held-out language")
    export = _command(actions, "export", _source_export, "data to train another stack on",
                      "kullback source export conjugation --tokens 5000000 -o data")  # fmt: skip
    _source_options(export)
    export.add_argument("--tokens", type=int, default=1_000_000, help="at least so many")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")

    train = _command(commands, "train", _train, "train a mini-GPT on a source or a text",
                     "kullback train --source conjugation --steps 800 -o runs/mine\n"
                     "  kullback train --text book.txt --steps 2000 -o runs/book\n"
                     "  kullback train --resume runs/mine")  # fmt: skip
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", dest="name", metavar="NAME", help="a source or a grammar file")
    what.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="UTF-8 text files")
    what.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    train.add_argument("-o", "--output", type=Path, metavar="RUN", help="folder to train into")
    for flag, kind, default, help_text in (
        ("--steps", int, 800, "training steps"),
        ("--holdout", int, 0, "cells of the conjugation table to hold out"),
        ("--width", int, 64, "width of the model"),
        ("--layers", int, 2, "blocks"),
        ("--heads", int, 2, "attention heads"),
        ("--vocabulary", int, 1024, "entries of the tokenizer trained on a text"),
        ("--context", int, 64, "tokens of a window of text"),
        ("--muon-lr", float, 0.02, "learning rate of the blocks' matrices"),
        ("--adamw-lr", float, 0.003, "learning rate of everything else"),
        ("--threads", int, 2, "threads, one shard of the batch each"),
        ("--seed", int, 0, "of weights and data"),
    ):
        train.add_argument(flag, type=kind, default=default, help=f"{help_text} ({default})")
    train.add_argument("--mlp-width", type=int, default=0, help="MLP width (2.5 × width)")
    train.add_argument("--batch", type=int, default=0, help="sentences (256) or windows (48) a step")

    generate = _command(commands, "sample", _sample, "sentences from a trained model",
                        "kullback sample runs/mine -n 5\n"
                        "  kullback sample runs/mine --prompt 'tomorrow you' --temperature 0 -n 1")  # fmt: skip
    generate.add_argument("run_folder", type=Path, metavar="RUN")
    generate.add_argument("--prompt", default="", help="how the sentences begin")
    generate.add_argument("-n", type=int, default=10, help="how many (default: 10)")
    generate.add_argument("--temperature", type=float, default=1.0, help="0 takes the most probable")
    generate.add_argument("--seed", type=int, default=0, help="(default: 0)")

    evaluate = _command(commands, "evaluate", _evaluate, "cross-entropy = entropy + KL, by slot",
                        "kullback evaluate runs/mine\n"
                        "  kullback evaluate runs/mine --source conjugation --json")  # fmt: skip
    evaluate.add_argument("model", type=Path, metavar="RUN")
    evaluate.add_argument("--source", metavar="NAME", help="default: what the run was trained on")
    evaluate.add_argument("--sentences", type=int, default=0,
                          help="measure on a sample of so many (default: all prefixes if feasible)")  # fmt: skip
    evaluate.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    return parser


_GRAMMAR_HELP = """a grammar file is TOML; a rule's name is the slot of the words it writes, and a
rule may refer to itself only at its end:

  name = "weather"
  start = "sentence"
  [rules]
  sentence = [{ p = 0.7, then = "today <sky>" }, { p = 0.3, then = "tomorrow <sky>" }]
  sky = ["it rains", "the sun shines"]          # no p: all alike"""


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    what: str,
    examples: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, epilog=f"examples:\n  {examples}"
    )
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.set_defaults(run=run)
    return command


def _source_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="conjugation, or a grammar file")
    command.add_argument("--holdout", type=int, default=0, metavar="CELLS",
                         help="cells of the conjugation table to hold out (default: 0)")  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")


def _open(options: argparse.Namespace) -> Any:
    from kullback.sources.catalogue import open_source

    return open_source(options.name, options.holdout, options.seed)


def _progress_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _result_console() -> Console:
    from rich.console import Console

    # In a file or a pipe a table keeps its width, whatever the terminal's.
    return Console() if sys.stdout.isatty() else Console(width=120)


def _print_json(data: Any) -> None:
    """Strict JSON: infinities become null, which the keys' documentation says."""
    print(json.dumps(_finite(data), ensure_ascii=False, indent=1, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


if __name__ == "__main__":
    raise SystemExit(main())
