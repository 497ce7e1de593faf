"""Differentiable functions of a block: normalisation with the linear map after it, and SwiGLU.

Eager operations on small tensors are limited by their number and by memory, so each function here
is one node of the graph with as few passes over M rows as it needs:

- RMS normalisation multiplies each of M rows by a weight; here the weight multiplies the D columns
  of the matrices after it, which are smaller, and only the division by the norm is left.
- SwiGLU, ``silu(gate) * up``, keeps ``sigmoid(gate)`` so that the backward pass has no exponential.

With `bfloat16` the operands of the products are rounded to it
(:func:`kullback.training.arithmetic.product`); everything else stays as it is.

Axes: M tokens, D width, C rows of all matrices, F width of the MLP.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kullback.training.arithmetic import product

__all__ = ["add_linear", "normalised_linear", "swiglu"]


class _NormalisedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x_MD: Tensor,
        norm_D: Tensor,
        eps: float,
        rotated_heads: int,
        bfloat16: bool,
        *matrices: Tensor,
    ) -> Tensor:
        D = x_MD.shape[1]
        joint_CD = x_MD.new_empty(sum(len(matrix) for matrix in matrices), D)
        for part, matrix in _views(joint_CD, matrices, rotated_heads):
            torch.mul(matrix, norm_D, out=part)
        squares_M1 = torch.linalg.vector_norm(x_MD, dim=1, keepdim=True).square_()
        inverse_M1 = squares_M1.div_(D).add_(eps).rsqrt_()
        unit_MD = x_MD * inverse_M1
        if bfloat16:
            joint_CD = joint_CD.bfloat16()
        ctx.save_for_backward(unit_MD, inverse_M1, joint_CD, norm_D, *matrices)
        ctx.rotated_heads, ctx.bfloat16 = rotated_heads, bfloat16  # type: ignore[attr-defined]
        return product(unit_MD, joint_CD.T, bfloat16)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_MC: Tensor
    ) -> tuple[Tensor | None, ...]:
        unit_MD, inverse_M1, joint_CD, norm_D, *matrices = ctx.saved_tensors  # type: ignore[attr-defined]
        bfloat16: bool = ctx.bfloat16  # type: ignore[attr-defined]
        if bfloat16:
            grad_MC = grad_MC.bfloat16()
        # With u = x / rms(x): dx = (du - u mean(du * u)) / rms(x).
        grad_x = product(grad_MC, joint_CD, bfloat16)
        mean_M1 = (grad_x * unit_MD).mean(dim=1, keepdim=True)
        grad_x.addcmul_(unit_MD, mean_M1, value=-1).mul_(inverse_M1)
        grad_joint = product(grad_MC.T, unit_MD, bfloat16)
        grad_norm = torch.zeros_like(norm_D)
        grads: list[Tensor] = []
        heads = ctx.rotated_heads  # type: ignore[attr-defined]
        for part, matrix in _views(grad_joint, tuple(matrices), heads):
            grad_norm += (part * matrix).flatten(0, -2).sum(0)
            grads.append((part * norm_D).reshape(-1, len(norm_D)))
        return grad_x, grad_norm, None, None, None, *grads


def _views(
    joint_CD: Tensor, matrices: tuple[Tensor, ...], rotated_heads: int
) -> list[tuple[Tensor, Tensor]]:
    """The rows of each matrix in the joint one, and the matrix, as views of equal shapes."""
    parts = torch.split(joint_CD, [len(matrix) for matrix in matrices])
    views = list(zip(parts, matrices, strict=True))
    if rotated_heads:
        # Llama rotates coordinate i of a head with i + K/2; here both become adjacent, equally for
        # q and k, which preserves their dot products.
        D = joint_CD.shape[1]
        for i in range(2):
            part, matrix = views[i]
            views[i] = (
                part.view(rotated_heads, -1, 2, D).transpose(1, 2),
                matrix.view(rotated_heads, 2, -1, D),
            )
    return views


def normalised_linear(
    x_MD: Float[Tensor, "M D"],
    norm_D: Float[Tensor, "D"],
    eps: float,
    *matrices: Float[Tensor, "rows D"],
    rotated_heads: int = 0,
    bfloat16: bool = False,
) -> Float[Tensor, "M C"]:
    """RMS normalisation with the weight `norm_D`, then the products with all matrices in turn.

    With `rotated_heads`, the first two are queries and keys of so many heads, whose coordinates
    come in the order that `kullback.training.packed_attention` takes.
    """
    out: Tensor = _NormalisedLinear.apply(  # type: ignore[no-untyped-call]
        x_MD, norm_D, eps, rotated_heads, bfloat16, *matrices
    )
    return out


def add_linear(
    x_MD: Float[Tensor, "M D"],
    y_MF: Float[Tensor, "M F"],
    matrix_DF: Float[Tensor, "D F"],
    bfloat16: bool = False,
) -> Float[Tensor, "M D"]:
    """`x_MD` plus the products of `y_MF` with the matrix."""
    if bfloat16:
        return x_MD + product(y_MF, matrix_DF.T, bfloat16)
    return torch.addmm(x_MD, y_MF, matrix_DF.T)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, gate_up: Tensor) -> Tensor:
        gate_MF, up_MF = gate_up.chunk(2, dim=1)
        sigmoid_MF = torch.sigmoid(gate_MF)
        silu_MF = sigmoid_MF * gate_MF
        ctx.save_for_backward(gate_up, sigmoid_MF, silu_MF)
        return silu_MF * up_MF

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_MF: Tensor) -> Tensor:
        gate_up, sigmoid_MF, silu_MF = ctx.saved_tensors  # type: ignore[attr-defined]
        grads = torch.empty_like(gate_up)
        grad_gate, grad_up = grads.chunk(2, dim=1)
        torch.mul(grad_MF, silu_MF, out=grad_up)
        # d silu / d gate = silu + sigmoid (1 - silu)
        torch.lerp(silu_MF, silu_MF.new_ones(()), sigmoid_MF, out=grad_gate)
        grad_gate.mul_(grad_MF).mul_(gate_up.chunk(2, dim=1)[1])
        return grads


def swiglu(gate_up: Float[Tensor, "M 2*F"]) -> Float[Tensor, "M F"]:
    """silu(gate) × up of the two halves (Shazeer 2020)."""
    out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out
