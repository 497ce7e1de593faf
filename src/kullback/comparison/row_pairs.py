"""Rows of two operands side by side, in pieces that are made when their turn comes.

Axes: M scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.comparison.divergence_columns import DivergenceColumns
from kullback.comparison.measures import (
    compare_tokens,
    kl_quantiles,
    largest_padding,
    padding_notes,
)
from kullback.evaluation.measures import Places
from kullback.evaluation.passes import Predictor, TokenizedText
from kullback.evaluation.predictors import inputs_at_once
from kullback.predictions.base import Predictions
from kullback.predictions.recording import Recording
from kullback.predictions.truncated import TruncatedPredictions
from kullback.results.measurement import Measurement
from kullback.runtime.progress import Tokens
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import (
    DivergenceStatistics,
    divergence_statistics,
)
from kullback.scoring.token_statistics import token_statistics

__all__ = [
    "ROWS",
    "RowPair",
    "RowPairs",
    "nll_and_top1",
    "pairs_of_files",
    "pairs_of_text",
    "unweighted_places",
]

# Rows of two files that are compared at a time.
ROWS = 512

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class RowPair:
    """Some rows of both operands."""

    reference: Predictions
    candidate: Predictions
    targets_M: Int[np.ndarray, "M"]


@dataclass(frozen=True, eq=False)
class RowPairs:
    """All rows of both operands."""

    pieces: Sequence[Callable[[], RowPair]]
    places: Places
    progress: Tokens
    at_once: int | None = None
    """Pieces that are read at a time; None is one a core."""

    def map(self, measure: Callable[[RowPair], Part]) -> Iterator[Part]:
        """`measure` of every piece, in order, shared between threads."""
        done = 0

        def of_piece(make: Callable[[], RowPair]) -> tuple[int, Part]:
            pair = make()
            return len(pair.targets_M), measure(pair)

        for rows, part in ProcessGroup().map(of_piece, self.pieces, self.at_once):
            yield part
            done += rows
            self.progress(done, len(self.places))

    def divergences(self) -> tuple[dict[str, Measurement], dict[str, float], list[str]]:
        """The measures of a comparison, the quantiles of the KL, and notes."""

        def measure(pair: RowPair) -> DivergenceStatistics:
            targets_M = torch.from_numpy(pair.targets_M.astype(np.int64))
            return divergence_statistics(pair.reference, pair.candidate, targets_M)

        columns = DivergenceColumns()
        for rows in self.map(measure):
            columns.append(rows)
        divergences = columns.statistics()
        return (
            compare_tokens(divergences, self.places),
            kl_quantiles(divergences.kl),
            padding_notes(largest_padding(divergences)),
        )


def pairs_of_files(
    reference: Recording,
    candidate: Recording,
    places: Places,
    progress: Tokens,
) -> RowPairs:
    """The rows of two files that hold as many."""

    def piece(start: int) -> RowPair:
        rows = slice(start, min(start + ROWS, len(reference)))
        return RowPair(
            reference.predictions(rows), candidate.predictions(rows), reference.targets[rows]
        )

    pieces = [partial(piece, start) for start in range(0, len(reference), ROWS)]
    return RowPairs(pieces, places, progress)


def pairs_of_text(
    reference: Predictor, candidate: Predictor, tokenized: TokenizedText, progress: Tokens
) -> RowPairs:
    """The rows of a text's windows, of which at least one operand is a model."""

    def piece(index: int) -> RowPair:
        batch = tokenized.batch([index])
        return RowPair(reference.predictions(batch), candidate.predictions(batch), batch.targets)

    pieces = [partial(piece, index) for index in range(len(tokenized.windows))]
    return RowPairs(pieces, tokenized.places, progress, inputs_at_once(reference, candidate))


def nll_and_top1(
    predictions: Predictions, targets_M: Int[np.ndarray, "M"]
) -> tuple[Float[np.ndarray, "M"], Int[np.ndarray, "M"]]:
    """-log q of the targets, and the top-1 tokens; both are exact in a top-k recording, too."""
    if isinstance(predictions, TruncatedPredictions):
        nll_M = -predictions.target_log_probability_M.numpy()
        return nll_M, predictions.top_tokens_MK[:, 0].numpy()
    statistics = token_statistics(predictions, torch.from_numpy(targets_M.astype(np.int64)))
    return statistics.nll, statistics.top1


def unweighted_places(document_M: Int[np.ndarray, "M"], position_M: Int[np.ndarray, "M"]) -> Places:
    """The places of rows whose bytes, words and weights were not kept: each counts 1."""
    zeros = np.zeros(len(document_M))
    return Places(document_M, position_M, zeros.astype(np.int64), zeros, zeros + 1)
