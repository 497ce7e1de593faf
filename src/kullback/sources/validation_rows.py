"""The rows of a source that a model is measured on: those of a validation split, or a sample.

Axes: N sentences or windows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.sources.catalogue import AnySource, Source
from kullback.sources.language import Language, Sentences
from kullback.sources.process import Process
from kullback.text.special_tokens import BOS_ID, EOS_ID

__all__ = ["sampled_rows", "validation_rows"]

IDS, TEXT = "validation.tokens.npy", "validation.txt"


def validation_rows(folder: Path, source: Source, rows: int) -> Sentences | None:
    """The first `rows` sentences of the export in `folder`.

    They are read from ``validation.tokens.npy`` or ``validation.txt``; None where neither is there.
    Raises `InvalidValueError` for a file that is damaged or of another source.
    """
    language = source.training
    if (folder / IDS).is_file():
        sequences = _from_ids(folder / IDS, rows)
    elif (folder / TEXT).is_file():
        sequences = _from_text(folder / TEXT, language.vocabulary, rows)
    else:
        return None
    if not sequences:
        raise InvalidValueError(f"the validation split in {folder} is empty: export it again")
    return _sentences(folder, language, sequences)


def sampled_rows(
    source: AnySource, rows: int, window: int, seed: int
) -> Sentences | Int[np.ndarray, "N T"]:
    """`rows` independent sentences, or windows of symbols, of a source.

    The windows of an export are no such sample: they follow one another in one stream.
    """
    rng = np.random.default_rng([seed, 2])
    if isinstance(source, Process):
        return source.sample(rows, window, rng)
    return source.training.sample(rows, rng)


def _from_ids(path: Path, rows: int) -> list[list[int]]:
    """The ids of the first sentences after ``<s>``."""
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"{path} cannot be read ({error}): export it again") from None
    if ids.ndim != 1 or ids.dtype.kind != "u":
        raise InvalidValueError(f"{path} is no array of token ids: export it again")
    ends = np.flatnonzero(ids == EOS_ID)[:rows] + 1
    return [row[1:].tolist() for row in np.split(ids[: ends[-1]], ends[:-1])] if len(ends) else []


def _from_text(path: Path, vocabulary: Sequence[str], rows: int) -> list[list[int]]:
    """The same from lines of words."""
    number = {word: i for i, word in enumerate(vocabulary)}
    try:
        with path.open(encoding="utf-8") as lines:
            words = [line.split() for line in islice(lines, rows)]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"{path} cannot be read ({error}): export it again") from None
    return [[number.get(word, BOS_ID) for word in row] for row in words]


def _sentences(folder: Path, language: Language, sequences: list[list[int]]) -> Sentences:
    sequences = [row if row and row[-1] == EOS_ID else [*row, EOS_ID] for row in sequences]
    arcs = np.full((len(sequences), max(map(len, sequences))), -1, dtype=np.int64)
    for row, tokens in zip(arcs, sequences, strict=True):
        state = 0
        for t, token in enumerate(tokens):
            out = slice(language.offsets[state], language.offsets[state + 1])
            matches = np.flatnonzero(language.arc_tokens[out] == token)
            if state < 0 or not len(matches):
                raise _of_another_source(folder)
            row[t] = out.start + matches[0]
            state = int(language.targets[row[t]])
    return language.sentences_of(arcs)


def _of_another_source(folder: Path) -> InvalidValueError:
    return InvalidValueError(
        f"the validation split in {folder} has rows that its source cannot produce: export it again"
    )
