"""Sums in a fixed order: a balanced binary tree over the pieces of a batch.

Floating-point sums depend on their order.  With a power of two of pieces, any equal contiguous
shares of them are whole subtrees: processes that each add their own share, and then add the shares
by the same rule, get the very bits of one process that adds all pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["TreeSum", "add_tensors", "tree_sum"]

Value = TypeVar("Value")


class TreeSum(Generic[Value]):
    """Adds values as they come; at most 1 + log2 of their number are kept.

    >>> total = TreeSum(lambda a, b: f"({a}+{b})")
    >>> for name in "abcdef":
    ...     total.push(name)
    >>> total.result()
    '(((a+b)+(c+d))+(e+f))'
    """

    def __init__(self, add: Callable[[Value, Value], Value]) -> None:
        self._add = add
        self._subtrees: list[tuple[int, Value]] = []

    def push(self, value: Value) -> None:
        """Add a value, after those before it."""
        size = 1
        while self._subtrees and self._subtrees[-1][0] == size:
            _, left = self._subtrees.pop()
            size, value = 2 * size, self._add(left, value)
        self._subtrees.append((size, value))

    def result(self) -> Value:
        """The sum of at least one value; nothing is left after it."""
        _, value = self._subtrees.pop()
        while self._subtrees:
            _, left = self._subtrees.pop()
            value = self._add(left, value)
        return value


def tree_sum(values: Iterable[Value], add: Callable[[Value, Value], Value]) -> Value:
    """The sum of at least one value."""
    total = TreeSum(add)
    for value in values:
        total.push(value)
    return total.result()


def add_tensors(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """`left`, to which `right` has been added in place."""
    torch._foreach_add_(left, right)
    return left
