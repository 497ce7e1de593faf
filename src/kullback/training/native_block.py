"""A block of the mini-GPT on a CPU, in C but for its matrix products.

The same function as :class:`kullback.training.gpt.Block` as one node of the graph, for float32
weights.  Between the products everything is computed in one sweep
(:mod:`kullback.training.block_library`).  Where C can call the products
(:mod:`kullback.runtime.mkl_products`), each pass of a block is one call without the GIL, for
which threads wait otherwise; elsewhere they are torch's.

With bfloat16 the operands of products are bfloat16, and so are the results of torch's products,
gradients of weights among them; the residual stream, normalisations, softmax and sums of gradients
are float32.  A weight is rounded once for the forward and backward pass of a piece of a batch.

With u = x / rms(x), the weights of a normalisation multiply the columns of the matrices after it.
Of a token only u, 1/rms, q, k, v, the normalisers and the output of attention, gate and up are kept
for the backward pass, and of the weights the scaled and rounded copies: the weights of attention
and SwiGLU are computed again.

Axes: M tokens, D width, H heads, F width of the MLP, C rows of all matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from kullback.runtime.mkl_products import mkl_products
from kullback.runtime.processor import multiplies
from kullback.training.block_library import BlockFunctions, BlockShape, Kept, Positions
from kullback.training.packed_attention import PackedLayout
from kullback.training.torch_block import BlockWeights

__all__ = ["native_block", "positions_of", "product_in_c"]

# The width up to which C calls MKL's products of bfloat16; above it those of oneDNN, which torch
# calls, are not slower.  CPU time of a step with oneDNN's and with MKL's: 50 and 38 ms at 4 × 4 ×
# 128, 845 and 930 ms at 6 × 6 × 384, 12 windows of 256 (in a slow state of the machine 1,152 and
# 1,064).
WIDEST_BFLOAT16 = 256


def positions_of(
    layout: PackedLayout | tuple[int, int], rotation_TP: Complex[Tensor, "T P"]
) -> Positions:
    """Where the sequences of a layout are, or so many of so many tokens, with their rotation."""
    if isinstance(layout, tuple):
        sequences, length = layout
        bounds = torch.arange(0, (sequences + 1) * length, length)
    else:
        bounds = layout.bounds_N
    return Positions(bounds, rotation_TP.real.contiguous(), rotation_TP.imag.contiguous())


class _Block(torch.autograd.Function):
    """A block whose products are torch's."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x_MD: Tensor,
        functions: BlockFunctions,
        positions: Positions,
        heads: int,
        eps: float,
        dtype: torch.dtype,
        *weights: Tensor,
    ) -> Tensor:
        w, x_MD = BlockWeights(*weights), x_MD.contiguous()
        qkv_CD = _scaled(functions, (w.q, w.k, w.v), w.attention_norm, dtype)
        gate_up_CD = _scaled(functions, (w.gate, w.up), w.mlp_norm, dtype)
        o_DD, down_DF = w.o.to(dtype), w.down.to(dtype)
        _, unit_MD, inverse_M = functions.normalise(x_MD, None, eps, dtype)
        qkv_MC = _product(unit_MD, qkv_CD.T)
        attended = functions.attention(qkv_MC, positions, heads)
        y_MD = _product(attended[0], o_DD.T)
        x_MD, mlp_unit_MD, mlp_inverse_M = functions.normalise(x_MD, y_MD, eps, dtype)
        gate_up = _product(mlp_unit_MD, gate_up_CD.T)
        swiglu_MF = functions.swiglu(gate_up)
        ctx.save_for_backward(
            unit_MD, inverse_M, qkv_MC, *attended, mlp_unit_MD, mlp_inverse_M, gate_up,
            qkv_CD, o_DD, gate_up_CD, down_DF, *weights,
        )  # fmt: skip
        ctx.rest = functions, positions, heads  # type: ignore[attr-defined]
        if dtype == torch.float32:
            return x_MD.addmm_(swiglu_MF, down_DF.T)
        return functions.add(x_MD, _product(swiglu_MF, down_DF.T))

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_MD: Tensor
    ) -> tuple[Tensor | None, ...]:
        (
            unit_MD, inverse_M, qkv_MC, mixed_MD, normaliser_HM, mlp_unit_MD, mlp_inverse_M,
            gate_up, qkv_CD, o_DD, gate_up_CD, down_DF, *weights,
        ) = ctx.saved_tensors  # type: ignore[attr-defined] # fmt: skip
        functions, positions, heads = ctx.rest  # type: ignore[attr-defined]
        w = BlockWeights(*weights)
        grad_MD = grad_MD.contiguous()
        rounded_MD = grad_MD.to(qkv_MC.dtype)
        grad_gate_up, swiglu_MF = functions.swiglu_backward(
            gate_up, _product(rounded_MD, down_DF)
        )  # fmt: skip
        grad_down = _product(rounded_MD.T, swiglu_MF).float()
        grad_MD, rounded_MD = functions.normalise_backward(
            _product(grad_gate_up, gate_up_CD), mlp_unit_MD, mlp_inverse_M, grad_MD
        )
        grad_mlp_norm, (grad_gate, grad_up) = _unscaled(
            functions, _product(grad_gate_up.T, mlp_unit_MD), (w.gate, w.up), w.mlp_norm
        )
        grad_o = _product(rounded_MD.T, mixed_MD).float()
        grad_qkv = functions.attention_backward(
            qkv_MC, positions, heads, (mixed_MD, normaliser_HM), _product(rounded_MD, o_DD)
        )
        grad_MD, _ = functions.normalise_backward(
            _product(grad_qkv, qkv_CD), unit_MD, inverse_M, grad_MD
        )
        grad_norm, (grad_q, grad_k, grad_v) = _unscaled(
            functions, _product(grad_qkv.T, unit_MD), (w.q, w.k, w.v), w.attention_norm
        )
        of_weights = BlockWeights(
            grad_norm, grad_q, grad_k, grad_v, grad_o, grad_mlp_norm, grad_gate, grad_up, grad_down
        )
        return grad_MD, None, None, None, None, None, *of_weights


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in their type, summed in float32."""
    if multiplies(a.dtype):
        return a @ b
    return (a.float() @ b.float()).to(a.dtype)


def _scaled(
    functions: BlockFunctions, matrices: Sequence[Tensor], norm_D: Tensor, dtype: torch.dtype
) -> Tensor:
    """All rows of the matrices, times the weights of the normalisation before them."""
    rows = [len(matrix) for matrix in matrices]
    joint_CD = norm_D.new_empty(sum(rows), len(norm_D), dtype=dtype)
    for part, matrix in zip(torch.split(joint_CD, rows), matrices, strict=True):
        functions.scale(matrix, norm_D, part)
    return joint_CD


def _unscaled(
    functions: BlockFunctions, grad_CD: Tensor, matrices: Sequence[Tensor], norm_D: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of the weights of a normalisation, and of the matrices after it."""
    grad_norm_D = torch.zeros_like(norm_D)
    parts = torch.split(grad_CD, [len(matrix) for matrix in matrices])
    grads = [
        functions.scale_backward(part, matrix, norm_D, grad_norm_D)
        for part, matrix in zip(parts, matrices, strict=True)
    ]
    return grad_norm_D, grads


def product_in_c(dtype: torch.dtype, width: int) -> int | None:
    """The address of the function by which C multiplies operands of that type, where that pays."""
    products = mkl_products()
    if products is None or (dtype == torch.bfloat16 and width > WIDEST_BFLOAT16):
        return None
    return products.of(dtype)


class _WholeBlock(torch.autograd.Function):
    """A block, products included, in one call of C each for the forward and the backward pass."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x_MD: Tensor,
        functions: BlockFunctions,
        shape: BlockShape,
        *weights: Tensor,
    ) -> Tensor:
        out_MD, kept = functions.block(x_MD.contiguous(), shape, BlockWeights(*weights))
        ctx.save_for_backward(*kept, *weights)
        ctx.rest = functions, shape  # type: ignore[attr-defined]
        return out_MD

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_MD: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        functions, shape = ctx.rest  # type: ignore[attr-defined]
        kept, weights = saved[: len(Kept._fields)], saved[len(Kept._fields) :]
        grad_x_MD, of_weights = functions.block_backward(
            grad_MD.contiguous(), shape, BlockWeights(*weights), Kept(*kept)
        )
        return grad_x_MD, None, None, *of_weights


def native_block(
    x_MD: Float[Tensor, "M D"],
    functions: BlockFunctions,
    positions: Positions,
    weights: BlockWeights,
    heads: int,
    eps: float,
    bfloat16: bool,
) -> Float[Tensor, "M D"]:
    """The residual stream after the block; all in float32, the weights contiguous."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    gemm = product_in_c(dtype, x_MD.shape[1])
    if gemm is not None:
        shape = BlockShape(gemm, dtype, positions, heads, eps)
        whole: Tensor = _WholeBlock.apply(x_MD, functions, shape, *weights)  # type: ignore[no-untyped-call]
        return whole
    out: Tensor = _Block.apply(  # type: ignore[no-untyped-call]
        x_MD, functions, positions, heads, eps, dtype, *weights
    )
    return out
