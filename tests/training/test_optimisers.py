"""Optimisers that do not import `torch._dynamo`, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kullback.training.optimisers import AdamW

SHAPES = [(8, 5), (5,), (3, 4)]


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.0, "betas": (0.9, 0.95)}], ids=str)
def test_adamw_is_torchs(settings: dict[str, object]) -> None:
    """After five steps, with and without a gradient, every bit is that of torch."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = [nn.ParameterList(torch.ones(shape) for shape in SHAPES) for _ in range(2)]
    own = AdamW(ours, lr=0.01, fused=True, **settings)  # type: ignore[arg-type]
    torchs = torch.optim.AdamW(theirs, lr=0.01, fused=True, **settings)  # type: ignore[arg-type]
    for step in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        if step == 2:
            ours[0].grad = theirs[0].grad = None
        own.step()
        torchs.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, torch.ones_like(mine))
    assert own.state_dict()["param_groups"] == torchs.state_dict()["param_groups"]


def test_a_step_needs_no_gradient_of_itself() -> None:
    """The weights are leaves after a step, and a closure computes its gradient in it."""
    weight = nn.Parameter(torch.ones(3))
    optimiser = AdamW([weight], lr=0.1)

    def loss() -> float:
        optimiser.zero_grad()
        value = (weight**2).sum()
        value.backward()
        return value.item()

    assert optimiser.step(loss) == 3.0
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight[0].item() < 1.0
