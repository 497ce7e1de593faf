"""Predictions of one model that are computed once and read several times.

A reference is compared with every candidate and with its own noise.  Of a model with a head its
hidden states are kept, D numbers a token and not V: in memory where they are few, else in a
temporary file.  The logits of a model that llama.cpp runs are kept in such a file where there is
space.

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

import torch

from kullback.errors import RunError
from kullback.evaluation.passes import Batch, Predictor, TokenizedText
from kullback.models.interface import Sharing
from kullback.predictions.base import (
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
    joined,
)

__all__ = ["KeptPredictions"]

# Hidden states of at most so many bytes are kept in memory, larger ones in a temporary file.
IN_MEMORY = 64 << 20
# Logits that are written to a temporary file rather than computed again for each candidate.
MOST_ON_DISK = 8 << 30
BLOCK = 64


class KeptPredictions:
    """A predictor that computes each window of a text once, where the model has a head.

    Predictions without hidden states (dense ones) are computed anew each time, unless `dense` asks
    to keep them, which takes V numbers a token, or `on_disk` says how many there are a token and
    there is space for them in the folder of temporary files.
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
        self._heads: dict[int, tuple[Head, torch.device]] = {}
        self._lock = threading.Lock()
        size = 4 * len(tokenized) * (on_disk or 0)
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self.disk_bytes = size if size <= min(MOST_ON_DISK, free // 2) else 0
        """What the logits take on disk; 0 where they are not kept."""
        self._logits_MV: torch.Tensor | None = None
        self._stored: set[int] = set()

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
        kept = self._kept_of(numbers)
        if kept is not None:
            return kept
        predictions = self.predictor.predictions(batch)
        if len(numbers) == 1:
            self._keep(numbers[0], predictions)
            return self._kept_of(numbers) or predictions
        first = 0
        for number, window in zip(numbers, batch.windows, strict=True):
            rows_m = torch.arange(first, first + len(window), device=self.device)
            self._keep(number, predictions.select(rows_m))
            first += len(window)
        return self._kept_of(numbers) or predictions

    def _kept_of(self, numbers: Sequence[int]) -> Predictions | None:
        """What is kept of these windows, where all of it is."""
        parts = [self._kept(number) for number in numbers]
        known = [part for part in parts if part is not None]
        return joined(known) if len(known) == len(parts) else None

    def _rows(self, index: int) -> slice:
        starts = self._tokenized.starts
        return slice(int(starts[index]), int(starts[index + 1]))

    def _kept(self, index: int) -> Predictions | None:
        if self._dense is not None and index in self._dense:
            return self._dense[index]
        if index in self._stored and self._logits_MV is not None:
            return DensePredictions(self._logits_MV[self._rows(index)])
        if index not in self._heads or self._hidden_MD is None:
            return None
        head, device = self._heads[index]
        return FactoredPredictions(self._hidden_MD[self._rows(index)].to(device), head)

    def _keep(self, index: int, predictions: Predictions) -> None:
        if not isinstance(predictions, FactoredPredictions):
            if self._dense is not None:
                self._dense[index] = predictions
            elif self.disk_bytes:
                self._store(index, predictions)
            return
        hidden_MD = predictions.hidden_MD
        with self._lock:
            if self._hidden_MD is None:
                shape = (len(self._tokenized), hidden_MD.shape[1])
                self._hidden_MD = _buffer(shape, hidden_MD.dtype)
        self._hidden_MD[self._rows(index)] = hidden_MD.detach().to("cpu")
        self._heads[index] = predictions.head, hidden_MD.device

    def _store(self, index: int, predictions: Predictions) -> None:
        """Write all logits of a window, in order, a block of rows at a time."""
        with self._lock:
            if self._logits_MV is None:
                shape = (len(self._tokenized), predictions.vocabulary_size)
                self._logits_MV = _buffer(shape, torch.float32)
        logits_MV = self._logits_MV[self._rows(index)]
        for first in range(0, len(predictions), BLOCK):
            rows = slice(first, min(first + BLOCK, len(predictions)))
            logits_MV[rows] = predictions.logits(rows)
        self._stored.add(index)


def _buffer(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in memory, or in a file without a name where it is large."""
    count = shape[0] * shape[1]
    size = count * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    path = None
    try:
        with tempfile.NamedTemporaryFile(prefix="kullback-", delete=False) as file:
            path = Path(file.name)
            # Written to through the mapping, where a disk that fills up would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.truncate(size)
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"the predictions of the reference take {size:,} bytes, and {tempfile.gettempdir()} "
            f"cannot hold them ({error}): set TMPDIR to a folder with more space, or compare one "
            "candidate at a time"
        ) from error
    finally:
        if path is not None:
            with suppress(
                OSError
            ):  # the mapping stays; where it cannot be removed yet, it is later
                path.unlink()
