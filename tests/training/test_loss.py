"""Gradients of shards."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from interrupted_runs import CONFIG
from kullback.training.gpt import GPT
from kullback.training.loss import gradients
from kullback.training.state import TrainingState
from tiny_runs import sizes, weather


def test_gradients_are_those_of_the_mean_over_the_batch(tmp_path: Path):
    """The shards' gradients add up to that of torch's cross-entropy over the whole batch."""
    batches = weather(tmp_path)
    gpt = GPT(sizes(batches), seed=1)
    state, shards = TrainingState(gpt, CONFIG), batches.shards(0, 3)
    total = sum(len(shard.targets_M) for shard in shards)
    ours = [
        sum(parts) for parts in zip(*(gradients(state, s, total)[0] for s in shards), strict=True)
    ]
    (whole,) = batches.shards(0, 1)
    logits = gpt.hidden_packed(whole.inputs_M, whole.layout) @ gpt.head_weight.T
    loss = F.cross_entropy(logits, whole.targets_M)
    theirs = torch.autograd.grad(loss, list(gpt.parameters()))
    torch.testing.assert_close(ours, list(theirs), rtol=1e-4, atol=1e-6)
