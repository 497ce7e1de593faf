"""Sums over whole rows of float32 logits on an accelerator, by Triton's kernels.

On a CPU logits are made in small blocks, which stay in the caches.  An accelerator is filled by
large kernels, so here the logits of some hundred rows are in memory at once (512 MB), and two
kernels (:mod:`kullback.scoring.triton_kernels`) read them once or twice: the sums of each model,
which give the normalisers, then the sums over the log-ratios of two models.  The host waits once,
for the results of all rows.

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
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_rows
from kullback.scoring.block_sums import BlockSums, RowTotals
from kullback.scoring.logit_blocks import Chunk, row_chunks
from kullback.scoring.pair_sums import TOP_K, PairTotals

__all__ = ["device_kernels", "device_pair_totals", "device_token_totals"]

# The logits that are in memory at once, of one model or two.
DEVICE_BYTES = 512 << 20
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


class PairOnly(NamedTuple):
    """The fields of `PairTotals` that neither model has by itself."""

    kl_B: Float[Tensor, "B"]
    reverse_kl_B: Float[Tensor, "B"]
    jensen_shannon_B: Float[Tensor, "B"]
    top5_overlap_B: Int[Tensor, "B"]
    at_top1_B: Float[Tensor, "B"]
    reference_padding_B: Float[Tensor, "B"]
    candidate_padding_B: Float[Tensor, "B"]


Totals = TypeVar("Totals", RowTotals, PairOnly)


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


def device_token_totals(
    kernels: ModuleType, predictions: Predictions, targets_M: Int[Tensor, "M"], top_k: int
) -> RowTotals:
    """The statistics of all rows of one model, on the host.

    Raises `InvalidValueError` naming the row that is no distribution.
    """
    V = predictions.vocabulary_size
    parts = []
    for rows in row_chunks(predictions, targets_M.device, DEVICE_BYTES // (4 * V)):
        chunk = Chunk.of(predictions, rows, targets_M[rows])
        sums = _row_sums(kernels, *chunk.whole(0, V), top_k)
        parts.append(sums.unchecked_totals())
    totals = _on_host(parts)
    check_rows(totals.largest_B, 0)
    return totals


def device_pair_totals(
    kernels: ModuleType,
    predictions: tuple[Predictions, Predictions],
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int,
) -> PairTotals:
    """The statistics of all rows of two models over the first V columns, on the host.

    Raises `InvalidValueError` naming the model and its row that is no distribution.
    """
    parts = []
    most = DEVICE_BYTES // (8 * vocabulary_size)
    for rows in row_chunks(predictions[0], targets_M.device, most):
        chunks = [Chunk.of(model, rows, targets_M[rows]) for model in predictions]
        parts.append(_pair_totals(kernels, chunks, vocabulary_size))
    totals = PairTotals(
        _on_host([part.reference for part in parts]),
        _on_host([part.candidate for part in parts]),
        *_on_host([PairOnly(*part[2:]) for part in parts]),
    )
    check_rows(totals.reference.largest_B, 0, "the reference")
    check_rows(totals.candidate.largest_B, 0, "the candidate")
    return totals


def _on_host(parts: list[Totals]) -> Totals:
    """The columns of all parts on the CPU, in one transfer: all are numbers below 2^53."""
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    widths = [column.shape[1] if column.dim() == 2 else 1 for column in columns]
    together = torch.cat([column.double().reshape(len(column), -1) for column in columns], dim=1)
    results = [
        result.reshape(column.shape).to(column.dtype)
        for column, result in zip(columns, torch.split(together.cpu(), widths, dim=1), strict=True)
    ]
    return type(parts[0])(*results)


def _row_sums(
    kernels: ModuleType,
    logits_BV: Float[Tensor, "B V"],
    target_logits_B: Float[Tensor, "B"],
    top_k: int = 0,
) -> BlockSums:
    """The sums of one model's logits over all columns; the logits are kept."""
    B, V = logits_BV.shape
    N, K = math.ceil(V / COLUMNS), max(1, top_k)
    sums = BlockSums(target_logits_B, N, top_k)
    logits_BNK = logits_BV.new_empty((B, N, K))
    columns_BNK = logits_BV.new_empty((B, N, K), dtype=torch.int32)
    kernels.row_sums_kernel[(B, N)](
        logits_BV, logits_BV.stride(0), target_logits_B.contiguous(), sums.sums_NSB,
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


def _pair_totals(kernels: ModuleType, chunks: list[Chunk], vocabulary_size: int) -> PairTotals:
    """The statistics of two models' chunks of the same rows over the first V columns."""
    wholes = [chunk.whole(0, vocabulary_size) for chunk in chunks]
    reference, candidate = (
        _row_sums(kernels, *whole, TOP_K).unchecked_totals() for whole in wholes
    )
    logits = [logits_BV for logits_BV, _ in wholes]
    first_B5, second_B5 = reference.top_tokens_BK, candidate.top_tokens_BK
    is_shared = (first_B5[:, :, None] == second_B5[:, None, :]) & (first_B5 >= 0)[:, :, None]
    # A row without a finite logit has no most probable token, and is refused later.
    top1_B1 = reference.top1_B[:, None].clamp_min(0)
    at_top1_B = logits[1].gather(1, top1_B1)[:, 0].double()
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
    others = _row_sums(kernels, *chunk.whole(vocabulary_size, stop)).log_sum()
    assert others is not None  # there is a block
    return torch.sigmoid(others - totals.largest_B - totals.log_z_B)
