"""Sums in a fixed order."""

from __future__ import annotations

import pytest
import torch

from kullback.training.summation import TreeSum, add_tensors, tree_sum


@pytest.mark.parametrize("pieces", [2, 8, 16])
def test_equal_shares_of_a_power_of_two_are_subtrees(pieces: int):
    """The sum of the sums of equal shares has the bits of the sum of all pieces."""
    values = list(torch.randn(pieces, 50, generator=torch.Generator().manual_seed(pieces)))
    whole = tree_sum(values, torch.add)
    for share in (1, pieces // 2, pieces):
        parts = [tree_sum(values[i : i + share], torch.add) for i in range(0, pieces, share)]
        assert torch.equal(tree_sum(parts, torch.add), whole)


def test_few_partial_sums_are_kept():
    """Of 1,000 values at most 1 + log2(1,000) are kept at a time."""
    total: TreeSum[int] = TreeSum(lambda a, b: a + b)
    for value in range(1000):
        total.push(value)
        assert len(total._subtrees) <= 11
    assert total.result() == 999 * 1000 // 2


def test_tensors_are_added_in_place():
    """The left operand is the sum, so that no third gradient is in memory."""
    left, right = [torch.ones(3)], [torch.arange(3.0)]
    assert add_tensors(left, right) is left
    assert left[0].tolist() == [1, 2, 3]
