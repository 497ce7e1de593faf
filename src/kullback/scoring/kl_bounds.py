"""Bounds of a KL between distributions of which only the most probable tokens are known, in nats.

**Lower bound.**  Group the tokens into cells: the KL between the masses of the cells is at most the
KL between the tokens (the data-processing inequality; Cover and Thomas 2006, Elements of
Information Theory, theorem 2.7.1, the log sum inequality).  A token is a cell of its own where its
probability is known in both distributions; all other tokens are one cell, whose masses are known.
With all tokens known the bound is the KL itself.

**Upper bound.**  Where the candidate q is complete and the reference p truncated, the unknown mass
R of p can be on any tokens that p does not name, at most c, the K-th probability, on each.  The KL
is convex in p, so it is largest at a corner: c on as many tokens as R fills, the remainder on one
more, and these the tokens that are least probable under q.  That is attained, so no smaller bound
holds for all p.  Where the candidate is truncated, a token that it does not name may have
probability 0, and unless the reference gives such tokens no mass the KL is unbounded: the bound is
inf.

All in float64.  Axes: M rows, B rows of a chunk, V vocabulary, K named tokens of a row (its top-k
and its target), J named tokens of the other model, N unnamed tokens, W cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_rows
from kullback.predictions.truncated import TruncatedPredictions

__all__ = ["KLBounds", "kl_bounds"]

CHUNK_BYTES = 32 << 20
ROWS = 4096
NOTE_INFINITE = (
    "no upper bound: the candidate's probability of tokens outside of its top k is unknown, "
    "and may be 0"
)
NOTE_LOWER = (
    "a lower bound: tokens whose probability is not known in both models are grouped into one"
)


@dataclass(frozen=True, eq=False)
class KLBounds:
    """A lower and an upper bound of KL(reference‖candidate) in each row; nats."""

    lower_M: Float[np.ndarray, "M"]
    upper_M: Float[np.ndarray, "M"]
    """inf where the KL is unbounded."""

    def __len__(self) -> int:
        return len(self.lower_M)

    @property
    def exact(self) -> bool:
        """Whether both bounds are the KL itself, in every row."""
        return bool(np.array_equal(self.lower_M, self.upper_M))

    @property
    def note(self) -> str:
        """What a reader of the bounds must know; empty where they are exact."""
        if self.exact:
            return ""
        unbounded = np.isinf(self.upper_M) & np.isfinite(self.lower_M)
        return f"{NOTE_LOWER}; {NOTE_INFINITE}" if unbounded.any() else NOTE_LOWER


@torch.inference_mode()
def kl_bounds(reference: Predictions, candidate: Predictions) -> KLBounds:
    """Bounds of KL(reference‖candidate) at the same M positions, in nats.

    Either may be `TruncatedPredictions`; where neither is, both bounds are the KL.  Raises
    `InvalidValueError` where rows, targets or vocabularies do not fit, and naming the row where
    logits contain NaN or +inf, or only -inf.

    >>> from kullback.predictions.base import DensePredictions
    >>> p = DensePredictions(torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log())
    >>> q = DensePredictions(torch.tensor([[0.4, 0.2, 0.2, 0.2]]).log())
    >>> top2 = TruncatedPredictions.of(p, torch.tensor([0]), k=2)
    >>> bounds, exact = kl_bounds(top2, q), kl_bounds(p, q)
    >>> [round(float(x[0]), 4) for x in (bounds.lower_M, exact.lower_M, bounds.upper_M)]
    [0.0946, 0.1207, 0.2332]
    """
    M, V = len(reference), reference.vocabulary_size
    if (len(candidate), candidate.vocabulary_size) != (M, V):
        raise InvalidValueError(
            f"the reference has {M} rows over {V} tokens, the candidate {len(candidate)} over "
            f"{candidate.vocabulary_size}: both must predict the same positions, and top-k "
            "recordings must be made with the same vocabulary_size"
        )
    bounds = KLBounds(np.empty(M), np.empty(M))
    any_complete = _is_complete(reference) or _is_complete(candidate)
    size = max(1, CHUNK_BYTES // (8 * V)) if any_complete else ROWS
    for start in range(0, M, size):
        rows = slice(start, min(start + size, M))
        p, q = (_named(predictions, rows) for predictions in (reference, candidate))
        if isinstance(p, _Named) and isinstance(q, _Named):
            lower_B, upper_B = _both_truncated(p, q, rows.start)
        elif isinstance(p, _Named):
            assert isinstance(q, Tensor)
            lower_B, upper_B = _reference_truncated(p, q)
        elif isinstance(q, _Named):
            lower_B, upper_B = _candidate_truncated(p, q)
        else:
            lower_B = upper_B = _terms(p, q).sum(dim=1)
        bounds.lower_M[rows] = lower_B.numpy()
        bounds.upper_M[rows] = upper_B.numpy()
    return bounds


@dataclass(frozen=True, eq=False)
class _Named:
    """The tokens whose probability is known, and the mass of all others."""

    tokens_BK: Int[Tensor, "B K"]
    """The top-k and the target; -1 in place of a target that is in the top-k."""
    log_p_BK: Float[Tensor, "B K"]
    """-inf where the token is -1."""
    log_rest_B: Float[Tensor, "B"]
    """log of the mass of all other tokens."""
    log_most_B: Float[Tensor, "B"]
    """The K-th log-probability: no other token is more probable."""
    targets_B: Int[Tensor, "B"]


def _is_complete(predictions: Predictions) -> bool:
    return not isinstance(predictions, TruncatedPredictions) or (
        predictions.k == predictions.vocabulary_size
    )


def _named(predictions: Predictions, rows: slice) -> _Named | Float[Tensor, "B V"]:
    """What is known of some rows: named tokens, or the log-probabilities of all."""
    if not isinstance(predictions, TruncatedPredictions):
        logits_BV = predictions.logits(rows).cpu().double()
        check_rows(logits_BV.amax(dim=1), rows.start)
        return logits_BV.log_softmax(dim=1)
    tokens_BK = predictions.top_tokens_MK[rows]
    log_p_BK = predictions.top_log_probabilities_MK[rows]
    if _is_complete(predictions):
        return torch.empty_like(log_p_BK).scatter_(1, tokens_BK, log_p_BK)
    target_B1 = predictions.targets_M[rows, None]
    in_top_B1 = (tokens_BK == target_B1).any(dim=1, keepdim=True)
    target_log_p_B1 = predictions.target_log_probability_M[rows, None]
    return _Named(
        torch.cat([tokens_BK, target_B1.masked_fill(in_top_B1, -1)], dim=1),
        torch.cat([log_p_BK, target_log_p_B1.masked_fill(in_top_B1, -torch.inf)], dim=1),
        predictions.log_rest_M[rows],
        log_p_BK[:, -1],
        target_B1[:, 0],
    )


def _terms(log_p: Float[Tensor, "B W"], log_q: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    """p log(p/q) + q - p of each cell, which is never negative and sums to KL."""
    p, q = log_p.exp(), log_q.exp()
    ratio = torch.where(log_p == log_q, 0, log_p - log_q)
    # p (e^(-l) - 1 + l) keeps the digits of a small l; for a large l q - p + p l is as exact.
    terms = torch.where(ratio.abs() < 1, p * (torch.expm1(-ratio) + ratio), q - p + p * ratio)
    # q = 0 < p, also where p is too small for a float.
    terms = torch.where(log_q == -torch.inf, torch.inf, terms)
    # p = 0: the limit is q.  The rounding of a term near zero can fall below it.
    return torch.where(log_p == -torch.inf, q, terms).clamp_min(0)


def _both_truncated(
    p: _Named, q: _Named, first_row: int
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Bounds where both are truncated: cells are the tokens named in both, and all others."""
    differs_B = p.targets_B != q.targets_B
    if bool(differs_B.any()):
        row = int(differs_B.nonzero()[0, 0])
        raise InvalidValueError(
            f"the target of row {first_row + row} is token {int(p.targets_B[row])} in the "
            f"reference and {int(q.targets_B[row])} in the candidate: the recordings are not of "
            "the same text"
        )
    position_BK, is_shared_BK = _positions(p.tokens_BK, q.tokens_BK)
    shared_count_BJ = torch.zeros_like(q.tokens_BK, dtype=torch.int64)
    shared_count_BJ.scatter_add_(1, position_BK, is_shared_BK.long())
    log_p_BK = p.log_p_BK.masked_fill(~is_shared_BK, -torch.inf)
    log_q_BK = q.log_p_BK.gather(1, position_BK).masked_fill(~is_shared_BK, -torch.inf)
    p_rest_B = _plus(p.log_rest_B, p.log_p_BK.masked_fill(is_shared_BK, -torch.inf))
    q_rest_B = _plus(q.log_rest_B, q.log_p_BK.masked_fill(shared_count_BJ > 0, -torch.inf))
    lower_B = _sum(log_p_BK, log_q_BK, p_rest_B, q_rest_B)
    return lower_B, torch.where(p_rest_B == -torch.inf, lower_B, torch.inf)


def _candidate_truncated(
    log_p_BV: Float[Tensor, "B V"], q: _Named
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Bounds where the candidate is truncated, whose named tokens are the cells."""
    log_p_BK, p_rest_B = _split(log_p_BV, q.tokens_BK)
    lower_B = _sum(log_p_BK, q.log_p_BK, p_rest_B, q.log_rest_B)
    return lower_B, torch.where(p_rest_B == -torch.inf, lower_B, torch.inf)


def _reference_truncated(
    p: _Named, log_q_BV: Float[Tensor, "B V"]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Bounds where the reference is truncated, whose named tokens are the cells.

    The KL is largest where the rest of the reference is on the candidate's least probable tokens.
    """
    log_q_BK, q_rest_B = _split(log_q_BV, p.tokens_BK)
    lower_B = _sum(p.log_p_BK, log_q_BK, p.log_rest_B, q_rest_B)
    named_B = _terms(p.log_p_BK, log_q_BK).sum(dim=1)
    # The number of tokens that R fills with c each; R/c just below an integer counts as
    # that integer.
    full_B = (p.log_rest_B - p.log_most_B).exp().nan_to_num_(nan=0.0)
    unnamed_B = log_q_BV.shape[1] - (p.tokens_BK >= 0).sum(dim=1)
    full_B = torch.minimum((full_B * (1 + 1e-12)).floor(), unnamed_B.double()).long()
    rest_B = p.log_rest_B.exp()
    left_B = (rest_B - full_B * p.log_most_B.exp()).clamp_min(0) * (full_B < unnamed_B)
    most = int(torch.minimum(full_B + 1, unnamed_B).max())
    # inf keeps named tokens out of the lowest.
    unnamed_BV = log_q_BV.clone().scatter_(1, *_scattered(p.tokens_BK, log_q_BV, torch.inf))
    lowest_BN = unnamed_BV.topk(most, dim=1, largest=False, sorted=True)[0]
    order_N = torch.arange(most)[None]
    log_c_B1 = p.log_most_B[:, None]
    log_p_BN = torch.where(order_N < full_B[:, None], log_c_B1, -torch.inf)
    log_p_BN = torch.where(order_N == full_B[:, None], left_B[:, None].log(), log_p_BN)
    cross_BN = log_p_BN.exp() * (log_p_BN - lowest_BN)
    cross_BN = torch.where(lowest_BN == -torch.inf, torch.inf, cross_BN)
    cross_BN = torch.where(log_p_BN == -torch.inf, 0, cross_BN)
    # The q - p of the terms of all unnamed tokens together.
    upper_B = named_B + cross_BN.sum(dim=1) + q_rest_B.exp() - rest_B
    upper_B = torch.where(p.log_rest_B == -torch.inf, lower_B, torch.maximum(upper_B, lower_B))
    return lower_B, upper_B


def _sum(
    log_p_BK: Float[Tensor, "B K"],
    log_q_BK: Float[Tensor, "B K"],
    p_rest_B: Float[Tensor, "B"],
    q_rest_B: Float[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """KL over cells: the named tokens, and the rest as one."""
    return _terms(log_p_BK, log_q_BK).sum(dim=1) + _terms(p_rest_B, q_rest_B)


def _split(
    log_p_BV: Float[Tensor, "B V"], tokens_BK: Int[Tensor, "B K"]
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B"]]:
    """log p of some tokens, -inf where the token is -1, and log of the mass of all others."""
    log_p_BK = log_p_BV.gather(1, tokens_BK.clamp_min(0)).masked_fill(tokens_BK < 0, -torch.inf)
    rest_BV = log_p_BV.clone().scatter_(1, *_scattered(tokens_BK, log_p_BV, -torch.inf))
    return log_p_BK, rest_BV.logsumexp(dim=1)


def _scattered(
    tokens_BK: Int[Tensor, "B K"], values_BV: Float[Tensor, "B V"], value: float
) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
    """The columns to write `value` to: the tokens; -1 is replaced by the row's first token."""
    first_B1 = tokens_BK[:, :1]
    tokens_BK = torch.where(tokens_BK < 0, first_B1, tokens_BK)
    return tokens_BK, torch.full_like(tokens_BK, value, dtype=values_BV.dtype)


def _positions(
    tokens_BK: Int[Tensor, "B K"], among_BJ: Int[Tensor, "B J"]
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """The position of each token among others, and whether it is among them; -1 never is."""
    sorted_BJ, order_BJ = among_BJ.sort(dim=1)
    position_BK = torch.searchsorted(sorted_BJ, tokens_BK).clamp_max(among_BJ.shape[1] - 1)
    is_shared_BK = (sorted_BJ.gather(1, position_BK) == tokens_BK) & (tokens_BK >= 0)
    return order_BJ.gather(1, position_BK), is_shared_BK


def _plus(log_rest_B: Float[Tensor, "B"], log_p_BK: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """log of the sum of the rest and the tokens."""
    return torch.cat([log_rest_B[:, None], log_p_BK], dim=1).logsumexp(dim=1)
