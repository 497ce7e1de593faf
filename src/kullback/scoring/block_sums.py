"""Sums over blocks of logits, and the statistics of whole rows that follow from them.

Within a block the arithmetic is that of the model (float32, or float64 where the model is float64);
sums across blocks are float64.  With x the logits and m the largest of a row and block, a block is
reduced to

    Z = Σ e^(x-m)        S = Σ (x-m) e^(x-m)        C = Σ e^(2(x-m))

and the number of tokens above the target.  The sums of all blocks are shifted to the largest m and
added (as in Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", equation 4,
here also for S and C), and with the totals

    nll = m - x[target] + log Z      H = log Z - S / Z      Σ q² = C / Z²      max q = 1 / Z

The most probable token adds exactly 1 to Z, so neither nll nor H can be negative, and no logarithm
of a softmax is taken.

Axes: B rows of a chunk, N blocks of W columns, S sums of a block, K most probable tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.predictions.checks import check_rows
from kullback.scoring.compiled import block_library
from kullback.scoring.logit_blocks import TopTokens, is_compiled, wide

__all__ = ["BlockSum", "BlockSums", "RowTotals"]


def _bits_per_nat(dtype: torch.dtype) -> float:
    """1 / log 2 as the type represents it.

    e^x is computed as 2^(x / log 2): on a CPU that takes a third of the time, and is as exact.
    """
    return float(torch.tensor(1 / math.log(2), dtype=dtype))


class BlockSum(NamedTuple):
    """The sums of each row over one block, or over each of N."""

    largest_B: Float[Tensor, "B"]
    z_B: Float[Tensor, "B"]
    s_B: Float[Tensor, "B"]
    """S, with x - m in bits."""
    root_c_B: Float[Tensor, "B"]
    """√C."""
    above_B: Float[Tensor, "B"]
    """The number of tokens with a larger logit than the target."""


class RowTotals(NamedTuple):
    """The statistics of each row over all blocks, in float64; logarithms are natural."""

    largest_B: Float[Tensor, "B"]
    """m."""
    log_z_B: Float[Tensor, "B"]
    nll_B: Float[Tensor, "B"]
    entropy_B: Float[Tensor, "B"]
    rank_B: Int[Tensor, "B"]
    top1_B: Int[Tensor, "B"]
    top1_probability_B: Float[Tensor, "B"]
    sum_of_squares_B: Float[Tensor, "B"]
    top_tokens_BK: Int[Tensor, "B K"]
    top_log_probabilities_BK: Float[Tensor, "B K"]


class BlockSums:
    """The sums of one chunk of rows, added block by block."""

    def __init__(self, target_logits_B: Float[Tensor, "B"], count: int, top_k: int = 0) -> None:
        self.target_logits_B = target_logits_B
        self.library = block_library() if is_compiled(target_logits_B) else None
        # Memory for all `count` blocks at once: small tensors allocated between blocks of logits
        # would keep malloc from reusing the memory of one block for the next.
        dtype = torch.float64 if self.library else target_logits_B.dtype
        shape = (count, len(BlockSum._fields), len(target_logits_B))
        self.sums_NSB = target_logits_B.new_empty(shape, dtype=dtype)
        self.added = 0
        self.top = TopTokens(target_logits_B, max(1, top_k))
        # Of equal logits torch's topk gives any, its argmax and the library the first.
        self.top1 = self.top if self.library or top_k < 2 else TopTokens(target_logits_B, 1)
        self.top_k = top_k
        # e^(x-m) of the last block; others may use and overwrite it until the next is added.
        self.exponentials_BW = target_logits_B.new_empty(0, 0)
        self.per_bit = _bits_per_nat(target_logits_B.dtype)

    @classmethod
    def joined(cls, parts: Sequence[BlockSums]) -> BlockSums:
        """The sums of the rows of all parts, to which the same blocks have been added."""
        first = parts[0]
        targets_B = torch.cat([part.target_logits_B for part in parts])
        whole = cls(targets_B, 0, first.top_k)
        whole.sums_NSB = torch.cat([part.sums_NSB for part in parts], dim=2)
        whole.added = first.added
        whole.top = whole.top1 = TopTokens.joined([part.top for part in parts])
        if first.top1 is not first.top:
            whole.top1 = TopTokens.joined([part.top1 for part in parts])
        return whole

    def add(self, first_column: int, block_BW: Float[Tensor, "B W"]) -> None:
        """Add a block that begins at `first_column`; its logits are overwritten."""
        if self.library is not None and self.library.takes(block_BW):
            targets_B, top = self.target_logits_B, self.top.buffers
            self.library.sums(first_column, block_BW, targets_B, top, self.next_slot())
        else:
            self.add_by_torch(first_column, block_BW, block_BW.amax(dim=1))

    def next_slot(self) -> Float[Tensor, "5 B"]:
        """The memory for the sums of one more block, in the order of `BlockSum`."""
        self.added += 1
        return self.sums_NSB[self.added - 1]

    @property
    def blocks(self) -> BlockSum:
        """The sums of the blocks added so far, N × B each; read-only."""
        return BlockSum(*self.sums_NSB[: self.added].unbind(1))

    def add_by_torch(
        self, first_column: int, block_BW: Float[Tensor, "B W"], largest_B: Float[Tensor, "B"]
    ) -> None:
        """Add a block with its maxima in torch's arithmetic; its logits are overwritten."""
        if self.exponentials_BW.shape != block_BW.shape:
            self.exponentials_BW = torch.empty_like(block_BW)
        scratch_BW = self.exponentials_BW
        self.top1.update(first_column, block_BW, largest_B)
        if self.top is not self.top1:
            self.top.update(first_column, block_BW, largest_B)
        # A comparison written as 0.0 and 1.0 and summed costs a quarter of one that gives bools.
        torch.gt(block_BW, self.target_logits_B[:, None], out=scratch_BW)
        above_B = scratch_BW.sum(dim=1)
        # Where no logit is finite, any finite shift serves.
        shift_B1 = largest_B.clamp_min(torch.finfo(block_BW.dtype).min)[:, None]
        block_BW.sub_(shift_B1).mul_(self.per_bit)
        torch.exp2(block_BW, out=scratch_BW)
        z_B = scratch_BW.sum(dim=1)
        root_c_B = torch.linalg.vector_norm(scratch_BW, dim=1)
        s_B = block_BW.mul_(scratch_BW).sum(dim=1)
        if math.isnan(s_B.sum().item()):
            # 0 × -inf: a token of probability 0 adds nothing.  (A logit that is NaN has made the
            # largest NaN, which `totals` reports.)
            s_B = block_BW.nan_to_num_(nan=0.0).sum(dim=1)
        self.next_slot().copy_(torch.stack([largest_B, z_B, s_B, root_c_B, above_B]))

    def totals(self, first_row: int, owner: str = "the predictions") -> RowTotals:
        """The statistics of the rows over all blocks added.

        Raises `InvalidValueError` where a row is no distribution, with its number counted from
        `first_row` and the name of the `owner`.
        """
        check_rows(wide(self.blocks.largest_B.amax(dim=0)), first_row, owner)
        return self.unchecked_totals()

    def unchecked_totals(self) -> RowTotals:
        """The statistics of the rows, of which those of a row that is no distribution mean nothing.

        Such a row has a `largest_B` that is not finite.
        """
        largest_NB, z_NB, s_NB, root_c_NB, above_NB = map(wide, self.blocks)
        largest_B = largest_NB.amax(dim=0)
        # S is in bits, so a shift of m subtracts from it in bits.
        shift_NB = (largest_NB - largest_B) * self.per_bit
        factor_NB = torch.exp2(shift_NB)
        s_NB = s_NB + torch.where(z_NB > 0, shift_NB * z_NB, 0)
        z_B = (z_NB * factor_NB).sum(dim=0)
        s_B = (s_NB * factor_NB).sum(dim=0)
        c_B = (root_c_NB * factor_NB).square().sum(dim=0)
        log_z_B = z_B.log()
        top_BK = slice(None), slice(self.top_k)
        return RowTotals(
            largest_B=largest_B,
            log_z_B=log_z_B,
            nll_B=largest_B - wide(self.target_logits_B) + log_z_B,
            entropy_B=log_z_B - s_B / z_B * math.log(2),
            rank_B=above_NB.sum(dim=0).long() + 1,
            top1_B=self.top1.tokens_BK[:, 0],
            top1_probability_B=1 / z_B,
            sum_of_squares_B=c_B / z_B.square(),
            top_tokens_BK=self.top.tokens_BK[top_BK],
            top_log_probabilities_BK=(
                wide(self.top.logits_BK[top_BK]) - (largest_B + log_z_B)[:, None]
            ),
        )

    def log_sum(self) -> Float[Tensor, "B"] | None:
        """log Σ e^x over the columns added, in float64; None where there were none."""
        if not self.added:
            return None
        largest_NB, z_NB, *_ = map(wide, self.blocks)
        return torch.logsumexp(largest_NB + z_NB.log(), dim=0)
