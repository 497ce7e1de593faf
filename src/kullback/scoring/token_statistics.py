"""One pass over the vocabulary: everything that is asked of a prediction, block by block.

The logits of M positions and V words never exist at once: a block of rows × words is made, used
for all statistics and dropped, so the memory needed depends on neither M nor V.  Within a block
the arithmetic is that of the model (float32, or float64 where the model is float64); what crosses
blocks is float64.  With m the largest logit of a block, the block leaves

    Z = Σ e^(x-m)        S = Σ (x-m) e^(x-m)        C = Σ e^(2(x-m))

At the end all are shifted to the largest m of all blocks and added (as in Milakov and Gimelshein
2018, "Online normalizer calculation for softmax", equation 4, here also for S and C), and

    nll = m - x[target] + log Z      H = log Z - S / Z      Σ q² = C / Z²      max q = 1 / Z

Since the largest word adds exactly 1 to Z, neither nll nor H can be negative, and nothing goes
through a softmax and then a logarithm.

Axes: M rows, B rows of a chunk, N blocks of W words, V vocabulary, K most probable words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_rows, check_targets
from kullback.scoring.compiled import block_library
from kullback.scoring.logit_blocks import (
    Chunk,
    TopTokens,
    device_of,
    is_compiled,
    row_chunks,
    wide,
)

__all__ = [
    "BlockSum",
    "BlockSums",
    "TokenStatistics",
    "bits_per_nat",
    "concatenate_statistics",
    "token_statistics",
]

# Enough for top-10 lists; the rank gives the accuracy at any k.
LARGEST_TOP_K = 10


def bits_per_nat(dtype: torch.dtype) -> float:
    """1 / log 2 as the type holds it.

    e^x is computed as 2^(x / log 2): on a CPU that takes a third of the time, and is as exact.
    """
    return float(torch.tensor(1 / math.log(2), dtype=dtype))


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What one pass found at each of M positions; logarithms are natural."""

    nll: Float[np.ndarray, "M"]
    """-log q[target] in nats; inf where the model excludes the target."""
    entropy: Float[np.ndarray, "M"]
    """H(q) in nats."""
    rank: Int[np.ndarray, "M"]
    """1 + the number of words whose logit is strictly larger than the target's."""
    top1: Int[np.ndarray, "M"]
    """The most probable word, the first one of equals."""
    top1_probability: Float[np.ndarray, "M"]
    sum_of_squares: Float[np.ndarray, "M"]
    """Σ q², the collision probability, for the Brier score."""
    top_tokens: Int[np.ndarray, "M K"]
    """The K most probable words, falling; K is 0 unless asked for, -1 where V < K."""
    top_log_probabilities: Float[np.ndarray, "M K"]

    def __len__(self) -> int:
        return len(self.nll)

    @classmethod
    def empty(cls, rows: int, top_k: int = 0) -> TokenStatistics:
        """Room for the statistics of `rows` positions."""
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


def concatenate_statistics(parts: Sequence[TokenStatistics]) -> TokenStatistics:
    """The statistics of all rows, one part after the other."""
    return TokenStatistics(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(TokenStatistics)
        }
    )


@torch.inference_mode()
def token_statistics(
    predictions: Predictions, targets_M: Int[Tensor, "M"], top_k: int = 0
) -> TokenStatistics:
    """The statistics of each position and its target, with blocks of a megabyte in memory.

    `targets_M` holds one word id a row, on any device.  `top_k` (0 to 10) asks for the most
    probable words, too.  Logits of -inf exclude a word: its nll is inf.  Safe to call from several
    threads, on different rows.

    Raises `InvalidValueError` for targets that do not fit, and naming the row where logits hold
    NaN or +inf, or only -inf.

    >>> from kullback.predictions.base import DensePredictions
    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, -torch.inf]])
    >>> found = token_statistics(DensePredictions(logits), torch.tensor([3, 1]))
    >>> found.nll.round(4).tolist(), found.rank.tolist(), found.top1.tolist()
    ([1.3863, 1.4076], [1, 2], [0, 2])
    """
    M, V = len(predictions), predictions.vocabulary_size
    check_targets(targets_M, M, V)
    if not 0 <= top_k <= LARGEST_TOP_K:
        raise InvalidValueError(f"top_k is {top_k}: it must lie in [0, {LARGEST_TOP_K}]")
    found = TokenStatistics.empty(M, top_k)
    if M == 0:
        return found
    device = device_of(predictions)
    targets_M = targets_M.to(device)
    for part in row_chunks(predictions, device, most=M):
        chunk = Chunk.of(predictions, part, targets_M[part])
        sums = BlockSums(chunk.target_logits_B, chunk.count(0, V), top_k)
        for words, block_BW in chunk.blocks(0, V):
            sums.add(words.start, block_BW)
        sums.finish(found, part)
    return found


class BlockSum(NamedTuple):
    """What one block, or each of N, leaves of each row."""

    largest_B: Float[Tensor, "B"]
    z_B: Float[Tensor, "B"]
    s_B: Float[Tensor, "B"]
    root_c_B: Float[Tensor, "B"]
    above_B: Float[Tensor, "B"]
    """The number of words above the target."""


class BlockSums:
    """The sums of one chunk of rows, block by block, and what follows from them."""

    def __init__(self, target_logits_B: Float[Tensor, "B"], count: int, top_k: int = 0) -> None:
        self.target_logits_B = target_logits_B
        self.library = block_library() if is_compiled(target_logits_B) else None
        # Room for all `count` blocks at once: small pieces, made between blocks of logits, would
        # each keep the C library from using the room of the last block for the next.
        dtype = torch.float64 if self.library else target_logits_B.dtype
        shape = (count, len(BlockSum._fields), len(target_logits_B))
        self.sums_NSB = target_logits_B.new_empty(shape, dtype=dtype)
        self.added = 0
        self.top = TopTokens(target_logits_B, max(1, top_k))
        # torch's topk gives any of equal words, its argmax the first; the library keeps the first.
        self.top1 = self.top if self.library or top_k < 2 else TopTokens(target_logits_B, 1)
        self.top_k = top_k
        # e^(x-m) of the last block; until the next, others may use and overwrite it.
        self.exponentials_BW = target_logits_B.new_empty(0, 0)
        self.per_bit = bits_per_nat(target_logits_B.dtype)

    def add(self, first_column: int, block_BW: Float[Tensor, "B W"]) -> None:
        """Add a block of words; its logits are overwritten."""
        if self.library is not None and self.library.takes(block_BW):
            targets_B, top = self.target_logits_B, self.top.columns
            self.library.sums(first_column, block_BW, targets_B, top, self.room())
        else:
            self.add_by_torch(first_column, block_BW, block_BW.amax(dim=1))

    def room(self) -> Float[Tensor, "5 B"]:
        """Where the sums of one more block are to be written, in the order of `BlockSum`."""
        self.added += 1
        return self.sums_NSB[self.added - 1]

    @property
    def blocks(self) -> BlockSum:
        """What the blocks added so far have left, N × B each; to be read."""
        return BlockSum(*self.sums_NSB[: self.added].unbind(1))

    def add_by_torch(
        self, first_column: int, block_BW: Float[Tensor, "B W"], largest_B: Float[Tensor, "B"]
    ) -> None:
        """Add a block of words and its maxima in torch's arithmetic; its logits are overwritten."""
        if self.exponentials_BW.shape != block_BW.shape:
            self.exponentials_BW = torch.empty_like(block_BW)
        scratch_BW = self.exponentials_BW
        self.top1.update(first_column, block_BW, largest_B)
        if self.top is not self.top1:
            self.top.update(first_column, block_BW, largest_B)
        # A comparison written as 0.0 and 1.0 and summed costs a quarter of one that gives bools.
        torch.gt(block_BW, self.target_logits_B[:, None], out=scratch_BW)
        above_B = scratch_BW.sum(dim=1)
        # Where no logit is finite, any finite shift will do.
        shift_B1 = largest_B.clamp_min(torch.finfo(block_BW.dtype).min)[:, None]
        block_BW.sub_(shift_B1).mul_(self.per_bit)
        torch.exp2(block_BW, out=scratch_BW)
        z_B = scratch_BW.sum(dim=1)
        root_c_B = torch.linalg.vector_norm(scratch_BW, dim=1)
        s_B = block_BW.mul_(scratch_BW).sum(dim=1)
        if math.isnan(s_B.sum().item()):
            # 0 × -inf: an impossible word has no surprise to contribute.  (A logit that is NaN
            # has made the largest NaN, which `finish` reports.)
            s_B = block_BW.nan_to_num_(nan=0.0).sum(dim=1)
        self.room().copy_(torch.stack([largest_B, z_B, s_B, root_c_B, above_B]))

    def finish(
        self, found: TokenStatistics, rows: slice, name: str = "the predictions"
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Write what the sums say of the rows; return m and log Z of each in float64.

        Raises `InvalidValueError` where a row is no distribution; `name` says whose.
        """
        largest_NB, z_NB, s_NB, root_c_NB, above_NB = map(wide, self.blocks)
        largest_B = largest_NB.amax(dim=0)
        check_rows(largest_B, rows.start, name)
        # Exponents in bits fall by the shift.
        shift_NB = (largest_NB - largest_B) * self.per_bit
        factor_NB = torch.exp2(shift_NB)
        s_NB = s_NB + torch.where(z_NB > 0, shift_NB * z_NB, 0)
        z_B = (z_NB * factor_NB).sum(dim=0)
        s_B = (s_NB * factor_NB).sum(dim=0)
        c_B = (root_c_NB * factor_NB).square().sum(dim=0)
        log_z_B = z_B.log()
        nll_B = largest_B - wide(self.target_logits_B) + log_z_B
        found.nll[rows] = nll_B.cpu().numpy()
        found.entropy[rows] = (log_z_B - s_B / z_B * math.log(2)).cpu().numpy()
        found.rank[rows] = above_NB.sum(dim=0).cpu().numpy().astype(np.int64) + 1
        found.top1[rows] = self.top1.tokens_BK[:, 0].cpu().numpy()
        found.top1_probability[rows] = (1 / z_B).cpu().numpy()
        found.sum_of_squares[rows] = (c_B / z_B.square()).cpu().numpy()
        if self.top_k:
            found.top_tokens[rows] = self.top.tokens_BK.cpu().numpy()
            top_BK = wide(self.top.logits_BK) - (largest_B + log_z_B)[:, None]
            found.top_log_probabilities[rows] = top_BK.cpu().numpy()
        return largest_B, log_z_B

    def log_sum(self) -> Float[Tensor, "B"] | None:
        """log Σ e^x over the words added, in float64; None where there were none."""
        if not self.added:
            return None
        largest_NB, z_NB, *_ = map(wide, self.blocks)
        return torch.logsumexp(largest_NB + z_NB.log(), dim=0)
