"""Causal attention over sequences of different lengths, concatenated without padding.

Sentences of 9 to 23 tokens in one padded batch waste a quarter of the work.  Here a batch is one
flat sequence of M tokens; only attention, the one operation of a transformer across tokens, copies
it into N rows of T columns, and copies its result back.  Padding is at the right end of a row, so
the causal mask hides it from every token.  Sequences of one length are rows already.

It rotates queries and keys and computes ``softmax(q k^T / sqrt(K) + mask) v`` (Su et al. 2021,
eq. 34; Vaswani et al. 2017, eq. 1) with batched matrix products and a backward pass of its own.
Queries are processed in blocks, each against the keys up to its end, which leaves out most of what
the mask hides.  On short rows this is faster than the fused kernel, which is made for long ones
(``docs/log.md``).

Axes: M tokens, N sequences, T longest sequence, H heads, K head width, P = K / 2 rotated pairs,
B = N × H, D = H × K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from kullback.runtime.transfers import to_device

__all__ = ["PackedLayout", "packed_attention"]

# Softmax over the last axis is vectorised on CPU only from one vector (16 floats) on.
SHORTEST_ROW = 16
# Queries of a block: fewer leave out more masked products, and make more calls.
QUERIES = 64


@dataclass(frozen=True)
class PackedLayout:
    """The positions of the flat tokens of a batch in rows."""

    row_of_token_M: Int[Tensor, "M"] | None
    """Index of each token in the flattened N×T rows; None where the tokens are these rows."""
    token_of_row_NT: Int[Tensor, "N*T"] | None
    """Index of the token at each position of the rows; of any token at padding."""
    sequences: int
    longest: int
    """T: columns of the rows."""
    tokens_of_longest: int
    """Tokens of the longest sequence; T may be a little more."""
    bounds_N: Int[Tensor, "N+1"]
    """Sequence n has the flat tokens from the n-th bound until before the next; on the CPU."""

    @classmethod
    def of(cls, lengths_N: Int[Tensor, "N"]) -> PackedLayout:
        """The layout of concatenated sequences of these lengths, all at least 1.

        >>> PackedLayout.of(torch.tensor([2, 1])).row_of_token_M
        tensor([ 0,  1, 16])
        """
        shortest, tokens_of_longest = (int(bound) for bound in lengths_N.aminmax())
        longest = max(SHORTEST_ROW, tokens_of_longest)
        bounds_N = torch.cat((lengths_N.new_zeros(1), lengths_N.cumsum(0)))
        if shortest == longest:
            return cls(None, None, len(lengths_N), longest, longest, bounds_N)
        starts_N, ends_N = bounds_N[:-1], bounds_N[1:]
        sequence_M = torch.repeat_interleave(torch.arange(len(lengths_N)), lengths_N)
        position_M = torch.arange(int(ends_N[-1])) - starts_N[sequence_M]
        column_T = torch.arange(longest)
        token_of_row_NT = torch.minimum(starts_N[:, None] + column_T, ends_N[:, None] - 1).flatten()
        return cls(
            sequence_M * longest + position_M,
            token_of_row_NT,
            len(lengths_N),
            longest,
            tokens_of_longest,
            bounds_N,
        )

    def on(self, device: torch.device) -> PackedLayout:
        """The same with its indices on a device; a GPU gets them while the host continues."""
        if self.row_of_token_M is None or self.token_of_row_NT is None:
            return self
        return replace(
            self,
            row_of_token_M=to_device(self.row_of_token_M, device),
            token_of_row_NT=to_device(self.token_of_row_NT, device),
        )

    def rows(self, x_MC: Float[Tensor, "M C"]) -> Float[Tensor, "N*T C"]:
        """Values of tokens as rows, with those of some token at padding."""
        return x_MC if self.token_of_row_NT is None else x_MC.index_select(0, self.token_of_row_NT)

    def rows_with_zeros(self, x_MC: Float[Tensor, "M C"]) -> Float[Tensor, "N*T C"]:
        """The same with zeros at padding, as a gradient needs it."""
        if self.row_of_token_M is None:
            return x_MC
        rows = x_MC.new_zeros(self.sequences * self.longest, x_MC.shape[1])
        return rows.index_copy_(0, self.row_of_token_M, x_MC)

    def tokens(self, rows_NTC: Float[Tensor, "N*T C"]) -> Float[Tensor, "M C"]:
        """Rows without their padding."""
        if self.row_of_token_M is None:
            return rows_NTC
        return rows_NTC.index_select(0, self.row_of_token_M)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        qkv_MC: Tensor,
        rotation_TP: Tensor,
        heads: int,
        layout: PackedLayout,
    ) -> Tensor:
        N, T, D = layout.sequences, layout.longest, qkv_MC.shape[1] // 3
        K = D // heads
        rows = layout.rows(qkv_MC)
        qkv = rows.new_empty(3, N, heads, T, K)
        torch.mul(_qk_pairs(rows, N, heads), rotation_TP, out=_pairs(qkv[:2]))
        qkv[2].copy_(_heads_first(rows[:, 2 * D :], N, heads))
        q_BTK, k_BTK, v_BTK = qkv.view(3, N * heads, T, K)
        out_BTK, weights = torch.empty_like(q_BTK), []
        for block, keys in _blocks(T):
            scores = torch.bmm(q_BTK[:, block], k_BTK[:, :keys].mT).mul_(K**-0.5)
            late = block.stop - block.start
            hidden = scores.new_full((late, late), -torch.inf).triu_(1)
            scores[:, :, block].add_(hidden)
            weights.append(torch.softmax(scores, dim=-1))
            out_BTK[:, block] = torch.bmm(weights[-1], v_BTK[:, :keys])
        ctx.save_for_backward(qkv, rotation_TP, *weights)
        ctx.layout = layout  # type: ignore[attr-defined]
        mixed = out_BTK.view(N, heads, T, K).transpose(1, 2).reshape(N * T, D)
        return layout.tokens(mixed)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_MD: Tensor
    ) -> tuple[Tensor, None, None, None]:
        qkv, rotation_TP, *weights = ctx.saved_tensors  # type: ignore[attr-defined]
        layout: PackedLayout = ctx.layout  # type: ignore[attr-defined]
        _, N, H, T, K = qkv.shape
        D = H * K
        q_BTK, k_BTK, v_BTK = qkv.view(3, N * H, T, K)
        grad_BTK = _heads_first(layout.rows_with_zeros(grad_MD), N, H).reshape(N * H, T, K)
        grads = torch.empty_like(qkv)
        grad_q, grad_k, grad_v = grads.view(3, N * H, T, K)
        # The last block first: it has all keys, so that its products are stored, not added.
        for (block, keys), weights_BQT in reversed(list(zip(_blocks(T), weights, strict=True))):
            upstream = grad_BTK[:, block]
            # Through the softmax: dS = P * (dP - sum(dP * P)).
            grad_S = torch._softmax_backward_data(
                torch.bmm(upstream, v_BTK[:, :keys].mT), weights_BQT, -1, weights_BQT.dtype
            ).mul_(K**-0.5)
            grad_q[:, block] = torch.bmm(grad_S, k_BTK[:, :keys])
            if keys == T:
                torch.bmm(weights_BQT.mT, upstream, out=grad_v)
                torch.bmm(grad_S.mT, q_BTK[:, block], out=grad_k)
            else:
                grad_v[:, :keys] += torch.bmm(weights_BQT.mT, upstream)
                grad_k[:, :keys] += torch.bmm(grad_S.mT, q_BTK[:, block])
        rows = grad_MD.new_empty(N * T, 3 * D)
        torch.mul(_pairs(grads[:2]), rotation_TP.conj(), out=_qk_pairs(rows, N, H))
        _heads_first(rows[:, 2 * D :], N, H).copy_(grads[2])
        return layout.tokens(rows), None, None, None


def _blocks(T: int) -> Iterator[tuple[slice, int]]:
    """The queries of each block, and how many keys they see."""
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        yield slice(start, end), end


def _heads_first(rows: Tensor, sequences: int, heads: int) -> Tensor:
    """N×T rows of D columns as N×H×T×K, a view."""
    return rows.view(sequences, -1, heads, rows.shape[1] // heads).transpose(1, 2)


def _pairs(x: Tensor) -> Tensor:
    """Adjacent coordinates as complex numbers, a view."""
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


def _qk_pairs(rows: Tensor, sequences: int, heads: int) -> Tensor:
    """The pairs of queries and keys in rows of q, k and v, as 2×N×H×T×P; a view."""
    pairs = _pairs(rows.view(sequences, -1, 3, heads, rows.shape[1] // (3 * heads))[:, :, :2])
    return pairs.permute(2, 0, 3, 1, 4)


def packed_attention(
    qkv_MC: Float[Tensor, "M 3*D"],
    rotation_TP: Complex[Tensor, "T P"],
    heads: int,
    layout: PackedLayout,
) -> Float[Tensor, "M D"]:
    """Attention of each token over itself and the earlier tokens of its own sequence.

    `qkv_MC` are queries, keys and values, each of `heads` × K columns, adjacent coordinates of
    queries and keys being the pairs that `rotation_TP` turns at each of the layout's `longest`
    positions.
    """
    out: Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
        qkv_MC, rotation_TP, heads, layout
    )
    return out
