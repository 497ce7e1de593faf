"""Attention over sequences laid end to end against PyTorch's, one sequence at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.training.packed_attention import PackedLayout, packed_attention

LENGTHS = {
    "one token": [1],
    "single tokens": [1, 1, 1],
    "equal": [7, 7, 7],
    "very different": [1, 40, 3, 17, 2],
    "the shortest row": [16, 15],
    "longer than it": [17, 1],
}
H, K = 2, 4


def random_qkv(lengths: list[int], width: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values that want gradients."""
    generator = torch.Generator().manual_seed(sum(lengths))
    q, k, v = torch.randn(
        3, sum(lengths), H, width, dtype=torch.float64, generator=generator
    ).unbind()
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def one_at_a_time(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Return causal attention within each sequence alone, by PyTorch."""
    parts = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True)
    mixed = [F.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return torch.cat(mixed, dim=1).transpose(0, 1)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_equals_attention_of_each_sequence(lengths: list[int]):
    """Values and all three gradients are those of each sequence alone, to 1e-12."""
    layout = PackedLayout.of(torch.tensor(lengths))
    upstream = torch.randn(sum(lengths), H, K, dtype=torch.float64)
    results = []
    for attend in (
        lambda q, k, v: packed_attention(q, k, v, layout),
        lambda q, k, v: one_at_a_time(q, k, v, lengths),
    ):
        qkv = random_qkv(lengths)
        out = attend(*qkv)
        results.append((out, *torch.autograd.grad(out, qkv, upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[1], [2, 5, 1]], ids=str)
def test_gradients_by_finite_differences(lengths: list[int]):
    """The derivative written by hand is the one of finite differences."""
    layout = PackedLayout.of(torch.tensor(lengths))
    qkv = random_qkv(lengths, width=2)
    assert torch.autograd.gradcheck(lambda *x: packed_attention(*x, layout), qkv)


def test_tokens_see_neither_later_tokens_nor_other_sequences():
    """Changing a token changes the outputs from it to the end of its sequence, and no other."""
    lengths = [4, 5, 3]
    layout = PackedLayout.of(torch.tensor(lengths))
    q, k, v = (x.detach() for x in random_qkv(lengths))
    before = packed_attention(q, k, v, layout)
    k[6], v[6] = 9.0, -9.0  # token 2 of the second sequence
    changed = (packed_attention(q, k, v, layout) != before).any(dim=(1, 2))
    assert changed.nonzero().flatten().tolist() == [6, 7, 8]


def test_large_scores_do_not_overflow():
    """Scores far beyond exp's range give the finite attention of the largest score."""
    lengths = [3]
    layout = PackedLayout.of(torch.tensor(lengths))
    q, k, v = (x.detach() for x in random_qkv(lengths))
    out = packed_attention(1e4 * q, k, v, layout)
    torch.testing.assert_close(out, one_at_a_time(1e4 * q, k, v, lengths), rtol=0, atol=1e-12)


def test_layout():
    """Tokens know their place and row; rows point back at their tokens, padding at a real one."""
    layout = PackedLayout.of(torch.tensor([3, 1, 2]))
    assert layout.position_M.tolist() == [0, 1, 2, 0, 0, 1]
    assert (layout.sequences, layout.tokens_of_longest) == (3, 3)
    assert layout.longest >= 3
    assert layout.token_of_row_NT[layout.row_of_token_M].tolist() == list(range(6))
    assert layout.token_of_row_NT.shape == (3 * layout.longest,)
    assert layout.token_of_row_NT.min() >= 0
    assert layout.token_of_row_NT.max() <= 5
