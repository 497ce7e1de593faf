"""The logits of some rows in blocks of columns of the vocabulary, each computed and used once.

A block is small enough to stay in the processor's cache for all passes over it.  The target's logit
is known before the first block, since the rank needs it in every block.  Where a head computes the
logits, the dot product of hidden state and target row is computed in float64, rounded to the head's
type, and written to the target's column of its block: all statistics of a row (nll, rank, entropy,
most probable token) are those of the same V numbers.

Axes: M rows, B rows of a chunk, R some of them, W columns of a block, V vocabulary, D width, K most
probable tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.predictions.base import (
    DensePredictions,
    FactoredPredictions,
    Predictions,
    at_least_float32,
)
from kullback.scoring.compiled import MOST_COLUMNS, block_library

__all__ = [
    "Chunk",
    "TopTokens",
    "device_of",
    "has_float32_logits",
    "is_compiled",
    "row_chunks",
    "wide",
]

# Rows × columns of a block.  On a CPU a block of 1 MB stays in the caches, and the matmul is within
# 3 % of its best; compiled code passes once, over twice as many columns; an accelerator is faster
# with fewer, larger kernels.
CPU_ROWS, CPU_COLUMNS = 512, 512
DEVICE_ROWS, DEVICE_COLUMNS = 1024, 8192
# Predictions that can only be computed for the whole vocabulary are computed for rows of this size.
WHOLE_ROWS_BYTES = 32 << 20


def wide(values_B: Tensor) -> Tensor:
    """The values in float64, where the device has it; else on the CPU."""
    return (values_B.cpu() if values_B.device.type == "mps" else values_B).double()


def is_compiled(logits_B: Float[Tensor, "B"]) -> bool:
    """Whether blocks of logits like these are summed in C."""
    fits = logits_B.dtype == torch.float32 and logits_B.device.type == "cpu"
    return fits and block_library() is not None


def row_chunks(predictions: Predictions, device: torch.device, most: int) -> list[slice]:
    """The M rows in chunks of similar size, at most `most` rows each."""
    most = min(most, CPU_ROWS if device.type == "cpu" else DEVICE_ROWS)
    if not isinstance(predictions, FactoredPredictions | DensePredictions):
        most = min(most, WHOLE_ROWS_BYTES // (4 * predictions.vocabulary_size))
    M = len(predictions)
    count = math.ceil(M / max(1, most))
    bounds = [M * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def device_of(predictions: Predictions) -> torch.device:
    """The device that the logits are computed on; there must be a row."""
    return predictions.logits(slice(0, 1), slice(0, 1)).device


def has_float32_logits(predictions: Predictions) -> bool:
    """Whether the logits are summed in float32: not those of float64 models."""
    return predictions.logits(slice(0, 1), slice(0, 1)).dtype != torch.float64


@dataclass(frozen=True)
class Chunk:
    """Some rows of the predictions, and the logits of their targets."""

    predictions: Predictions
    rows: slice
    targets_B: Int[Tensor, "B"]
    target_logits_B: Float[Tensor, "B"]
    """In the type of the blocks: float64 where the model is float64, otherwise float32."""
    whole_BV: Float[Tensor, "B V"] | None
    """All logits, where they cannot be computed block by block."""

    @classmethod
    def of(cls, predictions: Predictions, rows: slice, targets_B: Int[Tensor, "B"]) -> Chunk:
        """The rows, with the logits of their targets."""
        whole_BV = None
        if isinstance(predictions, FactoredPredictions):
            head = predictions.head
            hidden_BD, weight_BD = predictions.hidden_MD[rows], head.weight_VD[targets_B]
            dtype = hidden_BD.dtype
            product_BD = wide(hidden_BD) * wide(weight_BD)
            logits_B = product_BD.sum(dim=1)
            if head.bias_V is not None:
                logits_B = logits_B + wide(head.bias_V[targets_B])
            logits_B = logits_B * head.scale
            if head.softcap is not None:
                logits_B = (logits_B / head.softcap).tanh() * head.softcap
            logits_B = logits_B.to(dtype).to(hidden_BD.device)
        elif isinstance(predictions, DensePredictions):
            logits_B = predictions.logits_MV[rows].gather(1, targets_B[:, None])[:, 0]
        else:
            whole_BV = predictions.logits(rows)
            logits_B = whole_BV.gather(1, targets_B[:, None])[:, 0]
        return cls(predictions, rows, targets_B, at_least_float32(logits_B), whole_BV)

    def parts(self, count: int) -> list[Chunk]:
        """The rows in at most `count` chunks of similar size."""
        B = len(self.targets_B)
        bounds = [B * i // count for i in range(count + 1)]
        return [
            Chunk(
                self.predictions,
                slice(self.rows.start + first, self.rows.start + stop),
                self.targets_B[first:stop],
                self.target_logits_B[first:stop],
                None if self.whole_BV is None else self.whole_BV[first:stop],
            )
            for first, stop in itertools.pairwise(bounds)
            if stop > first
        ]

    @property
    def width(self) -> int:
        """W, by the device; the last block may have fewer columns."""
        if is_compiled(self.target_logits_B):
            return MOST_COLUMNS
        return CPU_COLUMNS if self.targets_B.device.type == "cpu" else DEVICE_COLUMNS

    def count(self, first: int, stop: int) -> int:
        """N, the number of blocks of the usual width from column `first` to `stop`."""
        return math.ceil((stop - first) / self.width)

    def blocks(
        self, first: int, stop: int, width: int | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "B W"]]]:
        """Blocks of the columns from `first` to `stop`; the caller may overwrite the logits."""
        width = width or self.width
        starts = list(range(first, stop, width))
        # The rows in the order of their targets, and the place in this order of each block's start.
        target_B, row_B = self.targets_B.sort()
        bounds = torch.searchsorted(target_B, torch.tensor([*starts, stop]).to(target_B))
        begins = bounds.tolist()
        for i, start in enumerate(starts):
            columns = slice(start, min(start + width, stop))
            if self.whole_BV is None:
                block_BW = at_least_float32(self.predictions.logits(self.rows, columns))
            else:
                block_BW = at_least_float32(self.whole_BV[:, columns].clone())
            inside = slice(begins[i], begins[i + 1])
            if inside.start < inside.stop:
                row_R = row_B[inside]
                block_BW[row_R, target_B[inside] - start] = self.target_logits_B[row_R]
            yield columns, block_BW

    def block_of(self, rows_R: Int[Tensor, "R"], columns: slice) -> Float[Tensor, "R W"]:
        """Some rows of a block, computed again; the caller may overwrite the logits."""
        rows_R = rows_R.to(self.targets_B.device)  # on the CPU where that of `wide` numbers is
        if self.whole_BV is not None:
            block_RW = at_least_float32(self.whole_BV[:, columns][rows_R])
        elif isinstance(self.predictions, DensePredictions):
            block_RW = at_least_float32(self.predictions.logits_MV[self.rows, columns][rows_R])
        else:
            selected = self.predictions.select(rows_R + self.rows.start)
            block_RW = at_least_float32(selected.logits(slice(0, len(rows_R)), columns))
        target_R = self.targets_B[rows_R]
        is_inside_R = (target_R >= columns.start) & (target_R < columns.stop)
        inside = is_inside_R.nonzero()[:, 0]
        target_logits = self.target_logits_B[rows_R[inside]]
        block_RW[inside, target_R[inside] - columns.start] = target_logits
        return block_RW


class TopTokens:
    """The K most probable tokens of each row so far; of equal ones, earlier blocks' come first."""

    def __init__(self, logits_B: Float[Tensor, "B"], k: int) -> None:
        self.logits_BK = logits_B.new_full((len(logits_B), k), -torch.inf)
        self.tokens_BK = torch.full_like(self.logits_BK, -1, dtype=torch.int64)

    @classmethod
    def joined(cls, parts: Sequence[TopTokens]) -> TopTokens:
        """Those of the rows of all parts."""
        whole = cls(parts[0].logits_BK[:0, 0], parts[0].logits_BK.shape[1])
        whole.logits_BK = torch.cat([part.logits_BK for part in parts])
        whole.tokens_BK = torch.cat([part.tokens_BK for part in parts])
        return whole

    @property
    def buffers(self) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Logits and tokens, which the compiled library updates in place."""
        return self.logits_BK, self.tokens_BK

    def update(
        self, start: int, block_BW: Float[Tensor, "B W"], largest_B: Float[Tensor, "B"]
    ) -> None:
        """Take the tokens of a block that exceed those so far; `largest_B` is the block's maximum.

        The block begins at column `start`.
        """
        # After the first blocks, few rows have a block that exceeds their K-th token.
        rows = (largest_B > self.logits_BK[:, -1]).nonzero()[:, 0]
        if len(rows) == 0:
            return
        k = self.logits_BK.shape[1]
        if k == 1:
            # argmax gives the first of equal columns; topk any.
            column_R1 = block_BW[rows].argmax(dim=1, keepdim=True)
            self.logits_BK[rows] = largest_B[rows, None]
            self.tokens_BK[rows] = column_R1 + start
            return
        top_RK, columns_RK = block_BW[rows].topk(min(k, block_BW.shape[1]), dim=1)
        logits = torch.cat([self.logits_BK[rows], top_RK], dim=1)
        tokens = torch.cat([self.tokens_BK[rows], columns_RK + start], dim=1)
        logits, order = logits.sort(dim=1, descending=True, stable=True)
        self.logits_BK[rows] = logits[:, :k]
        self.tokens_BK[rows] = tokens.gather(1, order[:, :k])
