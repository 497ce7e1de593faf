"""Sequences whose items are made when they are read, so that not all are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

__all__ = ["MadeItems"]

Item = TypeVar("Item")


class MadeItems(Sequence[Item], Generic[Item]):
    """The items that `make` returns for `places`; each is made again each time it is read.

    >>> squares = MadeItems(lambda place: place**2, range(5))
    >>> len(squares), squares[-1], list(squares[1:3])
    (5, 16, [1, 4])
    """

    def __init__(self, make: Callable[[int], Item], places: range) -> None:
        self._make, self._places = make, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> MadeItems[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | MadeItems[Item]:
        if isinstance(place, slice):
            return MadeItems(self._make, self._places[place])
        return self._make(self._places[place])
