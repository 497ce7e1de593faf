"""`kullback train`: a mini-GPT, and what it reached beside an n-gram baseline."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kullback.cli.output import print_error, print_result, progress_console
from kullback.cli.parsing import add_command, given, input_name, number, output_name
from kullback.cli.training_config import read_config
from kullback.errors import InvalidValueError
from kullback.runtime.imports import without_collections
from kullback.runtime.interruption import exit_code
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.ranges import HOLDOUTS, SEEDS, TRAINED_VOCABULARIES
from kullback.runtime.ranks import is_rank_zero
from kullback.training.config import DTYPES, RANGES, SHARDING, SIZES
from kullback.training.loggers import LOGGERS, check_loggers
from kullback.training.new_run import check_no_run
from kullback.training.sizes import MINUTES, NAMED_SIZES

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.results.evaluation import NonZeroRank
    from kullback.results.training import TrainingRun

__all__ = ["OPTIONS", "add"]

#: Numbers, in the groups of the help: flag, keyword of `kullback.models.train.train_model`, range,
#: default as the help shows it, help.  The defaults are those of `train_model`: an option that is
#: not given is not passed on.
NUMBERS = {
    "steps, batch, seed": (
        ("--steps", "steps", RANGES["steps"], "800; with --size 20 tokens a parameter",
         "training steps"),
        ("--minutes", "minutes", MINUTES, "--steps", "time after which the run ends"),
        ("--batch", "batch", SIZES["batch"], "256 and 48, or by --size",
         "sentences of a source, or windows of a text, per step"),
        ("--seed", "seed", SEEDS, "0", "seed of weights and data"),
    ),
    "on a text": (
        ("--vocabulary", "vocabulary_size", TRAINED_VOCABULARIES, "1024, or by --size",
         "entries of the tokenizer trained on the text"),
        ("--context", "context", SIZES["context"], "64, or by --size", "tokens of a window"),
    ),
    "on a source": (
        ("--holdout", "holdout", HOLDOUTS, "0", "cells of the conjugation table to hold out"),
    ),
    "the model": (
        ("--layers", "layers", SIZES["layers"], "2, or by --size", "blocks"),
        ("--heads", "heads", SIZES["heads"], "2, or by --size", "attention heads"),
        ("--width", "width", SIZES["width"], "64, or by --size", "width of the residual stream"),
        ("--mlp-width", "mlp_width", SIZES["mlp_width"], "2.5 × width", "width of the MLP"),
        ("--rope-theta", "rope_theta", SIZES["rope_theta"], "10000.0",
         "base of the rotary angles"),
        ("--norm-eps", "norm_eps", SIZES["norm_eps"], "1e-06", "added in the normalisations"),
    ),
    "optimisation": (
        ("--muon-lr", "muon_lr", RANGES["muon_lr"], "0.02, or by --size",
         "learning rate of the blocks' matrices"),
        ("--muon-rows", "muon_rows", RANGES["muon_rows"], "0, or by --size",
         "rows that Muon orthogonalises together; 0 for whole matrices"),
        ("--adamw-lr", "adamw_lr", RANGES["adamw_lr"], "0.003, or by --size",
         "learning rate of all other parameters"),
        ("--warmup-steps", "warmup_steps", RANGES["warmup_steps"], "20",
         "steps over which the learning rates rise"),
        ("--decay-fraction", "decay_fraction", RANGES["decay_fraction"], "0.7",
         "fraction of the steps, at the end, over which they fall to zero"),
        ("--weight-decay", "weight_decay", RANGES["weight_decay"], "0.1 on a text, 0 on a source",
         "matrices are multiplied by 1 - learning rate × this in each step"),
        ("--clip-norm", "clip_norm", RANGES["clip_norm"], "1.0", "largest norm of a gradient"),
        ("--dropout", "dropout", RANGES["dropout"], "0.0",
         "fraction of what each block adds that a step leaves out, for texts that are read many "
         "times"),
    ),
    "metrics and checkpoints": (
        ("--log-every", "log_every", RANGES["log_every"], "10", "steps between lines of metrics"),
        ("--evaluate-every", "evaluate_every", RANGES["evaluate_every"], "100",
         "steps between validations"),
        ("--checkpoint-every", "checkpoint_every", RANGES["checkpoint_every"], "100",
         "steps between checkpoints"),
    ),
    "devices and memory": (
        ("--threads", "threads", RANGES["shards"], "2; 1 on a GPU or with one core a process",
         "threads of a CPU, one shard of the batch each"),
        ("--accumulate", "accumulate", RANGES["accumulate"], "1",
         "parts of a batch, one after another, which take less memory"),
    ),
}  # fmt: skip
OPTIONS = tuple(option for options in NUMBERS.values() for option in options)
#: Options of texts whose values are names.
TEXTS = ("validation", "field", "tokenizer")
SWITCHES = ("checkpoint_activations", "tied")
#: Other options whose values are names.
NAMES = ("size", "device", "dtype", "fsdp")
DTYPES_AND_AUTO = ("auto", *DTYPES)
ONLY_FOR_SOURCES = ("holdout",)
ONLY_FOR_TEXTS = ("vocabulary_size", "context", "tokenizer", "validation", "field")


def add(commands: Commands) -> None:
    """Declare the command."""
    train = add_command(
        commands, "train", _train, "train a mini-GPT on a source or a text",
        "kullback train --source conjugation --steps 800 -o runs/mine",
        "kullback train --text book.txt --steps 2000 -o runs/book",
        "kullback train --text 'corpus/*.jsonl.gz' --size micro --minutes 60 -o runs/corpus",
        "kullback train --resume runs/mine",
        notes=(
            "\nAt the end: training and validation cross-entropy, beside the best of a few n-gram\n"
            "models of the same training data, and on a source the exact floor.  Ctrl-C writes a\n"
            "checkpoint; --resume then ends, on a CPU, with the bits of an uninterrupted run.\n"
            "docs/training.md is about sizes, devices, memory and several processes.\n"
        ),
    )  # fmt: skip
    data = train.add_mutually_exclusive_group(required=True)
    data.add_argument("--source", metavar="NAME", help="a source or a grammar file")
    data.add_argument(
        "--text",
        type=input_name,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="files (.txt, .jsonl, .parquet, .csv; .gz and .zst, too), folders, or patterns",
    )
    data.add_argument("--resume", type=input_name, metavar="RUN", help="resume an interrupted run")
    train.add_argument(
        "-o", "--output", type=output_name, metavar="RUN", default=argparse.SUPPRESS,
        help="folder to train into",
    )  # fmt: skip
    train.add_argument(
        "--size", choices=tuple(NAMED_SIZES), default=argparse.SUPPRESS,
        help="model, batch and learning rates by name (default: nano)",
    )  # fmt: skip
    train.add_argument(
        "--config", type=input_name, metavar="FILE", default=argparse.SUPPRESS,
        help="a TOML file of hyperparameters, as muon_lr = 0.01",
    )  # fmt: skip
    groups = {title: train.add_argument_group(title) for title in NUMBERS}
    _add_names(groups)
    for title, options in NUMBERS.items():
        for flag, keyword, limits, default, help_text in options:
            groups[title].add_argument(
                flag, dest=keyword, type=number(limits), default=argparse.SUPPRESS,
                metavar="N" if limits.whole else "X",
                help=f"{help_text} (default: {default})",
            )  # fmt: skip


def _add_names(groups: Mapping[str, argparse._ArgumentGroup]) -> None:
    """The options of the groups whose values are not numbers."""
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    groups["on a text"].add_argument(
        "--validation", type=input_name, nargs="+", action="extend", metavar="FILE",
        help="texts that are held out (default: a tenth of the documents, or of a text)", **absent,
    )  # fmt: skip
    groups["on a text"].add_argument(
        "--field", **absent,
        help="the column of .jsonl, .json, .csv, .tsv and .parquet files (default: text)",
    )  # fmt: skip
    groups["on a text"].add_argument(
        "--tokenizer", metavar="TOKENIZER",
        help="characters, a tokenizer.json or its folder (default: a byte-level BPE of the text)",
        **absent,
    )  # fmt: skip
    groups["the model"].add_argument(
        "--tied", action=argparse.BooleanOptionalAction, **absent,
        help="the head is the embedding (default: except with --tokenizer characters)",
    )  # fmt: skip
    groups["metrics and checkpoints"].add_argument(
        "--log", action="append", choices=LOGGERS, **absent,
        help="send the metrics there, too; may be repeated (extras of the same names)",
    )  # fmt: skip
    memory = groups["devices and memory"]
    memory.add_argument(
        "--device", **absent,
        help="auto (default: cuda, then mps, then cpu; of a resumed run its own), or a device such "
        "as cuda:1",
    )  # fmt: skip
    memory.add_argument(
        "--dtype", choices=DTYPES_AND_AUTO, **absent,
        help="type of the operands of matrix products (default: auto, bfloat16 where it is "
        "faster); all else is float32",
    )  # fmt: skip
    memory.add_argument(
        "--checkpoint-activations", action="store_true", **absent,
        help="compute the activations of a block again for its gradient: less memory, more time",
    )  # fmt: skip
    memory.add_argument(
        "--fsdp", choices=SHARDING, **absent,
        help="shard weights, gradients and optimisers over the processes of torchrun: where a "
        "replica does not fit in memory (auto, the default), always or never",
    )  # fmt: skip


def _train(options: argparse.Namespace) -> int:
    keywords = given(options, *(keyword for _, keyword, *_ in OPTIONS), *TEXTS, *SWITCHES, *NAMES)
    if hasattr(options, "config") and options.resume is None:
        names = {*TEXTS, *NAMES}
        known = {keyword for _, keyword, *_ in OPTIONS} | names | {*SWITCHES}
        of_file = read_config(options.config, known, names, SWITCHES)
        for name, other in (("steps", "minutes"), ("minutes", "steps")):
            if name in keywords:  # each says when the run ends
                of_file.pop(other, None)
        keywords = of_file | keywords
    _check(options, keywords)
    log = getattr(options, "log", [])
    check_loggers(log)
    with without_collections():
        from kullback.cli.live_page import LivePage
        from kullback.models.train import resume_training, train_model
        from kullback.report.terminal.training import TrainingDisplay
        from kullback.results.training import TrainingRun as Run
        from kullback.training.interruption import Interrupted
        from kullback.training.progress import TrainingProgress

    run = options.output if options.resume is None else options.resume
    progress = TrainingProgress()
    result: TrainingRun | NonZeroRank | None = None
    try:
        with ExitStack() as shown:
            if is_rank_zero():
                display = shown.enter_context(TrainingDisplay(progress_console()))
                progress = shown.enter_context(LivePage(display, run))
            if options.resume is not None:
                result = resume_training(options.resume, log=log, progress=progress, **keywords)
            else:
                result = train_model(
                    options.output, text=options.text, source=options.source, log=log,
                    progress=progress, **keywords,
                )  # fmt: skip
            if isinstance(progress, LivePage) and isinstance(result, Run):
                progress.finish(result)
    except Interrupted as stop:
        print_error(str(stop))
        return exit_code()
    except KeyboardInterrupt:
        if result is None:
            raise
        print_error(str(Interrupted(run, None, trained=True)))  # the page is not finished
        return exit_code()
    print_result(result, options.json)
    return 0


def _check(options: argparse.Namespace, keywords: dict[str, object]) -> None:
    """Raise `InvalidValueError` for options that cannot apply, and for a folder that is not taken.

    Before torch is imported, which takes seconds.
    """
    flags = {keyword: flag for flag, keyword, *_ in OPTIONS}
    flags |= {keyword: f"--{keyword.replace('_', '-')}" for keyword in (*TEXTS, *SWITCHES, *NAMES)}
    if options.resume is not None:
        names = ["-o"] if hasattr(options, "output") else []
        names += ["--config"] if hasattr(options, "config") else []
        names += [flags[keyword] for keyword in keywords if keyword != "device"]
        if names:
            raise InvalidValueError(
                f"{' and '.join(names)} cannot be given with --resume: a run stays in its folder "
                "and keeps the options that it began with, since its learning rates fall to zero "
                "over its own number of steps; train a new run with -o"
            )
    elif not hasattr(options, "output"):
        raise InvalidValueError("-o RUN is missing: give the folder to train into")
    data, others = ("--text", ONLY_FOR_SOURCES) if options.text else ("--source", ONLY_FOR_TEXTS)
    for keyword in others:
        if keyword in keywords:
            raise InvalidValueError(f"{flags[keyword]} does not apply to {data}; remove it")
    if options.resume is None and is_rank_zero():
        read = options.text if options.text is not None else [options.source]
        read = [*read, *getattr(options, "validation", [])]
        check_outputs(Output("the run folder (-o)", options.output, "folder"), inputs=read)
        check_no_run(options.output)
