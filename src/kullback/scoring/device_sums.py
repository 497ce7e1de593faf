"""Sums over whole rows of float32 logits on an accelerator, by Triton's kernels.

On a CPU logits are made in small blocks, which stay in the caches.  An accelerator is filled by
large kernels, so here the logits of some hundred rows are in memory at once (256 MB), and two
kernels (:mod:`kullback.scoring.triton_kernels`) read them once or twice: the sums of each model,
which give the normalisers, then the sums over the log-ratios of two models.  The host waits once a
chunk of rows, not once a block.

With p the reference, q the candidate and l = log p - log q, the divergences are those of
:mod:`kullback.scoring.log_ratio_sums`: near tokens (|l| <= 1/2) are summed as polynomials, far ones
as Σ p, Σ q, Σ p l and so on.  The normalisers are known here, so that nothing has to be shifted.

Axes: B rows, N blocks of W columns, V vocabulary, K most probable tokens, S sums of a block.
"""

from __future__ import annotations

import math
import os
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kullback.scoring.block_sums import BlockSums, RowTotals
from kullback.scoring.logit_blocks import Chunk
from kullback.scoring.pair_sums import TOP_K, PairTotals

__all__ = ["device_kernels", "pair_totals", "row_sums", "rows_at_once"]

# The logits of one model that are in memory at once.
DEVICE_BYTES = 256 << 20
# W: 16 logits a thread, of 8 warps of 32 threads.
COLUMNS, WARPS = 4096, 8


class PairSum(NamedTuple):
    """The sums of each row over both models' logits of one block, or of all.

    p is e^(x - m) of the reference, q of the candidate, each with its own m.
    """

    near_kl_B: Float[Tensor, "B"]
    """Σ p f(l) over near tokens, f(l) = e^(-l) - 1 + l."""
    near_reverse_kl_B: Float[Tensor, "B"]
    """Σ p e^(-l) f(-l)."""
    near_jensen_shannon_B: Float[Tensor, "B"]
    p_B: Float[Tensor, "B"]
    """Σ p over far tokens."""
    q_B: Float[Tensor, "B"]
    p_l_B: Float[Tensor, "B"]
    """Σ p l over far tokens that neither model excludes."""
    q_l_B: Float[Tensor, "B"]
    p_s_B: Float[Tensor, "B"]
    """Σ p s(l) over far tokens, s(l) = log(2 / (1 + e^(-l)))."""
    q_s_B: Float[Tensor, "B"]
    """Σ q s(-l)."""
    excluded_by_q_B: Float[Tensor, "B"]
    """The number of tokens that only the candidate excludes."""
    excluded_by_p_B: Float[Tensor, "B"]


@cache
def device_kernels(device_type: str) -> ModuleType | None:
    """The kernels, where they run: on CUDA with Triton, and on a CPU in Triton's interpreter."""
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    try:
        from kullback.scoring import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def rows_at_once(vocabulary_size: int) -> int:
    """How many rows of logits are in memory at once."""
    return max(1, DEVICE_BYTES // (4 * vocabulary_size))


def row_sums(
    kernels: ModuleType, chunk: Chunk, logits_BV: Float[Tensor, "B V"], top_k: int = 0
) -> BlockSums:
    """The sums of one model's logits over all columns; the logits are kept."""
    B, V = logits_BV.shape
    N, K = math.ceil(V / COLUMNS), max(1, top_k)
    sums = BlockSums(chunk.target_logits_B, N, top_k)
    logits_BNK = logits_BV.new_empty((B, N, K))
    columns_BNK = logits_BV.new_empty((B, N, K), dtype=torch.int32)
    kernels.row_sums_kernel[(B, N)](
        logits_BV, logits_BV.stride(0), chunk.target_logits_B.contiguous(), sums.sums_NSB,
        logits_BNK, columns_BNK, B, V, W=COLUMNS, K=K, num_warps=WARPS,
    )  # fmt: skip
    sums.added = N
    # Blocks come in the order of their columns, and so do equal logits within a block.
    top_BK, place_BK = logits_BNK.flatten(1).sort(dim=1, descending=True, stable=True)
    top_BK, place_BK = top_BK[:, :K], place_BK[:, :K]
    tokens_BK = columns_BNK.flatten(1).gather(1, place_BK).long()
    tokens_BK = tokens_BK.masked_fill(top_BK == -torch.inf, -1)
    for top in (sums.top, sums.top1):
        k = top.logits_BK.shape[1]
        top.logits_BK, top.tokens_BK = top_BK[:, :k], tokens_BK[:, :k]
    return sums


def pair_totals(
    kernels: ModuleType, chunks: list[Chunk], vocabulary_size: int, first_row: int
) -> PairTotals:
    """The statistics of two models' chunks of the same rows over the first V columns.

    Raises `InvalidValueError` where a row of either model is no distribution.
    """
    logits = [chunk.whole(0, vocabulary_size) for chunk in chunks]
    reference, candidate = (
        row_sums(kernels, chunk, logits_BV, TOP_K).totals(first_row, owner)
        for chunk, logits_BV, owner in zip(
            chunks, logits, ("the reference", "the candidate"), strict=True
        )
    )
    first_B5, second_B5 = reference.top_tokens_BK, candidate.top_tokens_BK
    is_shared = (first_B5[:, :, None] == second_B5[:, None, :]) & (first_B5 >= 0)[:, :, None]
    at_top1_B = logits[1].gather(1, reference.top1_B[:, None])[:, 0].double()
    return PairTotals(
        reference,
        candidate,
        *_divergences(kernels, logits, (reference, candidate)),
        top5_overlap_B=is_shared.any(dim=2).sum(dim=1),
        at_top1_B=(at_top1_B - candidate.largest_B - candidate.log_z_B).exp(),
        reference_padding_B=_padding(kernels, chunks[0], vocabulary_size, reference),
        candidate_padding_B=_padding(kernels, chunks[1], vocabulary_size, candidate),
    )


def _divergences(
    kernels: ModuleType, logits: list[Float[Tensor, "B V"]], totals: tuple[RowTotals, RowTotals]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """KL both ways and JS, in float64 and nats."""
    (x_BV, y_BV), (first, second) = logits, totals
    B, V = x_BV.shape
    N = math.ceil(V / COLUMNS)
    # As two float32 numbers, so that l of a token is as exact as its logits.
    offset_B = (first.largest_B - second.largest_B) + (first.log_z_B - second.log_z_B)
    high_B = offset_B.float()
    offset_2B = torch.stack([high_B, (offset_B - high_B).float()])
    largest_2B = torch.stack([first.largest_B, second.largest_B]).float()
    sums_NSB = x_BV.new_empty((N, len(PairSum._fields), B))
    kernels.pair_sums_kernel[(B, N)](
        x_BV, x_BV.stride(0), y_BV, y_BV.stride(0), largest_2B, offset_2B, sums_NSB, B, V,
        W=COLUMNS, num_warps=WARPS,
    )  # fmt: skip
    sums = PairSum(*sums_NSB.double().sum(dim=0))
    z_p, z_q = first.log_z_B.exp(), second.log_z_B.exp()
    surplus_B = sums.q_B / z_q - sums.p_B / z_p
    kl_B = (sums.near_kl_B + sums.p_l_B) / z_p + surplus_B
    reverse_kl_B = sums.near_reverse_kl_B / z_p - sums.q_l_B / z_q - surplus_B
    js_B = sums.near_jensen_shannon_B / z_p + (sums.p_s_B / z_p + sums.q_s_B / z_q) / 2
    return (
        # Rounding may leave a KL of zero slightly negative.
        kl_B.clamp_min(0).masked_fill(sums.excluded_by_q_B > 0, torch.inf),
        reverse_kl_B.clamp_min(0).masked_fill(sums.excluded_by_p_B > 0, torch.inf),
        js_B.clamp(0, math.log(2)),
    )


def _padding(
    kernels: ModuleType, chunk: Chunk, vocabulary_size: int, totals: RowTotals
) -> Float[Tensor, "B"]:
    """The probability of the columns from V on, which are not compared."""
    stop = chunk.predictions.vocabulary_size
    if stop == vocabulary_size:
        return torch.zeros_like(totals.log_z_B)
    others = row_sums(kernels, chunk, chunk.whole(vocabulary_size, stop)).log_sum()
    assert others is not None  # there is a block
    return torch.sigmoid(others - totals.largest_B - totals.log_z_B)
