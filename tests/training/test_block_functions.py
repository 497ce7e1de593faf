"""The functions of a block against PyTorch's operations one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.training.block_functions import normalised_linear, swiglu

HEADS = 2


def random(*shape: int) -> Tensor:
    """Return a float64 tensor that wants a gradient."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def adjacent(x: Tensor) -> Tensor:
    """Return the columns of each head with coordinate i beside i + K/2."""
    return x.unflatten(1, (HEADS, 2, -1)).transpose(2, 3).flatten(1)


@pytest.mark.parametrize("rotated_heads", [0, HEADS])
def test_normalised_linear_is_norm_then_linear(rotated_heads: int):
    """Values and the gradients of tokens, norm and matrices are those of torch, to 1e-12."""
    operands = [random(5, 8), random(8), random(8, 8), random(8, 8), random(12, 8)]
    x, norm, *matrices = operands
    ours = normalised_linear(x, norm, 1e-3, *matrices, rotated_heads=rotated_heads)
    y = F.rms_norm(x, norm.shape, norm, 1e-3)
    products = [y @ matrix.T for matrix in matrices]
    if rotated_heads:
        products[:2] = map(adjacent, products[:2])
    theirs = torch.cat(products, dim=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, operands, upstream),
        torch.autograd.grad(theirs, operands, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


def test_swiglu_is_silu_times_up():
    """The value and its derivative are those of torch's silu, and of finite differences."""
    gate_up = random(4, 10)
    theirs = F.silu(gate_up[:, :5]) * gate_up[:, 5:]
    torch.testing.assert_close(swiglu(gate_up), theirs, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(swiglu, (gate_up,))
