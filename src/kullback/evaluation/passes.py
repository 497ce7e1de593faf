"""Passes of one model or two over a text: windows in, one row a scored token out.

`token_rows` and `divergence_rows` send the windows of a :class:`TokenizedText` through one model or
two, in batches (:mod:`kullback.evaluation.batches`); a batch's logits are made and used up where
its hidden states are, so memory does not grow with the text or the vocabulary.

Axes: M scored tokens, B of their rows, W columns of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.evaluation.batched_rows import BatchLimit, batched_rows
from kullback.evaluation.batches import Batch
from kullback.evaluation.predictors import ModelPredictor, Predictor, is_exclusive
from kullback.evaluation.tokenized_text import TokenizedText, subsample
from kullback.predictions.base import ALL, FactoredPredictions, Predictions
from kullback.runtime.progress import Tokens as TokensDone
from kullback.runtime.progress import never_back
from kullback.runtime.workers import ProcessGroup, own_cores
from kullback.scoring.divergence import DivergenceStatistics, start_divergences
from kullback.scoring.token_statistics import TokenStatistics, start_statistics

__all__ = [
    "Batch",
    "BatchLimit",
    "ModelPredictor",
    "Predictor",
    "TokenizedText",
    "divergence_rows",
    "is_exclusive",
    "subsample",
    "token_rows",
]


def token_rows(
    predictor: Predictor,
    tokenized: TokenizedText,
    processes: ProcessGroup | None = None,
    progress: TokensDone = lambda done, total: None,
    first_window: int = 0,
    top_k: int = 0,
    top_rows: int = 0,
    limit: BatchLimit | None = None,
) -> Iterator[TokenStatistics]:
    """The statistics of whole windows, one or several at a time, from `first_window` on, in order.

    Windows that begin before row `top_rows` have the `top_k` most probable tokens, too.  `limit` is
    told where the memory is too small for the usual batches.  Raises `InvalidValueError` naming
    document and token where a model's logits are damaged, `RunError` where the memory is too small
    for a window.
    """

    threads, progress = _threads_of_statistics(predictor), never_back(progress)

    def start(batch: Batch) -> Callable[[], TokenStatistics]:
        k = top_k if batch.first_row < top_rows else 0
        predictions = _reported(predictor, batch, tokenized.total, progress, processes)
        return start_statistics(predictions, torch.from_numpy(batch.targets), k, threads)

    after_top = min(int(np.searchsorted(tokenized.starts, top_rows)), len(tokenized.windows))
    with_top = int(tokenized.starts[after_top])
    row = int(tokenized.starts[first_window])
    for statistics in batched_rows(
        start, tokenized, (predictor,), processes, progress, first_window, limit
    ):
        # A batch may have windows on both sides of `top_rows`.
        yield from _split(statistics, with_top - row)
        row += len(statistics)


def divergence_rows(
    reference: Predictor,
    candidate: Predictor,
    tokenized: TokenizedText,
    processes: ProcessGroup | None = None,
    progress: TokensDone = lambda done, total: None,
    vocabulary_size: int | None = None,
    first_window: int = 0,
    limit: BatchLimit | None = None,
) -> Iterator[DivergenceStatistics]:
    """How two models differ at each scored token, whole windows at a time as in `token_rows`.

    Raises as `token_rows` does, and `InvalidValueError` where the vocabularies do not fit.
    """

    predictors = (reference, candidate)
    threads, progress = _threads_of_statistics(*predictors), never_back(progress)

    def start(batch: Batch) -> Callable[[], DivergenceStatistics]:
        return start_divergences(
            reference.predictions(batch),
            _reported(candidate, batch, tokenized.total, progress, processes),
            torch.from_numpy(batch.targets),
            vocabulary_size,
            threads,
        )

    return batched_rows(start, tokenized, predictors, processes, progress, first_window, limit)


def _threads_of_statistics(*predictors: Predictor) -> int:
    """All cores of this process where it reads windows one at a time: else each has its own."""
    return own_cores() if any(map(is_exclusive, predictors)) else 1


def _reported(
    predictor: Predictor,
    batch: Batch,
    total: int,
    progress: TokensDone,
    processes: ProcessGroup | None,
) -> Predictions:
    """Predictions of a batch; where each window is read by itself, `progress` is told of its rows.

    A window of llama.cpp on a CPU takes up to half a minute.
    """
    predictions = predictor.predictions(batch)
    if isinstance(predictions, FactoredPredictions):  # its hidden states are computed
        return predictions
    is_alone = processes is None or processes.world_size == 1
    if not is_exclusive(predictor) or len(batch.windows) > 1 or not is_alone:
        return predictions
    return _Reported(predictions, batch.rows[0].start, total, progress)


@dataclass(frozen=True, eq=False)
class _Reported:
    """Predictions whose rows are computed when they are asked for, and then reported."""

    predictions: Predictions
    first: int
    """The row of the text that row 0 is."""
    total: int
    progress: TokensDone

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.predictions.vocabulary_size

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits of some rows and columns."""
        logits_BW = self.predictions.logits(rows, columns)
        if logits_BW.shape[1] > 1:  # else a look at their device and type
            self.progress(self.first + rows.indices(len(self))[1], self.total)
        return logits_BW

    def select(self, rows_M: Int[Tensor, "M"]) -> Predictions:
        """The predictions at some of the positions."""
        return self.predictions.select(rows_M)


def _split(statistics: TokenStatistics, with_top: int) -> Iterator[TokenStatistics]:
    """The first `with_top` rows as they are, the others without their most probable tokens."""
    if not statistics.top_tokens.shape[1] or with_top >= len(statistics):
        yield statistics
        return
    if with_top > 0:
        yield statistics.part(slice(with_top))
    others = statistics.part(slice(max(with_top, 0), None))
    top = (slice(None), slice(0))
    yield replace(
        others,
        top_tokens=others.top_tokens[top],
        top_log_probabilities=others.top_log_probabilities[top],
    )
