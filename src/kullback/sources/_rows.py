"""Rows of an export: a sentence each, or a window of a process; and their text.

Axes: A ids of all rows of a piece, R rows, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from jaxtyping import Float, Int

from kullback.sources.language import Language
from kullback.sources.process import FIRST_SYMBOL, Process
from kullback.text.special_tokens import BOS_ID, EOS_ID

__all__ = [
    "Rendered", "RowText", "Rows", "process_rows", "sentence_rows", "symbols_between",
]  # fmt: skip

# Sentences, and symbols of a process, that are sampled at once.
PIECE_SENTENCES = 1 << 15
PIECE_SYMBOLS = 1 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """The ids of some rows, one after the other, with the true surprisal of each."""

    ids_A: Int[np.ndarray, "A"]
    surprisals_A: Float[np.ndarray, "A"]
    """Nats; 0 for what is given: ``<s>`` of a sentence, the first symbol of a window."""
    lengths_R: Int[np.ndarray, "R"]
    given: bool
    """Whether the rows begin with ``<s>`` and end with ``</s>``, which are no part of the text."""
    stream: Int[np.ndarray, "B"] | None = None
    """The ids with those between the rows, which are in none; None where nothing is between."""

    @property
    def scored(self) -> int:
        """How many ids are predicted: all but the first of each row."""
        return len(self.ids_A) - len(self.lengths_R)


def sentence_rows(language: Language, tokens: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Sentences with at least `tokens` tokens, ``<s>`` not counted, in pieces."""
    done = 0
    while done < tokens:
        missing = int((tokens - done) / language.tokens_per_sentence) + 1
        sample = language.sample(min(missing, PIECE_SENTENCES), rng)
        mask = np.concatenate([np.ones((len(sample), 1), bool), sample.mask], axis=1)
        ids = np.insert(sample.tokens, 0, BOS_ID, axis=1)[mask]
        surprisals = np.insert(sample.surprisals, 0, 0.0, axis=1)[mask]
        rows = Rows(ids, surprisals, sample.lengths + 1, given=True)
        done += rows.scored
        yield rows


def process_rows(
    process: Process, tokens: int, window: int, rng: np.random.Generator
) -> Iterator[Rows]:
    """Windows of one stream, one after the other, with at least `tokens` symbols, in pieces.

    Some symbols between them are in no window where a process would else begin them all in one
    phase of its period: what is exported is what the floor is of, windows that begin anywhere.
    """
    stream = process.stream(rng)
    stride = window + symbols_between(process, window)
    missing = -(-tokens // window)
    while missing:
        rows = min(missing, max(1, PIECE_SYMBOLS // stride))
        read = stream.read(rows * stride)
        symbols = read.reshape(rows, stride)[:, :window]
        surprisals = process.predictor.surprisals(symbols)
        yield Rows(
            symbols.reshape(-1) + FIRST_SYMBOL,
            surprisals.reshape(-1),
            np.full(rows, window),
            given=False,
            stream=read + FIRST_SYMBOL if stride > window else None,
        )
        missing -= rows


def symbols_between(process: Process, window: int) -> int:
    """The fewest symbols between windows with which they begin in each phase equally often."""
    return next(k for k in count() if math.gcd(window + k, process.period) == 1)


@dataclass(frozen=True, eq=False)
class Rendered:
    """The text of some rows in one piece, and the bytes of each row."""

    content: np.ndarray
    lengths_R: Int[np.ndarray, "R"]


class RowText:
    """From rows to their text, words between single spaces, without a loop over the tokens.

    `before` and `after` surround each row; with `escaped`, words are escaped as in a JSON string.
    """

    def __init__(
        self, vocabulary: Sequence[str], before: str = "", after: str = "", escaped: bool = False
    ) -> None:
        words = [
            json.dumps(word, ensure_ascii=False)[1:-1] if escaped else word for word in vocabulary
        ]
        words[BOS_ID], words[EOS_ID] = before, after
        # Each word twice: as the first of a row, and with the space before it.
        pieces = [word.encode() for word in (*words, *(f" {word}" for word in words))]
        pieces[len(words) + EOS_ID] = pieces[EOS_ID]
        self._vocabulary_size = len(words)
        self._pool = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self._lengths = np.array([len(piece) for piece in pieces])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def render(self, rows: Rows) -> Rendered:
        """The text of `rows`."""
        ids, lengths = rows.ids_A, rows.lengths_R
        if not rows.given:
            starts = np.cumsum(lengths) - lengths
            # In the order of the rows: the end of one is inserted before the begin of the next.
            places = np.stack([starts, starts + lengths], axis=1).reshape(-1)
            ids = np.insert(ids, places, np.tile([BOS_ID, EOS_ID], len(lengths)))
            lengths = lengths + 2
        codes = ids.copy()
        codes[1:][ids[:-1] != BOS_ID] += self._vocabulary_size
        codes[ids == BOS_ID] = BOS_ID
        sizes = self._lengths[codes]
        ends = np.cumsum(sizes)
        # The place of each byte in the pool: its piece's start, and how far it is into the piece.
        shift = np.repeat(self._starts[codes] - (ends - sizes), sizes)
        content = self._pool[shift + np.arange(len(shift))]
        row_ends = ends[np.cumsum(lengths) - 1]
        return Rendered(content, np.diff(np.concatenate([[0], row_ends])))
