"""Causal attention over sequences of different lengths, concatenated without padding.

Sentences of 9 to 23 tokens in one padded batch waste a quarter of the work.  Here a batch is one
flat sequence of M tokens; only attention, the one operation of a transformer across tokens, copies
it into N rows of T columns, and copies its result back.  Padding is at the right end of a row, so
the causal mask hides it from every token.

It computes ``softmax(q k^T / sqrt(K) + mask) v`` (Vaswani et al. 2017, eq. 1) with batched matrix
products and a backward pass of its own.  On rows this short that takes half the time of the fused
kernel, which is made for long ones (``docs/log.md``).

Axes: M tokens, N sequences, T longest sequence, H heads, K head width, B = N × H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["PackedLayout", "packed_attention"]

# Softmax over the last axis is vectorised on CPU only from one vector (16 floats) on.
SHORTEST_ROW = 16


@dataclass(frozen=True)
class PackedLayout:
    """The positions of the flat tokens of a batch in rows."""

    position_M: Int[Tensor, "M"]
    """The position of each token in its sequence, from 0."""
    row_of_token_M: Int[Tensor, "M"]
    """Index of each token in the flattened N×T rows."""
    token_of_row_NT: Int[Tensor, "N*T"]
    """Index of the token at each position of the rows; of any token at padding."""
    sequences: int
    longest: int
    """T: columns of the rows."""
    tokens_of_longest: int
    """Tokens of the longest sequence; T may be a little more."""

    @classmethod
    def of(cls, lengths_N: Int[Tensor, "N"]) -> PackedLayout:
        """The layout of concatenated sequences of these lengths, all at least 1.

        >>> PackedLayout.of(torch.tensor([2, 1])).position_M
        tensor([0, 1, 0])
        """
        tokens_of_longest = int(lengths_N.max())
        longest = max(SHORTEST_ROW, tokens_of_longest)
        ends_N = lengths_N.cumsum(0)
        starts_N = ends_N - lengths_N
        sequence_M = torch.repeat_interleave(torch.arange(len(lengths_N)), lengths_N)
        position_M = torch.arange(int(ends_N[-1])) - starts_N[sequence_M]
        column_T = torch.arange(longest)
        token_of_row_NT = torch.minimum(starts_N[:, None] + column_T, ends_N[:, None] - 1).flatten()
        return cls(
            position_M,
            sequence_M * longest + position_M,
            token_of_row_NT,
            len(lengths_N),
            longest,
            tokens_of_longest,
        )


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        q_MHK: Tensor,
        k_MHK: Tensor,
        v_MHK: Tensor,
        layout: PackedLayout,
    ) -> Tensor:
        q_BTK, k_BTK, v_BTK = (_to_rows(x, layout) for x in (q_MHK, k_MHK, v_MHK))
        T, K = q_BTK.shape[1:]
        mask_TT = q_BTK.new_full((T, T), -torch.inf).triu(1)
        scores_BTT = torch.baddbmm(mask_TT, q_BTK, k_BTK.mT, alpha=K**-0.5)
        weights_BTT = torch.softmax(scores_BTT, dim=-1)
        ctx.save_for_backward(q_BTK, k_BTK, v_BTK, weights_BTT)
        ctx.layout = layout  # type: ignore[attr-defined]
        return _to_tokens(torch.bmm(weights_BTT, v_BTK), layout)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_MHK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BTK, k_BTK, v_BTK, weights_BTT = ctx.saved_tensors  # type: ignore[attr-defined]
        layout = ctx.layout  # type: ignore[attr-defined]
        H, K = grad_MHK.shape[1:]
        # The gradient at padding is zero, not that of the token that is copied there.
        rows = grad_MHK.new_zeros(layout.sequences * layout.longest, H, K)
        rows.index_copy_(0, layout.row_of_token_M, grad_MHK)
        grad_BTK = _heads_first(rows, layout)
        grad_v = torch.bmm(weights_BTT.mT, grad_BTK)
        # Through the softmax: dS = P * (dP - sum(dP * P)).
        grad_S = torch._softmax_backward_data(
            torch.bmm(grad_BTK, v_BTK.mT), weights_BTT, -1, weights_BTT.dtype
        ).mul_(K**-0.5)
        grad_q = torch.bmm(grad_S, k_BTK)
        grad_k = torch.bmm(grad_S.mT, q_BTK)
        return (
            _to_tokens(grad_q, layout),
            _to_tokens(grad_k, layout),
            _to_tokens(grad_v, layout),
            None,
        )


def _to_rows(x_MHK: Tensor, layout: PackedLayout) -> Tensor:
    return _heads_first(x_MHK.index_select(0, layout.token_of_row_NT), layout)


def _heads_first(rows: Tensor, layout: PackedLayout) -> Tensor:
    _, H, K = rows.shape
    rows_NTHK = rows.view(layout.sequences, layout.longest, H, K)
    return rows_NTHK.transpose(1, 2).reshape(-1, layout.longest, K)


def _to_tokens(x_BTK: Tensor, layout: PackedLayout) -> Tensor:
    T, K = x_BTK.shape[1:]
    x_NTHK = x_BTK.view(layout.sequences, -1, T, K).transpose(1, 2)
    return x_NTHK.reshape(layout.sequences * T, -1, K).index_select(0, layout.row_of_token_M)


def packed_attention(
    q_MHK: Float[Tensor, "M H K"],
    k_MHK: Float[Tensor, "M H K"],
    v_MHK: Float[Tensor, "M H K"],
    layout: PackedLayout,
) -> Float[Tensor, "M H K"]:
    """Attention of each token over itself and the earlier tokens of its own sequence."""
    out: Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
        q_MHK, k_MHK, v_MHK, layout
    )
    return out
