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
    "equal rows": [32, 32],
    "several blocks of queries": [130, 70],
    "equal blocks": [128, 128],
}
H, K = 2, 4


def random_qkv(lengths: list[int], width: int = K) -> Tensor:
    """Return queries, keys and values side by side, that want gradients."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (sum(lengths), 3 * H * width)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def rotation(layout: PackedLayout, width: int = K) -> Tensor:
    """Return complex numbers of length 1 for each position and pair."""
    angles = torch.arange(layout.longest, dtype=torch.float64)[:, None] * torch.tensor([0.3, 1.1])
    return torch.polar(torch.ones_like(angles), angles)[:, : width // 2]


def one_at_a_time(qkv: Tensor, rotation_TP: Tensor, lengths: list[int]) -> Tensor:
    """Return causal attention within each sequence alone, by PyTorch."""
    mixed = []
    for rows in qkv.split(lengths):
        q, k, v = rows.view(len(rows), 3, H, -1).permute(1, 2, 0, 3)
        turned = (
            torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotation_TP[: len(rows)]
            for x in (q, k)
        )
        q, k = (torch.view_as_real(x).flatten(-2) for x in turned)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed.append(out.transpose(0, 1).flatten(1))
    return torch.cat(mixed)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_equals_attention_of_each_sequence(lengths: list[int]):
    """Values and all three gradients are those of each sequence alone, to 1e-12."""
    layout = PackedLayout.of(torch.tensor(lengths))
    turn = rotation(layout)
    upstream = torch.randn(sum(lengths), H * K, dtype=torch.float64)
    results = []
    for attend in (
        lambda qkv: packed_attention(qkv, turn, H, layout),
        lambda qkv: one_at_a_time(qkv, turn, lengths),
    ):
        qkv = random_qkv(lengths)
        out = attend(qkv)
        results.append((out, *torch.autograd.grad(out, qkv, upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[1], [2, 5, 1]], ids=str)
def test_gradients_by_finite_differences(lengths: list[int]):
    """The derivative written by hand is the one of finite differences."""
    layout = PackedLayout.of(torch.tensor(lengths))
    qkv, turn = random_qkv(lengths, width=2), rotation(layout, width=2)
    assert torch.autograd.gradcheck(lambda x: packed_attention(x, turn, H, layout), (qkv,))


def test_tokens_see_neither_later_tokens_nor_other_sequences():
    """Changing a token changes the outputs from it to the end of its sequence, and no other."""
    lengths = [4, 5, 3]
    layout = PackedLayout.of(torch.tensor(lengths))
    qkv, turn = random_qkv(lengths).detach(), rotation(layout)
    before = packed_attention(qkv, turn, H, layout)
    qkv[6, H * K : 2 * H * K], qkv[6, 2 * H * K :] = 9.0, -9.0  # token 2 of the second sequence
    changed = (packed_attention(qkv, turn, H, layout) != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [6, 7, 8]


def test_large_scores_do_not_overflow():
    """Scores far beyond exp's range give the finite attention of the largest score."""
    lengths = [3]
    layout = PackedLayout.of(torch.tensor(lengths))
    qkv, turn = random_qkv(lengths).detach(), rotation(layout)
    qkv[:, : H * K] *= 1e4
    out = packed_attention(qkv, turn, H, layout)
    torch.testing.assert_close(out, one_at_a_time(qkv, turn, lengths), rtol=0, atol=1e-12)


def test_layout():
    """Tokens know their row; rows point back at their tokens, padding at a real one."""
    layout = PackedLayout.of(torch.tensor([3, 1, 2]))
    assert (layout.sequences, layout.tokens_of_longest) == (3, 3)
    assert layout.longest >= 3
    places, tokens = layout.row_of_token_M, layout.token_of_row_NT
    assert places is not None
    assert tokens is not None
    assert tokens[places].tolist() == list(range(6))
    assert tokens.shape == (3 * layout.longest,)
    assert tokens.min() >= 0
    assert tokens.max() <= 5


def test_sequences_of_one_length_are_rows():
    """Where all sequences have one length, nothing is copied into rows."""
    layout = PackedLayout.of(torch.tensor([20, 20]))
    x = torch.randn(40, 3)
    assert layout.row_of_token_M is None
    assert layout.rows(x) is x
    assert layout.rows_with_zeros(x) is x
    assert layout.tokens(x) is x
