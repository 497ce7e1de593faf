"""Per-token statistics where the true distribution is known, from one pass over blocks of rows.

The logits of M positions and V tokens never exist at once: a block of rows is computed, used for
all statistics, and overwritten.  Within a block the arithmetic is that of the model (float32, or
float64 where the model is float64); all results are float64.

No logarithm of a softmax is taken: ``log q = logit - logsumexp(logits)``.  The KL between two
models is summed as ``p (exp(-d) - 1 + d)`` with ``d = log p - log q``, in float64: each term is at
least zero, so the sum is, and equal models give exactly zero.

Axes: M rows, B rows of a block, V vocabulary, K entries of the true distributions of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_rows

__all__ = ["RowStatistics", "TrueDistributions", "row_statistics"]

# The size of a block of logits, which stays in the processor's cache for all passes over it.
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class TrueDistributions:
    """The true distributions of M rows: their tokens of non-zero probability, row after row."""

    row_K: Int[np.ndarray, "K"]
    """The row of each entry, not decreasing."""
    token_K: Int[np.ndarray, "K"]
    probability_K: Float[np.ndarray, "K"]


@dataclass
class RowStatistics:
    """The statistics of each row, and of each entry of the true distributions (`_K`)."""

    entropy: Float[np.ndarray, "M"]
    """H(q) in nats."""
    top1: Int[np.ndarray, "M"]
    """The most probable token."""
    top1_probability: Float[np.ndarray, "M"]
    sum_of_squares: Float[np.ndarray, "M"]
    """Σ q², the collision probability, for the Brier score."""
    log_q_K: Float[np.ndarray, "K"]
    """log q of each entry of the true distributions."""
    in_top5_K: Float[np.ndarray, "K"]
    """1 where the entry is among the model's five most probable tokens of its row."""
    kl_from_reference: Float[np.ndarray, "M"] | None = None
    """KL(reference‖model) in nats."""
    reference_top1: Int[np.ndarray, "M"] | None = None


@torch.inference_mode()
def row_statistics(
    predictions: Predictions,
    truth: TrueDistributions,
    reference: Predictions | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> RowStatistics:
    """All statistics of `predictions`, and its KL from `reference` where one is given.

    Raises `InvalidValueError` naming the first row whose logits contain NaN or +inf, or only -inf.
    """
    M, V = len(predictions), predictions.vocabulary_size
    if reference is not None and (len(reference), reference.vocabulary_size) != (M, V):
        raise InvalidValueError(
            f"the reference has {len(reference)} rows over {reference.vocabulary_size} tokens, the "
            f"predictions {M} over {V}: both must predict the same positions"
        )
    statistics = RowStatistics(
        entropy=np.empty(M),
        top1=np.empty(M, dtype=np.int64),
        top1_probability=np.empty(M),
        sum_of_squares=np.empty(M),
        log_q_K=np.empty(len(truth.row_K)),
        in_top5_K=np.empty(len(truth.row_K)),
        kl_from_reference=None if reference is None else np.empty(M),
        reference_top1=None if reference is None else np.empty(M, dtype=np.int64),
    )
    size = max(1, block_bytes // (4 * V))
    for start in range(0, M, size):
        rows = slice(start, min(start + size, M))
        entries = slice(*np.searchsorted(truth.row_K, [rows.start, rows.stop]))
        # A model's device may be an accelerator, and some have no float64.
        logits_BV = predictions.logits(rows).cpu()
        normaliser_B1 = torch.logsumexp(logits_BV, dim=1, keepdim=True)
        check_rows(normaliser_B1[:, 0], start)
        top_B5, token_B5 = logits_BV.topk(min(5, V), dim=1)
        row_K = torch.from_numpy(truth.row_K[entries] - start)
        logit_K = logits_BV[row_K, torch.from_numpy(truth.token_K[entries]).long()]
        statistics.log_q_K[entries] = (logit_K - normaliser_B1[row_K, 0]).double().numpy()
        statistics.in_top5_K[entries] = (logit_K >= top_B5[row_K, -1]).numpy()
        statistics.top1[rows] = token_B5[:, 0].numpy()
        if reference is not None:
            assert statistics.kl_from_reference is not None
            assert statistics.reference_top1 is not None
            reference_logits_BV = reference.logits(rows).cpu()
            statistics.reference_top1[rows] = reference_logits_BV.argmax(dim=1).numpy()
            statistics.kl_from_reference[rows] = _kl(
                reference_logits_BV, logits_BV, normaliser_B1
            ).numpy()
        log_q_BV = logits_BV.sub_(normaliser_B1)
        q_BV = log_q_BV.exp()
        statistics.top1_probability[rows] = q_BV.amax(dim=1).double().numpy()
        # 0 × -inf is 0 here: a token of probability 0 adds nothing.
        statistics.entropy[rows] = -torch.sum(
            q_BV * log_q_BV.clamp_min(torch.finfo(q_BV.dtype).min), dim=1, dtype=torch.float64
        ).numpy()
        statistics.sum_of_squares[rows] = q_BV.square_().sum(dim=1, dtype=torch.float64).numpy()
    return statistics


def _kl(
    p_logits_BV: Float[Tensor, "B V"],
    q_logits_BV: Float[Tensor, "B V"],
    q_normaliser_B1: Float[Tensor, "B 1"],
) -> Float[Tensor, "B"]:
    """KL(p‖q) of each row, at least zero, inf where q excludes what p does not.

    Where the normalisers are off by a rounding ε, the error of the sum is of order ε².
    """
    p_normaliser_B1 = torch.logsumexp(p_logits_BV, dim=1, keepdim=True)
    difference = p_logits_BV.to(torch.float64, copy=True).sub_(q_logits_BV)
    difference.sub_(p_normaliser_B1.double() - q_normaliser_B1.double())
    p_BV = (p_logits_BV - p_normaliser_B1).exp_()
    terms = torch.expm1(-difference).add_(difference).mul_(p_BV)
    # p = 0: the term's limit is q.
    impossible = p_BV == 0
    if bool(impossible.any()):
        terms = torch.where(impossible, (q_logits_BV - q_normaliser_B1).exp().double(), terms)
    return terms.sum(dim=1)
