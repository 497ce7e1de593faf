"""`kullback train` and `kullback sample`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.output import print_json, progress_console
from kullback.cli.parsing import INTERRUPTED, add_command, seed
from kullback.cli.source import open_named
from kullback.errors import InvalidValueError

if TYPE_CHECKING:
    from kullback.cli.parsing import Commands
    from kullback.training.batches import Batches


__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the commands."""
    train = add_command(
        commands, "train", _train, "train a mini-GPT on a source or a text",
        "kullback train --source conjugation --steps 800 -o runs/mine",
        "kullback train --text book.txt --steps 2000 -o runs/book",
        "kullback train --resume runs/mine",
    )  # fmt: skip
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", dest="name", metavar="NAME", help="a source or a grammar file")
    what.add_argument(
        "--text", type=Path, nargs="+", action="extend", metavar="FILE", help="UTF-8 text files"
    )
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
        ("--seed", seed, 0, "of weights and data"),
    ):
        train.add_argument(flag, type=kind, default=default, help=f"{help_text} ({default})")
    train.add_argument("--mlp-width", type=int, default=0, help="MLP width (2.5 × width)")
    train.add_argument(
        "--batch", type=int, default=0, help="sentences (256) or windows (48) a step"
    )

    generate = add_command(
        commands, "sample", _sample, "sentences from a trained model",
        "kullback sample runs/mine -n 5",
        "kullback sample runs/mine --prompt 'tomorrow you' --temperature 0 -n 1",
    )  # fmt: skip
    generate.add_argument("run_folder", type=Path, metavar="RUN")
    generate.add_argument("--prompt", default="", help="how the sentences begin")
    generate.add_argument("-n", type=int, default=10, help="how many (default: 10)")
    generate.add_argument(
        "--temperature", type=float, default=1.0, help="0 takes the most probable"
    )
    generate.add_argument("--seed", type=seed, default=0, help="(default: 0)")


def _train(options: argparse.Namespace) -> int:
    from kullback.report.terminal.training import TrainingDisplay
    from kullback.training.config import TrainingConfig
    from kullback.training.description import read_description
    from kullback.training.gpt import GPTConfig
    from kullback.training.interruption import Interrupted
    from kullback.training.loop import resume, train
    from kullback.training.sentence_batches import SentenceBatches
    from kullback.training.text_batches import TextBatches

    progress = progress_console()
    try:
        if options.resume is not None:
            description = read_description(options.resume)
            steps, floor = description.config.steps, description.floor
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
                batches = SentenceBatches(open_named(options), options.batch or 256, options.seed)
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
        from kullback.training.metrics import read_metrics

        print_json({"run": str(run), **read_metrics(run / "metrics.jsonl")[-1]})
    else:
        print(f"trained: {run} (kullback evaluate {run}; kullback sample {run})")
    return 0


def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from kullback.training.run_folder import load_model, load_tokenizer
    from kullback.training.sampling import generate

    gpt = load_model(options.run_folder)
    tokenizer = load_tokenizer(options.run_folder / "tokenizer.json")
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
        print_json(texts)
        return
    for text in texts:
        print(text)
