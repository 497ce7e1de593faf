"""Tokens of a text that a run has made, shared with another run on the same text.

The files are linked, so that they are on the disk once; each run folder is complete by itself, and
either may be removed.  Where the file system has no links they are copied.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
from msgspec.structs import replace

from kullback.errors import InvalidValueError
from kullback.runtime.files import explained, replaced
from kullback.runtime.wording import count_of
from kullback.text.corpus import Corpus
from kullback.training.description import read_description
from kullback.training.prepare_text import TextOptions
from kullback.training.progress import TrainingProgress
from kullback.training.run_folder import load_tokenizer
from kullback.training.text_batches import TextBatches
from kullback.training.text_data import TextData, batches_of_shards, check_unchanged
from kullback.training.text_shards import NAMES, shards_folder

__all__ = ["share_tokens"]


def share_tokens(
    run: Path, other: Path, options: TextOptions, progress: TrainingProgress
) -> TextBatches:
    """The batches of the text of the run `other`, whose tokens become those of `run`, too.

    Context, windows and seed are those of `options`.  Raises `InvalidValueError` where `other` is a
    run on something else than the files of `options`, `RunError` where it is no run, where the text
    or the tokens have changed since it began, and where the disk is full.
    """
    description = read_description(other)
    if "shards" not in description.data:
        raise InvalidValueError(f"tokens_of is {other}: it was not trained on a text with tokens/")
    data = msgspec.convert(description.data, TextData)
    if options.field not in ("text", data.field):
        raise InvalidValueError(
            f"field is {options.field}: {other} (tokens_of) has the tokens of {data.field}; "
            "leave field or tokens_of out"
        )
    files = list(Corpus.of(options.sources, data.field).paths)
    if files != data.text:
        raise InvalidValueError(
            f"tokens_of is {other}: it was trained on {data.text[0]} "
            f"({count_of(len(data.text), 'file')}), not on {files[0]} ({len(files)}); "
            "give the same text, or leave tokens_of out"
        )
    check_unchanged(other, data, progress)
    tokenizer = load_tokenizer(other / "tokenizer.json")
    progress.tell(f"the tokens of {other} are shared")
    source, folder = shards_folder(other), shards_folder(run)
    with explained(folder, "the run has not begun"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            _link(source / name, folder / name)
        shared = replace(data, context=options.context, windows=options.windows, seed=options.seed)
        return batches_of_shards(run, shared, tokenizer)


def _link(file: Path, name: Path) -> None:
    """Give the file another name, that of a copy where there are no links."""
    name.unlink(missing_ok=True)
    try:
        os.link(file, name)
    except OSError:  # a file system without links, or another one
        with file.open("rb") as content, replaced(name) as copy:
            shutil.copyfileobj(content, copy)
