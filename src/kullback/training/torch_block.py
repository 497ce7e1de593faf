"""A block of the mini-GPT in torch's operations, for accelerators.

The same function as :class:`kullback.training.gpt.Block`, and the same weights.  It has neither
complex numbers nor autograd functions of our own, so that `torch.compile` makes one graph of it,
which all blocks share: weights are arguments.

Axes: M tokens, N sequences, T positions of a row, D width, H heads, K head width, P = K / 2 rotated
pairs, C = 3 × D.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.training.packed_attention import PackedLayout

__all__ = ["BlockWeights", "Rows", "compiled_block", "forget_compiled_blocks", "torch_block"]


class BlockWeights(NamedTuple):
    """The parameters of a block."""

    attention_norm: Float[Tensor, "D"]
    q: Float[Tensor, "D D"]
    k: Float[Tensor, "D D"]
    v: Float[Tensor, "D D"]
    o: Float[Tensor, "D D"]
    mlp_norm: Float[Tensor, "D"]
    gate: Float[Tensor, "F D"]
    up: Float[Tensor, "F D"]
    down: Float[Tensor, "D F"]


class Rows(NamedTuple):
    """Where the tokens are in N rows of T; the indices are None where the tokens are the rows."""

    token_of_row_NT: Int[Tensor, "N*T"] | None
    row_of_token_M: Int[Tensor, "M"] | None
    sequences: int
    longest: int

    @classmethod
    def of(cls, layout: PackedLayout | tuple[int, int]) -> Rows:
        """Those of a layout, or of so many sequences of so many tokens."""
        if isinstance(layout, tuple):
            return cls(None, None, *layout)
        return cls(
            layout.token_of_row_NT, layout.row_of_token_M, layout.sequences, layout.longest
        )  # fmt: skip


def torch_block(
    x_MD: Float[Tensor, "M D"],
    rotation_TP2: Float[Tensor, "T P 2"],
    weights: BlockWeights,
    rows: Rows,
    heads: int,
    eps: float,
    bfloat16: bool,
) -> Float[Tensor, "M D"]:
    """The residual stream after the block, in the type of `x_MD`.

    `rotation_TP2` are cosine and sine of the angle of each pair at each position.
    """
    dtype = torch.bfloat16 if bfloat16 else x_MD.dtype
    y_MD = F.rms_norm(x_MD, weights.attention_norm.shape, weights.attention_norm, eps).to(dtype)
    qkv_MC = F.linear(y_MD, torch.cat((weights.q, weights.k, weights.v)).to(dtype))
    if rows.token_of_row_NT is not None:
        qkv_MC = qkv_MC.index_select(0, rows.token_of_row_NT)
    qkv = qkv_MC.view(rows.sequences, rows.longest, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mixed_NHTK = F.scaled_dot_product_attention(
        _rotated(qkv[0], rotation_TP2), _rotated(qkv[1], rotation_TP2), qkv[2], is_causal=True
    )
    mixed_MD = mixed_NHTK.transpose(1, 2).reshape(-1, x_MD.shape[1])
    if rows.row_of_token_M is not None:
        mixed_MD = mixed_MD.index_select(0, rows.row_of_token_M)
    x_MD = x_MD + F.linear(mixed_MD, weights.o.to(dtype))
    y_MD = F.rms_norm(x_MD, weights.mlp_norm.shape, weights.mlp_norm, eps).to(dtype)
    gate_MF, up_MF = F.linear(y_MD, torch.cat((weights.gate, weights.up)).to(dtype)).chunk(2, 1)
    return x_MD + F.linear(F.silu(gate_MF) * up_MF, weights.down.to(dtype))


def _rotated(
    x_NHTK: Float[Tensor, "N H T K"], rotation_TP2: Float[Tensor, "T P 2"]
) -> Float[Tensor, "N H T K"]:
    """Coordinate i of each head turned with coordinate i + P, in the type of the angles."""
    cos_TP, sin_TP = rotation_TP2.unbind(-1)
    a, b = x_NHTK.chunk(2, -1)
    rotated = torch.cat((a * cos_TP - b * sin_TP, b * cos_TP + a * sin_TP), -1)
    return rotated.to(x_NHTK.dtype)


@cache
def compiled_block() -> Callable[..., Float[Tensor, "M D"]]:
    """`torch_block` by `torch.compile`, which compiles when it is called; all of it, or an error.

    Shapes that change from step to step are compiled a second time, for all shapes.
    """
    compiled: Callable[..., Tensor] = torch.compile(torch_block, fullgraph=True)
    return compiled


def forget_compiled_blocks() -> None:
    """Begin anew: torch compiles a function at most eight times, for all models of a process."""
    torch._dynamo.reset()
    compiled_block.cache_clear()
