"""Counts, the empirical distribution and the add-½ estimate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.theory.empirical import add_half, count, empirical_distribution


def test_counts_and_the_empirical_distribution() -> None:
    """The empirical distribution is the fraction of each outcome, unseen ones included."""
    labels = [[3, 1], [3, 3]]
    assert count(labels, outcomes=5).tolist() == [0, 1, 0, 3, 0]
    assert empirical_distribution(labels, outcomes=5).tolist() == [0, 0.25, 0, 0.75, 0]


def test_add_half() -> None:
    """Each count gets half a sample more: after 3 heads in 3 tosses, tails has ⅛."""
    np.testing.assert_array_equal(add_half([[3, 0], [0, 0]]), [[0.875, 0.125], [0.5, 0.5]])


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: count([[0, 1], [3, 0]], 3), r"labels\[1, 0\] is 3.*\[0, 3\)"),
    (lambda: count([-1], 3), r"labels\[0\] is -1.*\[0, 3\)"),
    (lambda: count([0.5], 3), "labels has dtype float64"),
    (lambda: empirical_distribution([], 3), r"weights\[0\] .*positive"),
    (lambda: add_half([2, 0.5]), r"counts\[1\] is 0.5"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_input_is_named(call: Callable[[], object], message: str) -> None:
    """A wrong argument raises InvalidValueError with its name, its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        call()
