"""The loss without logits against PyTorch's with logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.training import linear_cross_entropy as module
from kullback.training.linear_cross_entropy import linear_cross_entropy

M, D, V = 13, 5, 11


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, a head, targets and uneven weights, one of them 0."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, dtype=torch.float64, generator=generator).requires_grad_()
    head = torch.randn(V, D, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randint(V, (M,), generator=generator)
    weight = torch.rand(M, dtype=torch.float64, generator=generator)
    weight[3] = 0.0
    return hidden, head, target, weight


def in_blocks_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a block hold this many rows of float64 logits."""
    monkeypatch.setattr(module, "BLOCK_BYTES", rows * V * 8)


@pytest.mark.parametrize("rows", [1, 4, 12, 13, 14, 1000])
@pytest.mark.parametrize("upstream", [1.0, -2.5])
def test_equals_pytorch(batch, rows: int, upstream: float, monkeypatch: pytest.MonkeyPatch):
    """Sum, rows and gradients equal `F.cross_entropy`'s to 1e-12 wherever the blocks end."""
    in_blocks_of(rows, monkeypatch)
    hidden, head, target, weight = batch
    total, nll = linear_cross_entropy(hidden, head, target, weight)
    gradients = torch.autograd.grad(total * upstream, (hidden, head))

    expected_nll = F.cross_entropy(hidden @ head.T, target, reduction="none")
    expected = (expected_nll * weight).sum()
    expected_gradients = torch.autograd.grad(expected * upstream, (hidden, head))
    torch.testing.assert_close(nll, expected_nll, rtol=0, atol=1e-12)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=1e-12)


def test_gradients_by_finite_differences(batch, monkeypatch: pytest.MonkeyPatch):
    """The gradient computed in the forward pass is the one of finite differences."""
    in_blocks_of(4, monkeypatch)
    hidden, head, target, weight = batch
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, target, weight)[0], (hidden, head)
    )


def test_float32_blocks():
    """In float32, over several blocks of the real size, values agree with float64 to 1e-5."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(600, 16, generator=generator)
    head = torch.randn(1000, 16, generator=generator)
    target = torch.randint(1000, (600,), generator=generator)
    assert module.BLOCK_BYTES // (1000 * 4) < 300
    _, nll = linear_cross_entropy(hidden, head, target, torch.ones(600))
    exact = F.cross_entropy(hidden.double() @ head.double().T, target, reduction="none")
    torch.testing.assert_close(nll.double(), exact, rtol=0, atol=1e-5)


def test_certain_and_hopeless_rows():
    """Logits of ±1000 give 0 nats for the certain target and 2000 for the hopeless one."""
    hidden = torch.tensor([[1000.0], [1000.0]], dtype=torch.float64)
    head = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    _, nll = linear_cross_entropy(
        hidden, head, torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64)
    )
    assert nll.tolist() == [0.0, 2000.0]


def test_rows_carry_no_gradient(batch):
    """Only the weighted sum is differentiable."""
    total, nll = linear_cross_entropy(*batch)
    assert total.requires_grad
    assert not nll.requires_grad


def test_rows_without_weight_do_not_train(batch):
    """A row of weight 0 has a hidden state of gradient 0."""
    hidden, head, target, weight = batch
    total, _ = linear_cross_entropy(hidden, head, target, weight)
    (gradient,) = torch.autograd.grad(total, hidden)
    assert not gradient[3].any()
    assert gradient[4].any()


def test_without_a_gradient_only_the_logits_are_multiplied(batch, monkeypatch: pytest.MonkeyPatch):
    """The very same losses, and no product but that of the logits."""
    products, multiply = list[int](), torch.mm

    def counted(*operands: Tensor, **keywords: Tensor) -> Tensor:
        products.append(1)
        return multiply(*operands, **keywords)

    monkeypatch.setattr(torch, "mm", counted)
    total, nll = linear_cross_entropy(*batch)
    assert len(products) > 1
    products.clear()
    with torch.no_grad():
        other, other_nll = linear_cross_entropy(*batch)
    assert len(products) == 1
    assert torch.equal(other, total)
    assert torch.equal(other_nll, nll)
    assert not other.requires_grad
