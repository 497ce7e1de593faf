"""Per-token statistics of one model's predictions, from one pass over the vocabulary.

The logits of M positions and V tokens never exist at once: a block of rows × columns is computed,
used for all statistics and dropped, so that the memory depends on neither M nor V.  The sums over a
block, and the formulas, are in :mod:`kullback.scoring.block_sums`.

Axes: M rows, W columns of a block, V vocabulary, K most probable tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_targets
from kullback.runtime.threads import part_workers
from kullback.runtime.transfers import to_device
from kullback.scoring.block_sums import BlockSums, RowTotals
from kullback.scoring.device_sums import device_kernels, start_token_totals
from kullback.scoring.logit_blocks import Chunk, device_of, has_float32_logits, row_chunks

__all__ = ["TokenStatistics", "concatenate_statistics", "start_statistics", "token_statistics"]

# Enough for top-10 lists; the rank gives the accuracy at any k.
LARGEST_TOP_K = 10


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """The statistics of each of M positions; logarithms are natural."""

    nll: Float[np.ndarray, "M"]
    """-log q[target] in nats; inf where the model excludes the target."""
    entropy: Float[np.ndarray, "M"]
    """H(q) in nats."""
    rank: Int[np.ndarray, "M"]
    """1 + the number of tokens whose logit is strictly larger than the target's."""
    top1: Int[np.ndarray, "M"]
    """The most probable token, the first of equal ones."""
    top1_probability: Float[np.ndarray, "M"]
    sum_of_squares: Float[np.ndarray, "M"]
    """Σ q², the collision probability, for the Brier score."""
    top_tokens: Int[np.ndarray, "M K"]
    """The K most probable tokens in descending order; K is 0 by default; -1 where V < K."""
    top_log_probabilities: Float[np.ndarray, "M K"]

    def __len__(self) -> int:
        return len(self.nll)

    @classmethod
    def empty(cls, rows: int, top_k: int = 0) -> TokenStatistics:
        """Uninitialised statistics of `rows` positions."""
        return cls(
            nll=np.empty(rows),
            entropy=np.empty(rows),
            rank=np.empty(rows, dtype=np.int64),
            top1=np.empty(rows, dtype=np.int64),
            top1_probability=np.empty(rows),
            sum_of_squares=np.empty(rows),
            top_tokens=np.empty((rows, top_k), dtype=np.int64),
            top_log_probabilities=np.empty((rows, top_k)),
        )

    def part(self, rows: slice) -> TokenStatistics:
        """Some of the rows."""
        return TokenStatistics(
            **{field.name: getattr(self, field.name)[rows] for field in fields(TokenStatistics)}
        )

    def write(self, rows: slice, totals: RowTotals) -> None:
        """Set some rows to what their blocks sum to."""
        self.nll[rows] = totals.nll_B.cpu().numpy()
        self.entropy[rows] = totals.entropy_B.cpu().numpy()
        self.rank[rows] = totals.rank_B.cpu().numpy()
        self.top1[rows] = totals.top1_B.cpu().numpy()
        self.top1_probability[rows] = totals.top1_probability_B.cpu().numpy()
        self.sum_of_squares[rows] = totals.sum_of_squares_B.cpu().numpy()
        self.top_tokens[rows] = totals.top_tokens_BK.cpu().numpy()
        self.top_log_probabilities[rows] = totals.top_log_probabilities_BK.cpu().numpy()


def concatenate_statistics(parts: Sequence[TokenStatistics]) -> TokenStatistics:
    """The statistics of all rows, part after part."""
    return TokenStatistics(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(TokenStatistics)
        }
    )


def token_statistics(
    predictions: Predictions, targets_M: Int[Tensor, "M"], top_k: int = 0
) -> TokenStatistics:
    """The statistics of each position and its target token, with blocks of a megabyte in memory.

    `targets_M` contains one token id a row, on any device.  With `top_k` (0 to 10) the most
    probable tokens are kept as well.  A logit of -inf excludes a token: its nll is inf.  Safe to
    call from several threads, on different rows.

    Raises `InvalidValueError` for targets that do not fit, and naming the row where logits contain
    NaN or +inf, or only -inf.

    >>> from kullback.predictions.base import DensePredictions
    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, -torch.inf]])
    >>> statistics = token_statistics(DensePredictions(logits), torch.tensor([3, 1]))
    >>> statistics.nll.round(4).tolist(), statistics.rank.tolist(), statistics.top1.tolist()
    ([1.3863, 1.4076], [1, 2], [0, 2])
    """
    return start_statistics(predictions, targets_M, top_k)()


@torch.inference_mode()
def start_statistics(
    predictions: Predictions, targets_M: Int[Tensor, "M"], top_k: int = 0, threads: int = 1
) -> Callable[[], TokenStatistics]:
    """`token_statistics`, in two parts: an accelerator is given its work now.

    What is returned waits for the results; it raises where a row is no distribution.  On a CPU the
    rows of a chunk are summed by `threads` threads.
    """
    M, V = len(predictions), predictions.vocabulary_size
    check_targets(targets_M, M, V)
    if not 0 <= top_k <= LARGEST_TOP_K:
        raise InvalidValueError(f"top_k is {top_k}: it must be in [0, {LARGEST_TOP_K}]")
    statistics = TokenStatistics.empty(M, top_k)
    if M == 0:
        return lambda: statistics
    device = device_of(predictions)
    targets_M = to_device(targets_M, device)
    kernels = device_kernels(device.type)
    if kernels and has_float32_logits(predictions):
        wait = start_token_totals(kernels, predictions, targets_M, top_k)

        def finish() -> TokenStatistics:
            statistics.write(slice(M), wait())
            return statistics

        return finish

    def add(chunk: Chunk) -> None:
        sums = BlockSums(chunk.target_logits_B, chunk.count(0, V), top_k)
        for columns, block_BW in chunk.blocks(0, V):
            sums.add(columns.start, block_BW)
        statistics.write(chunk.rows, sums.totals(chunk.rows.start))

    with part_workers(threads if device.type == "cpu" else 1) as for_all:
        for rows in row_chunks(predictions, device, most=M):
            for_all(add, Chunk.of(predictions, rows, targets_M[rows]).parts(threads))
    return lambda: statistics
