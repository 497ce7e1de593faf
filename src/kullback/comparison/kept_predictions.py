"""Predictions of one model that are computed once and read several times.

A reference is compared with every candidate and with its own noise.  Of a model with a head its
hidden states are kept, D numbers a token and not V: in memory where they are few, else in a
temporary file.  Where reading V logits is faster than computing them from the hidden states, and
there is space, the logits themselves are kept in such a file: those of a model that llama.cpp runs,
and those of a wide head on a CPU.

Axes: M scored tokens, D width, V vocabulary.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.errors import RunError
from kullback.evaluation.passes import Batch, Predictor, TokenizedText
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

__all__ = ["KeptPredictions", "is_wide", "logits_fit"]

# Hidden states of at most so many bytes are kept in memory, larger ones in a temporary file.
IN_MEMORY = 64 << 20
# Logits that are written to a temporary file rather than computed again for each candidate.
MOST_ON_DISK = 8 << 30
# From this D on a core reads a logit faster than it computes one.
WIDE = 256


def is_wide(head: Head | None) -> bool:
    """Whether float32 logits of this head on a CPU are read faster than they are computed."""
    if head is None or head.weight_VD.device.type != "cpu":
        return False
    return head.weight_VD.shape[1] >= WIDE and head.weight_VD.dtype != torch.float64


def logits_fit(M: int, V: int, processes: int = 1) -> bool:
    """Whether all logits fit into a temporary file in each of so many processes of this machine.

    Half of the folder of temporary files is left free, and half of the memory, by which a file is
    read again.
    """
    free = shutil.disk_usage(temporary_folder()).free
    return 4 * M * V * processes <= min(MOST_ON_DISK, free // 2, available_memory() // 2)


class KeptPredictions:
    """A predictor that computes each window of a text once, where the model has a head.

    Predictions without hidden states (dense ones) are computed anew each time, unless `dense` asks
    to keep them, which takes V numbers a token.  `on_disk` says how many logits there are a token,
    where these are to be kept in a temporary file (`logits_fit`).
    """

    def __init__(
        self,
        predictor: Predictor,
        tokenized: TokenizedText,
        dense: bool = False,
        on_disk: int | None = None,
    ) -> None:
        self.predictor = predictor
        self._windows = {window.key: i for i, window in enumerate(tokenized.windows)}
        self._tokenized = tokenized
        self._dense: dict[int, Predictions] | None = {} if dense else None
        self._hidden_MD: torch.Tensor | None = None
        self._head: tuple[Head, torch.device] | None = None
        self._lock = threading.Lock()
        self._logits_MV = _logits_buffer(len(tokenized), on_disk) if on_disk else None
        self.disk_bytes = 0 if self._logits_MV is None else 4 * self._logits_MV.numel()
        """What the logits take on disk; 0 where they are not kept."""
        self._kept: set[int] = set()

    @property
    def name(self) -> str:
        """The predictor's."""
        return self.predictor.name

    @property
    def device(self) -> torch.device:
        """The predictor's."""
        return self.predictor.device

    def sharing(self, longest: int) -> Sharing:
        """The predictor's."""
        return self.predictor.sharing(longest)

    def predictions(self, batch: Batch) -> Predictions:
        """Those of the first call for these windows."""
        numbers = [self._windows.get(window.key, -1) for window in batch.windows]
        if -1 in numbers:
            return self.predictor.predictions(batch)
        if not self._kept.issuperset(numbers):
            predictions = self.predictor.predictions(batch)
            if not self._keep(numbers, predictions, batch):
                return predictions
            self._kept.update(numbers)
        return self._read(numbers)

    def _rows(self, numbers: Sequence[int]) -> Int[torch.Tensor, "m"] | slice:
        """The rows of some windows."""
        rows = [self._tokenized.rows_of(number) for number in numbers]
        if len(rows) == 1:
            return rows[0]
        return torch.from_numpy(np.concatenate([np.arange(r.start, r.stop) for r in rows]))

    def _read(self, numbers: Sequence[int]) -> Predictions:
        if self._dense is not None and numbers[0] in self._dense:
            return joined([self._dense[number] for number in numbers])
        if self._logits_MV is not None:
            return DensePredictions(self._logits_MV[self._rows(numbers)])
        assert self._hidden_MD is not None
        assert self._head is not None
        head, device = self._head
        hidden_MD = self._hidden_MD[self._rows(numbers)].to(device)
        return FactoredPredictions(at_least_float32(hidden_MD), head)

    def _keep(self, numbers: Sequence[int], predictions: Predictions, batch: Batch) -> bool:
        """Keep what these windows need later; False where nothing can be kept."""
        if self._logits_MV is not None:
            self._keep_logits(numbers, predictions, self._logits_MV, batch)
        elif isinstance(predictions, FactoredPredictions):
            self._keep_hidden(numbers, predictions)
        elif self._dense is not None:
            first = 0
            for number, window in zip(numbers, batch.windows, strict=True):
                rows_m = torch.arange(first, first + len(window), device=self.device)
                self._dense[number] = predictions.select(rows_m)
                first += len(window)
        else:
            return False
        return True

    def _keep_hidden(self, numbers: Sequence[int], predictions: FactoredPredictions) -> None:
        head, hidden_MD = predictions.head, predictions.hidden_MD
        # What was widened from 16 bits is kept in them.
        kept_MD = hidden_MD.detach().to("cpu", head.product_dtype or hidden_MD.dtype)
        with self._lock:
            if self._hidden_MD is None:
                shape = (len(self._tokenized), kept_MD.shape[1])
                self._hidden_MD, self._head = _buffer(shape, kept_MD.dtype), (head, self.device)
        self._hidden_MD[self._rows(numbers)] = kept_MD

    def _keep_logits(
        self,
        numbers: Sequence[int],
        predictions: Predictions,
        logits_MV: Float[torch.Tensor, "M V"],
        batch: Batch,
    ) -> None:
        """Write all logits of some windows, in the blocks that a pass computes."""
        own, targets_m = self._rows(numbers), torch.from_numpy(batch.targets)
        for rows in row_chunks(predictions, torch.device("cpu"), len(predictions)):
            chunk = Chunk.of(predictions, rows, targets_m[rows])
            for columns, block_BW in chunk.blocks(0, predictions.vocabulary_size):
                if isinstance(own, slice):
                    logits_MV[own][rows, columns] = block_BW
                else:
                    logits_MV[own[rows], columns] = block_BW


def _logits_buffer(M: int, V: int) -> Float[torch.Tensor, "M V"] | None:
    """Space for all logits; None where there is too little."""
    if not logits_fit(M, V):
        return None
    try:
        return _buffer((M, V), torch.float32)
    except RunError:  # a quota or a limit of the process; hidden states take less
        return None


def _buffer(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in memory, or in a file without a name where it is large."""
    count = shape[0] * shape[1]
    size = count * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    path, folder = None, temporary_folder()
    try:
        with tempfile.NamedTemporaryFile(prefix="kullback-", dir=folder, delete=False) as file:
            path = Path(file.name)
            # Written to through the mapping, where a disk that fills up would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.truncate(size)
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"the predictions of the reference take {size:,} bytes, and {folder} "
            f"cannot hold them ({error}): set TMPDIR to a folder with more space, or compare with "
            "one candidate alone"
        ) from error
    finally:
        if path is not None:
            with suppress(
                OSError
            ):  # the mapping stays; where it cannot be removed yet, it is later
                path.unlink()
