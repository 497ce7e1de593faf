"""Export of a source as training data for another training stack, with its exact entropies.

The files contain the same rows (sentences, or windows of a process) in the formats that trainers
read.  ``floor.json`` has the exact entropies, so that any trainer can be checked against them: no
model has an expected loss below the floor on fresh rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import InvalidValueError
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.files import draft_folder
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import EXPORTED_TOKENS, SEEDS, Range
from kullback.sources._export_writers import (
    SPLITS,
    SplitWriter,
    dataset_card,
    finish_datasets,
    write_meta,
)
from kullback.sources._rows import Rows, process_rows, sentence_rows, symbols_between
from kullback.sources.catalogue import AnySource
from kullback.sources.facts import window_of
from kullback.sources.floor import FLOOR, SOURCE, SOURCE_KEY, floor_of
from kullback.sources.help import FORMATS
from kullback.sources.process import Process
from kullback.sources.stored import save_source
from kullback.text.tokenizer_training import tokenizer_config, word_tokenizer

__all__ = ["DEFAULT_FORMATS", "export_source"]

DEFAULT_FORMATS = ("text", "npy")
# Bytes of a token in each format, and how often its word is written.
BYTES = {
    "text": (0, 1),
    "npy": (10, 0),
    "jsonl": (1, 1),
    "datasets": (12, 1),
    "parquet": (10, 0),
    "nanogpt": (2, 0),
}
# nanoGPT reads tokens of 16 bits.
MOST_NANOGPT = 1 << 16
# Of the validation split, unless a number is given: a tenth, and no more than this.
MOST_VALIDATION = 1_000_000

README = """{name}: a source whose entropy is known exactly.

{files}
floor.json             the exact entropies: per token, per position, per slot; V, seed, fingerprints
tokenizer.json         a Hugging Face tokenizer, which names the source: keep it with the model
source.safetensors     the source itself, for kullback evaluate

{rows}
The entropy floor is {floor:.12f} nats/token{error}: the expected loss of a perfect model on fresh
rows.  mean(loss - surprisal) over the same tokens estimates the KL divergence that remains.

When the model is trained, save it as a Hugging Face folder with this tokenizer, then

    kullback evaluate YOUR_FOLDER --source {folder}

gives its exact distance from the floor.
"""
SENTENCES = """A row is a sentence: <s> w w w </s>.  Score every token except <s>.
A trainer that reads all rows as one stream and scores <s>, too (nanoGPT, packed rows), has a lower
floor, {stream:.12f} nats/token: that of long windows.  Short ones, which begin inside a
sentence, are above it.
"""
WINDOWS = """A row is a window of {window} symbols of one long stream, without <s> and </s>.
{between}Score every symbol except the first one.  For nanoGPT, whose windows begin
anywhere in the stream, the floor is that of block_size = {block_size}.
"""


def export_source(
    source: AnySource,
    tokens: int,
    folder: Path,
    seed: int,
    validation: int | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    window: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write at least `tokens` tokens of complete rows of the training language into `folder`.

    The validation split has `validation` tokens (default: a tenth, at most a million; 0: none) and
    is independent of the training split.  `formats` are names of `FORMATS`; `window` is the symbols
    of a row of a process.  Returns the content of ``floor.json``.

    The files appear together, in a new or empty folder.  Raises `InvalidValueError` for fewer than
    one token, an unknown format and any other folder, `RunError` where it cannot be written.
    """
    SEEDS.check("seed", seed)
    EXPORTED_TOKENS.check("tokens", tokens)
    if validation is None:
        validation = min(MOST_VALIDATION, -(-tokens // 10))
    Range(0, EXPORTED_TOKENS.high).check("validation", validation)
    formats = _checked(formats, source)
    window = window_of(source, window)
    check_outputs(Output("the folder (-o)", folder, "new folder"))
    _check_disk(folder, tokens + validation, formats, _vocabulary(source))
    with locked_output(folder), draft_folder(folder) as draft:
        wanted = {"train": tokens, "validation": validation}
        return _export(source, wanted, draft, folder, seed, formats, window, progress or Progress())


def _checked(formats: Sequence[str], source: AnySource) -> tuple[str, ...]:
    """The formats, each once."""
    for name in formats:
        if name not in FORMATS:
            raise InvalidValueError(
                f"the format {name!r} is unknown; the formats are {', '.join(FORMATS)}"
            )
    if not formats:
        raise InvalidValueError(f"there is no format: name some of {', '.join(FORMATS)}")
    size = len(_vocabulary(source))
    if "nanogpt" in formats and size > MOST_NANOGPT:
        raise InvalidValueError(
            f"{source.name} has {size:,} tokens, and the format nanogpt has {MOST_NANOGPT:,} ids: "
            "choose another format, or a source with fewer tokens (--unit characters)"
        )
    return tuple(dict.fromkeys(formats))


def _check_disk(
    folder: Path, tokens: int, formats: Sequence[str], vocabulary: Sequence[str]
) -> None:
    """Raise `InvalidValueError` where the files are larger than what is free on the disk."""
    word = sum(len(word.encode()) for word in vocabulary) / len(vocabulary)
    size = tokens * sum(
        fixed + words * (word + 1) for fixed, words in (BYTES[name] for name in formats)
    )
    place = folder.resolve()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise InvalidValueError(
            f"an export of {tokens:,} tokens would take about {shown_bytes(size)}, and "
            f"{shown_bytes(free)} are free in {place}: ask for fewer tokens (--tokens) or "
            "formats, or free some space"
        )


def _export(
    source: AnySource,
    wanted: dict[str, int],
    draft: Path,
    folder: Path,
    seed: int,
    formats: tuple[str, ...],
    window: int,
    progress: Progress,
) -> dict[str, Any]:
    """The files of an export, in a folder of their own; eight arguments, all of one export."""
    vocabulary = _vocabulary(source)
    progress.stage(f"the exact entropies of {source.name}")
    floor: dict[str, Any] = floor_of(source, window, seed)
    splits: dict[str, dict[str, float]] = {}
    # The training split is drawn as it always was; the validation split has a generator of its own.
    generators = (np.random.default_rng(seed), np.random.default_rng([seed, 1]))
    for split, rng in zip(SPLITS, generators, strict=True):
        if not wanted[split]:
            continue
        progress.stage(f"writing {split}, {wanted[split]:,} tokens")
        if isinstance(source, Process):
            rows = process_rows(source, wanted[split], window, rng)
        else:
            rows = sentence_rows(source.training, wanted[split], rng)
        with SplitWriter(draft, split, formats, vocabulary) as writer:
            splits[split] = _write(rows, writer.add, wanted[split], progress)
    floor["formats"] = list(formats)
    floor["splits"] = splits
    _write_about(source, draft, folder, floor)
    if "datasets" in formats:
        finish_datasets(draft, list(splits), floor["fingerprint"])
    if "parquet" in formats:
        dataset_card(draft, list(splits), (draft / "README.txt").read_text(encoding="utf-8"))
    if "nanogpt" in formats:
        write_meta(draft, vocabulary)
    return floor


def _write(
    rows: Iterator[Rows], add: Callable[[Rows], None], wanted: int, progress: Progress
) -> dict[str, float]:
    """Write all rows, and count them."""
    number = scored = tokens = 0
    nats = 0.0
    for piece in rows:
        add(piece)
        number += len(piece.lengths_R)
        scored += piece.scored
        tokens += piece.scored if piece.given else len(piece.ids_A)
        nats += float(piece.surprisals_A.sum())
        progress.tokens(min(tokens, wanted), wanted)
    return {"rows": number, "tokens": tokens, "scored": scored, "mean_surprisal": nats / scored}


def _write_about(source: AnySource, draft: Path, folder: Path, floor: dict[str, Any]) -> None:
    """Write the tokenizer, the source, the floor and what people read."""
    vocabulary = _vocabulary(source)
    is_process = isinstance(source, Process)
    tokenizer = word_tokenizer(vocabulary, bos=not is_process).to_str(pretty=True)
    (draft / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    config = json.loads(tokenizer_config()) | {SOURCE_KEY: floor["fingerprint"]}
    (draft / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_source(source, draft / SOURCE)
    document = json.dumps(floor, ensure_ascii=False, indent=2, allow_nan=False)
    (draft / FLOOR).write_text(document, encoding="utf-8")
    window = floor.get("window", 0)
    rows = (
        WINDOWS.format(window=window, block_size=window - 1, between=_between(source, window))
        if isinstance(source, Process)
        else SENTENCES.format(stream=floor["stream_nats_per_token"])
    )
    files = "\n".join(f"{name:<23}{FORMATS[key]}" for key in floor["formats"] for name in [key])
    error = f" ± {floor['error']:.1e}" if floor["error"] else ""
    readme = README.format(
        name=source.name,
        files=files,
        rows=rows,
        floor=floor["nats_per_token"],
        error=error,
        folder=folder,
    )
    (draft / "README.txt").write_text(readme, encoding="utf-8")


def _between(process: Process, window: int) -> str:
    """What is left out between rows, as a line."""
    between = symbols_between(process, window)
    if not between:
        return ""
    return (
        f"Symbols of the stream after each row that are in none (but in nanogpt/): {between}.  So "
        f"rows\nbegin in all phases of its period of {process.period}.\n"
    )


def _vocabulary(source: AnySource) -> tuple[str, ...]:
    return source.vocabulary if isinstance(source, Process) else source.training.vocabulary
