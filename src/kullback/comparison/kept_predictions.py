"""Predictions of one model that are computed once and read several times.

A reference is compared with every candidate and with its own noise.  Of a model with a head its
hidden states are kept, D numbers a token and not V: in memory where they are few, else in a
temporary file.  Where reading V logits is faster than computing them from the hidden states, and
there is space, the logits themselves are kept in such a file: those of a model that llama.cpp runs,
and those of a wide head on a CPU.

Axes: M scored tokens, m of some windows, D width, V vocabulary.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float

from kullback.comparison.window_rows import WindowRows
from kullback.errors import RunError
from kullback.evaluation.passes import Batch, Predictor
from kullback.evaluation.predictors import token_budget
from kullback.evaluation.text_ahead import PassText
from kullback.models.interface import Sharing
from kullback.predictions.base import (
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
    at_least_float32,
    joined,
)
from kullback.runtime.free_memory import available_memory
from kullback.runtime.temporary import temporary_folder
from kullback.scoring.logit_blocks import Chunk, row_chunks

__all__ = ["KeptPredictions", "is_wide", "logits_fit", "rows_of_share"]

#: Of a window: `Window.key`.
Key: TypeAlias = tuple[int, int, int]

# Logits that are written to a temporary file rather than computed again for each candidate.
MOST_ON_DISK = 8 << 30
# From this D on a core reads a logit faster than it computes one.
WIDE = 256


def is_wide(head: Head | None) -> bool:
    """Whether float32 logits of this head on a CPU are read faster than they are computed."""
    if head is None or head.weight_VD.device.type != "cpu":
        return False
    return head.weight_VD.shape[1] >= WIDE and head.weight_VD.dtype != torch.float64


def rows_of_share(predictor: Predictor, text: PassText, processes: int) -> int:
    """The most rows that one of so many processes reads of a text, about: its batches of a pass."""
    M = text.total
    if processes == 1 or M == 0:
        return M
    batch = max(token_budget(predictor), int(text.whole.windows.scored().max()))
    return min(M, math.ceil(M / processes) + batch)


def logits_fit(M: int, V: int, processes: int = 1) -> bool:
    """Whether M rows of logits fit into a temporary file of each of so many processes here.

    Half of the folder of temporary files is left free, and half of the memory, by which a file is
    read again.
    """
    free = shutil.disk_usage(temporary_folder()).free
    return 4 * M * V * processes <= min(MOST_ON_DISK, free // 2, available_memory() // 2)


class KeptPredictions:
    """A predictor that computes each window of a text once, where the model has a head.

    Predictions without hidden states (dense ones) are computed anew each time, unless `dense` asks
    to keep them, which takes V numbers a token.  `on_disk` says how many logits there are a token,
    where these are to be kept in a temporary file (`logits_fit`).  There is space for the share of
    one of so many `processes`; for what is read beyond it, and beyond what is expected of a text
    that is still cut into tokens, more is taken.
    """

    def __init__(
        self,
        predictor: Predictor,
        text: PassText,
        dense: bool = False,
        on_disk: int | None = None,
        processes: int = 1,
    ) -> None:
        self.predictor = predictor
        self._dense: dict[Key, Predictions] | None = {} if dense else None
        self._text, self._processes = text, processes
        self._rows = rows_of_share(predictor, text, processes)
        self._hidden: WindowRows | None = None
        self._head: tuple[Head, torch.device] | None = None
        self._lock = threading.Lock()
        self._logits = _logits_rows(self._rows, on_disk) if on_disk else None
        self._kept: set[Key] = set()

    @property
    def name(self) -> str:
        """The predictor's."""
        return self.predictor.name

    @property
    def device(self) -> torch.device:
        """The predictor's."""
        return self.predictor.device

    @property
    def disk_bytes(self) -> int:
        """What the logits take on disk; 0 where they are not kept."""
        return 0 if self._logits is None else self._logits.size_bytes

    def sharing(self, longest: int) -> Sharing:
        """The predictor's."""
        return self.predictor.sharing(longest)

    def predictions(self, batch: Batch) -> Predictions:
        """Those of the first call for these windows."""
        keys = [window.key for window in batch.windows]
        if not self._kept.issuperset(keys):
            predictions = self.predictor.predictions(batch)
            if not self._keep(keys, predictions, batch):
                return predictions
            self._kept.update(keys)
        return self._read(keys)

    def _read(self, keys: Sequence[Key]) -> Predictions:
        if self._dense is not None and keys[0] in self._dense:
            return joined([self._dense[key] for key in keys])
        if self._logits is not None:
            return DensePredictions(self._logits.read(keys))
        assert self._hidden is not None
        assert self._head is not None
        head, device = self._head
        return FactoredPredictions(at_least_float32(self._hidden.read(keys).to(device)), head)

    def _keep(self, keys: Sequence[Key], predictions: Predictions, batch: Batch) -> bool:
        """Keep what these windows need later; False where nothing can be kept."""
        if self._logits is not None:
            self._keep_logits(keys, predictions, self._logits, batch)
        elif isinstance(predictions, FactoredPredictions):
            self._keep_hidden(keys, predictions, batch)
        elif self._dense is not None:
            first = 0
            for key, window in zip(keys, batch.windows, strict=True):
                rows_m = torch.arange(first, first + len(window), device=self.device)
                self._dense[key] = predictions.select(rows_m)
                first += len(window)
        else:
            return False
        return True

    def _keep_hidden(
        self, keys: Sequence[Key], predictions: FactoredPredictions, batch: Batch
    ) -> None:
        kept_MD = predictions.hidden_on_host()
        with self._lock:
            if self._hidden is None:
                self._hidden = self._hidden_rows(kept_MD.shape[1], kept_MD.dtype)
                self._head = (predictions.head, self.device)
        self._hidden.space(keys, [len(window) for window in batch.windows]).copy_(kept_MD)

    def _hidden_rows(self, D: int, dtype: torch.dtype) -> WindowRows:
        """Space for all rows."""
        try:
            return WindowRows(self._rows, D, dtype)
        except RunError:
            rows = rows_of_share(self.predictor, self._text.whole, self._processes)
            if rows >= self._rows:
                raise
        # The beginning of the text has more tokens a byte than the rest.
        return WindowRows(rows, D, dtype)

    def _keep_logits(
        self, keys: Sequence[Key], predictions: Predictions, kept: WindowRows, batch: Batch
    ) -> None:
        """Write all logits of some windows, in the blocks that a pass computes."""
        logits_mV: Float[torch.Tensor, "m V"] = kept.space(
            keys, [len(window) for window in batch.windows]
        )
        targets_m = torch.from_numpy(batch.targets)
        for rows in row_chunks(predictions, torch.device("cpu"), len(predictions)):
            chunk = Chunk.of(predictions, rows, targets_m[rows])
            for columns, block_BW in chunk.blocks(0, predictions.vocabulary_size):
                logits_mV[rows, columns] = block_BW


def _logits_rows(M: int, V: int) -> WindowRows | None:
    """Space for M rows of logits; None where there is too little."""
    if not logits_fit(M, V):
        return None
    try:
        return WindowRows(M, V, torch.float32)
    except RunError:  # a quota or a limit of the process; hidden states take less
        return None
