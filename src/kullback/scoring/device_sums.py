"""Sums over whole rows of float32 logits on an accelerator, by Triton's kernels.

On a CPU logits are made in small blocks, which stay in the caches.  An accelerator is filled by
large kernels, and starting one costs the host 5 to 10 microseconds.  So here the logits of some
hundred rows are in memory at once (768 MB at most), three kernels
(:mod:`kullback.scoring.triton_kernels`) sum them, the sums of all rows are combined in float64
together, and the results come to the host in one transfer.  Nothing waits for the accelerator until
the results are asked for, so that it can be given the next batch before.

With p the reference, q the candidate and l = log p - log q, the divergences are those of
:mod:`kullback.scoring.log_ratio_sums`: near tokens (|l| <= 1/2) are summed as polynomials, far ones
as Σ p, Σ q, Σ p l and so on.  The normalisers are known here, so that nothing has to be shifted.

Axes: M rows, B rows of a chunk, N blocks of W columns, of which P may have one of the K most
probable tokens, V vocabulary, S sums of a block.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from subprocess import SubprocessError
from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.predictions.base import DensePredictions, FactoredPredictions, Predictions
from kullback.predictions.checks import check_rows
from kullback.runtime.transfers import start_to_host
from kullback.scoring.block_sums import BlockSums, RowTotals
from kullback.scoring.logit_blocks import Chunk, row_chunks
from kullback.scoring.pair_sums import TOP_K, PairTotals

__all__ = ["device_kernels", "start_pair_totals", "start_token_totals"]

# The logits that are in memory at once, of one model or two, and all that a pass takes.
LOGIT_BYTES, DEVICE_BYTES = 768 << 20, 880 << 20
# Of logits, however much the hidden states of long windows take: some hundred rows fill a GPU.
LEAST_LOGIT_BYTES = 192 << 20
# W of one model: 16 logits a thread, of 8 warps of 32 threads.  W of two, read T at a time.
COLUMNS, WARPS = 4096, 8
PAIR_COLUMNS, PAIR_PART = 16384, 1024


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
    near_more_B: Float[Tensor, "B"]
    """Σ p (1 - e^(-l)) over near tokens with l > 0, which is Σ (p - q)."""
    near_less_B: Float[Tensor, "B"]
    """Σ p (e^(-l) - 1) over those with l < 0."""
    near_p_more_B: Float[Tensor, "B"]
    """Σ p over near tokens with l > 0."""
    p_more_B: Float[Tensor, "B"]
    """Σ p over far tokens with l > 0, and over those that only the candidate excludes."""
    q_more_B: Float[Tensor, "B"]


@cache
def device_kernels(device_type: str) -> ModuleType | None:
    """The kernels, where they run: on CUDA with Triton, and on a CPU in Triton's interpreter.

    Triton compiles the code that starts a kernel when it first starts one, and without a C compiler
    that fails.  `KULLBACK_COMPILE=0` leaves the sums to torch, but for those in the interpreter.
    """
    compiles = device_type == "cuda" and os.environ.get("KULLBACK_COMPILE") != "0"
    if not compiles and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    try:
        from kullback.scoring import triton_kernels

        _start(triton_kernels, torch.device(device_type))
    except (ImportError, OSError, RuntimeError, SubprocessError):
        return None
    return triton_kernels


def _start(kernels: ModuleType, device: torch.device) -> None:
    """Sum a row of two logits, to see whether the kernels are compiled and started."""
    predictions = DensePredictions(torch.zeros((1, 2), device=device))
    start_token_totals(kernels, predictions, torch.zeros(1, dtype=torch.int64, device=device), 0)()


def start_token_totals(
    kernels: ModuleType, predictions: Predictions, targets_M: Int[Tensor, "M"], top_k: int
) -> Callable[[], RowTotals]:
    """Start the statistics of all rows of one model; what is returned waits for them.

    It raises `InvalidValueError` naming the row that is no distribution.
    """
    V = predictions.vocabulary_size
    with _current(targets_M.device):
        sums = _RowSums(kernels, predictions, targets_M, slice(0, V), top_k)
        most = _rows_at_once(4 * V, [predictions], [sums])
        for rows in row_chunks(predictions, targets_M.device, most):
            sums.add(rows)
        wait = _start_to_host(sums.totals())

    def finish() -> RowTotals:
        totals = RowTotals(*wait())
        check_rows(totals.largest_B, 0)
        return totals

    return finish


def start_pair_totals(
    kernels: ModuleType,
    predictions: tuple[Predictions, Predictions],
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int,
) -> Callable[[], PairTotals]:
    """Start the statistics of two models over the first V columns; what is returned waits for them.

    It raises `InvalidValueError` naming the model and its row that is no distribution.
    """
    with _current(targets_M.device):
        wait = _start_to_host(_pair_columns(kernels, predictions, targets_M, vocabulary_size))

    def finish() -> PairTotals:
        columns, of_one = wait(), len(RowTotals._fields)
        reference = RowTotals(*columns[:of_one])
        candidate = RowTotals(*columns[of_one : 2 * of_one])
        check_rows(reference.largest_B, 0, "the reference")
        check_rows(candidate.largest_B, 0, "the candidate")
        return PairTotals(reference, candidate, *columns[2 * of_one :])

    return finish


def _pair_columns(
    kernels: ModuleType,
    predictions: tuple[Predictions, Predictions],
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int,
) -> tuple[Tensor, ...]:
    """The columns of `PairTotals`, those of each model's `RowTotals` first, on the device."""
    V, M = vocabulary_size, len(targets_M)
    first, second = (
        _RowSums(kernels, model, targets_M, slice(0, V), TOP_K) for model in predictions
    )
    paddings = [
        _RowSums(kernels, model, targets_M, slice(V, model.vocabulary_size), 0)
        for model in predictions
    ]
    like = first.sums_NSM
    sums_NSM = like.new_empty((math.ceil(V / PAIR_COLUMNS), len(PairSum._fields), M))
    at_top1_M = like.new_empty(M)
    # Either may have more columns than are compared, which are summed after these.
    widest = max(2 * V, *(model.vocabulary_size - V for model in predictions))
    most = _rows_at_once(4 * widest, predictions, [first, second, *paddings])
    # Either may be one whose rows are only computed for the whole vocabulary.
    chunks = [row_chunks(model, targets_M.device, most) for model in predictions]
    for rows in max(chunks, key=len):
        x_BV, y_BV = first.add(rows), second.add(rows)
        kernels.pair_sums_kernel[(len(x_BV), len(sums_NSM))](
            x_BV, x_BV.stride(0), y_BV, y_BV.stride(0),
            first.sums_NSM[:, :, rows], second.sums_NSM[:, :, rows],
            first.top1_columns_MN[rows], sums_NSM[:, :, rows], at_top1_M[rows],
            M, V, first.blocks, W=PAIR_COLUMNS, T=PAIR_PART,
            N_AT_LEAST=first.blocks_at_least, num_warps=WARPS,
        )  # fmt: skip
        del x_BV, y_BV  # their memory is that of the padding, and of the next rows
        for padding in paddings:
            if padding.blocks:  # else llama.cpp would read the window again for no logits
                padding.add(rows)
    reference, candidate = first.totals(), second.totals()
    first_M5, second_M5 = reference.top_tokens_BK, candidate.top_tokens_BK
    is_shared = (first_M5[:, :, None] == second_M5[:, None, :]) & (first_M5 >= 0)[:, :, None]
    return (
        *reference,
        *candidate,
        *_divergences(sums_NSM, reference, candidate),
        is_shared.any(dim=2).sum(dim=1),
        (at_top1_M.double() - candidate.largest_B - candidate.log_z_B).exp(),
        paddings[0].share(reference),
        paddings[1].share(candidate),
    )


def _rows_at_once(
    bytes_a_row: int, predictions: Sequence[Predictions], sums: Sequence[_RowSums]
) -> int:
    """The rows whose logits are made at once, beside hidden states and sums of all rows."""
    factored = [model for model in predictions if isinstance(model, FactoredPredictions)]
    taken = sum(model.hidden_MD.nbytes for model in factored) + sum(part.nbytes for part in sums)
    bytes_of_logits = min(LOGIT_BYTES, max(LEAST_LOGIT_BYTES, DEVICE_BYTES - taken))
    return max(1, bytes_of_logits // bytes_a_row)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the one that Triton starts its kernels on, which is torch's current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _start_to_host(columns: tuple[Tensor, ...]) -> Callable[[], list[Tensor]]:
    """Start one transfer of the columns; what is returned waits for it.

    All are numbers below 2^53.
    """
    shapes = [(column.shape, column.dtype) for column in columns]
    widths = [math.prod(shape[1:]) for shape, _ in shapes]
    together = torch.cat([column.double().reshape(len(column), -1) for column in columns], dim=1)
    wait = start_to_host(together)

    def finish() -> list[Tensor]:
        parts = torch.split(wait(), widths, dim=1)
        return [
            part.reshape(shape).to(dtype)
            for part, (shape, dtype) in zip(parts, shapes, strict=True)
        ]

    return finish


@dataclass(eq=False)
class _RowSums:
    """The sums of one model over some columns, in the accelerator's memory until all are made."""

    kernels: ModuleType
    predictions: Predictions
    targets_M: Int[Tensor, "M"]
    columns: slice
    top_k: int

    def __post_init__(self) -> None:
        M, N, K = len(self.targets_M), self.blocks, self.top_k
        new = self.targets_M.new_empty
        self.sums_NSM = new((N, 5, M), dtype=torch.float32)
        self.target_logits_M = new((M,), dtype=torch.float32)
        self.top1_columns_MN = new((M, N), dtype=torch.int32)
        # Of the K blocks with the largest logits; K = 1 needs no more than the sums.
        tops = min(N, K) if K > 1 else 0
        self.top_logits_MPK = new((M, tops, K), dtype=torch.float32)
        self.top_columns_MPK = new((M, tops, K), dtype=torch.int32)

    @property
    def nbytes(self) -> int:
        """What the sums of all rows take."""
        tops = self.top_logits_MPK, self.top_columns_MPK, self.top1_columns_MN
        return sum(part.nbytes for part in (self.sums_NSM, self.target_logits_M, *tops))

    @property
    def blocks(self) -> int:
        """N."""
        columns: int = self.columns.stop - self.columns.start
        return math.ceil(columns / COLUMNS)

    @property
    def blocks_at_least(self) -> int:
        """The power of two at or above N, which Triton's ranges have."""
        return 1 << (self.blocks - 1).bit_length()

    @property
    def reads_targets(self) -> bool:
        """Whether a target's logit is the one among the others, not one made in float64.

        Tensor cores that sum 16-bit products truncate, which makes all logits a little smaller; an
        exact one among them biases the nll: by 2.6e-5 nats where the logits' standard deviation is
        4, instead of 5e-7 (H100, D = 2,048).
        """
        model = self.predictions
        return not isinstance(model, FactoredPredictions) or (
            model.head.multiplies_16_bits(self.targets_M.device)
        )

    def add(self, rows: slice) -> Float[Tensor, "B V"]:
        """Start the sums of some rows; their logits."""
        logits_BV = self.predictions.logits(rows, self.columns).float()
        targets_B = self.targets_M[rows]
        if not self.reads_targets:
            chunk = Chunk.of(self.predictions, rows, targets_B)
            self.target_logits_M[rows] = chunk.target_logits_B
        B, V = logits_BV.shape
        self.kernels.row_sums_kernel[(B, self.blocks)](
            logits_BV, logits_BV.stride(0), targets_B - self.columns.start,
            self.target_logits_M[rows], self.sums_NSM[:, :, rows], self.top1_columns_MN[rows],
            len(self.targets_M), V, W=COLUMNS, READ_TARGET=self.reads_targets, num_warps=WARPS,
        )  # fmt: skip
        if tops := self.top_logits_MPK.shape[1]:
            self.kernels.top_tokens_kernel[(B, tops)](
                logits_BV, logits_BV.stride(0), self.sums_NSM[:, :, rows],
                self.top_logits_MPK[rows], self.top_columns_MPK[rows],
                len(self.targets_M), V, self.blocks, W=COLUMNS, K=self.top_k,
                N_AT_LEAST=self.blocks_at_least, num_warps=WARPS,
            )  # fmt: skip
        return logits_BV

    def totals(self) -> RowTotals:
        """The statistics of all rows; where a row is no distribution its m is not finite."""
        sums, K = self._block_sums(), max(1, self.top_k)
        logits_MX, columns_MX = self.top_logits_MPK.flatten(1), self.top_columns_MPK.flatten(1)
        if self.top_k < 2:
            logits_MX, columns_MX = self.sums_NSM[:, 0].T, self.top1_columns_MN
        # Blocks come in the order of their columns, and so do equal logits within a block.
        top_MX, place_MX = logits_MX.sort(descending=True, stable=True)
        top_MK, place_MK = top_MX[:, :K], place_MX[:, :K]
        tokens_MK = columns_MX.gather(1, place_MK).long()
        tokens_MK = tokens_MK.masked_fill(top_MK == -torch.inf, -1)
        for top in (sums.top, sums.top1):
            k = top.logits_BK.shape[1]
            top.logits_BK, top.tokens_BK = top_MK[:, :k], tokens_MK[:, :k]
        return sums.unchecked_totals()

    def share(self, totals: RowTotals) -> Float[Tensor, "M"]:
        """The probability of these columns beside those of `totals`."""
        log_sum_M = self._block_sums().log_sum()
        if log_sum_M is None:
            return torch.zeros_like(totals.log_z_B)
        return torch.sigmoid(log_sum_M - totals.largest_B - totals.log_z_B)

    def _block_sums(self) -> BlockSums:
        sums = BlockSums(self.target_logits_M, 0, self.top_k)
        sums.sums_NSB, sums.added = self.sums_NSM, self.blocks
        return sums


def _divergences(
    sums_NSM: Float[Tensor, "N S M"], reference: RowTotals, candidate: RowTotals
) -> tuple[Float[Tensor, "M"], ...]:
    """KL both ways, JS (in nats) and TV, in float64."""
    sums = PairSum(*sums_NSM.double().sum(dim=0))
    z_p, z_q = reference.log_z_B.exp(), candidate.log_z_B.exp()
    surplus_M = sums.q_B / z_q - sums.p_B / z_p
    kl_M = (sums.near_kl_B + sums.p_l_B) / z_p + surplus_M
    reverse_kl_M = sums.near_reverse_kl_B / z_p - sums.q_l_B / z_q - surplus_M
    js_M = sums.near_jensen_shannon_B / z_p + (sums.p_s_B / z_p + sums.q_s_B / z_q) / 2
    return (
        # Rounding may leave a KL of zero slightly negative.
        kl_M.clamp_min(0).masked_fill(sums.excluded_by_q_B > 0, torch.inf),
        reverse_kl_M.clamp_min(0).masked_fill(sums.excluded_by_p_B > 0, torch.inf),
        js_M.clamp(0, math.log(2)),
        _total_variation(sums, z_p, z_q),
    )


def _total_variation(
    sums: PairSum, z_p: Float[Tensor, "M"], z_q: Float[Tensor, "M"]
) -> Float[Tensor, "M"]:
    """TV, which both Σ (p - q)⁺ and Σ (q - p)⁺ are, in the mean of `total_of_parts`."""
    more_M = sums.near_more_B / z_p + sums.p_more_B / z_p - sums.q_more_B / z_q
    p_less_M, q_less_M = sums.p_B - sums.p_more_B, sums.q_B - sums.q_more_B
    less_M = sums.near_less_B / z_p + q_less_M / z_q - p_less_M / z_p
    # Near tokens count with p for q.
    q_more_M = (sums.near_p_more_B / z_p + sums.q_more_B / z_q).clamp(0, 1)
    return (more_M * (1 - q_more_M) + less_M * q_more_M).clamp(0, 1)
