"""The block that `torch.compile` fuses."""

from __future__ import annotations

import shutil

import pytest
import torch

from kullback.training.arithmetic import Arithmetic
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.torch_block import compiled_block


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_block_is_one_graph(bfloat16: bool) -> None:
    """Compiled without a break, all blocks by one compilation, loss and gradients are the same."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled_block.cache_clear()
    gpt = GPT(GPTConfig(29, 32, width=32, layers=3, heads=2, mlp_width=64), seed=1)
    generator = torch.Generator().manual_seed(0)
    tokens_NT = torch.randint(29, (4, 32), generator=generator)
    results = []
    for compiled in (False, True):
        gpt.compute_with(Arithmetic(bfloat16=bfloat16, accelerated=True, compiled=compiled))
        loss = gpt(tokens_NT).square().mean()
        results.append((loss, torch.autograd.grad(loss, list(gpt.parameters()))))
    tolerance = 0.05 if bfloat16 else 1e-4
    for (loss, gradients), (other, others) in [results]:
        torch.testing.assert_close(other, loss, rtol=tolerance, atol=0)
        for a, b in zip(others, gradients, strict=True):
            assert (a - b).norm() <= tolerance * b.norm()
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
