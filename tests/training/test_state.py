"""The optimiser step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kullback.errors import RunError
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.state import TrainingState
from tiny_runs import fingerprint, sizes, weather


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_one_step_is_clipped_muon_and_adamw(decay: float, tmp_path: Path):
    """An update is torch's Muon for the blocks' matrices, AdamW for the rest, after clipping.

    All matrices decay, and the weights of normalisations do not.
    """
    batches = weather(tmp_path)
    config = TrainingConfig(
        clip_norm=0.05, warmup_steps=4, steps=40, muon_lr=0.1, adamw_lr=0.02, weight_decay=decay
    )
    state = TrainingState(GPT(sizes(batches), seed=2), config)
    twin = GPT(sizes(batches), seed=2)
    named = dict(twin.named_parameters())
    begin = {name: weight.detach().clone() for name, weight in named.items()}
    blocks = {n: w for n, w in named.items() if w.ndim == 2 and "layers" in n}
    rest = [w for n, w in named.items() if n not in blocks]
    assert len(blocks) == 7
    muon = torch.optim.Muon(blocks.values(), weight_decay=decay)
    adamw = torch.optim.AdamW(
        [
            {"params": [w for w in rest if w.ndim == 2], "weight_decay": decay},
            {"params": [w for w in rest if w.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        # Norms from 0.02, which is left alone, to 300.
        scale = 10.0 ** (step - 3)
        gradients = [scale * torch.randn(w.shape, generator=generator) for w in named.values()]
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        for weight, gradient in zip(named.values(), gradients, strict=True):
            weight.grad = gradient * min(1.0, config.clip_norm / norm)
        state.update([g.clone() for g in gradients])
        state.step += 1
        for optimiser, lr in ((muon, config.muon_lr), (adamw, config.adamw_lr)):
            for group in optimiser.param_groups:
                group["lr"] = lr * config.learning_rate_factor(step)
            optimiser.step()
    for name, weight in state.model.named_parameters():
        # Muon computes with 8 bits of mantissa, in another order there
        # (tests/training/test_muon.py: 32).
        bound = 0.1 if name in blocks else 1e-4
        moved = (named[name] - begin[name]).norm()
        assert moved > 0.01, name
        assert (weight - named[name]).norm() < bound * moved, name


def test_a_gradient_that_is_not_finite_names_what_is_left(tmp_path: Path):
    """NaN in a gradient is one sentence: the step, the last checkpoint, and what to change."""
    batches = weather(tmp_path)
    state = TrainingState(GPT(sizes(batches)), TrainingConfig(steps=9))
    state.step, state.checkpoint_step = 7, 4
    gradients = [torch.zeros_like(weight) for weight in state.weights]
    gradients[0][0, 0] = torch.nan
    before = fingerprint(state.model)
    with pytest.raises(
        RunError, match=r"nan at step 8; the checkpoint of step 4 .*muon_lr is 0.02"
    ):
        state.update(gradients)
    assert fingerprint(state.model) == before
