"""The documents of a text: where each begins, and how many there are in effect.

Axes: M tokens in text order, m those of one part of them, G documents, g those of one part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int, Num

from kullback.uncertainty.sweeps import Computation

__all__ = [
    "DocumentRuns",
    "DocumentSums",
    "Documents",
    "document_order",
    "documents_of",
    "effective_number",
]

Rows = TypeVar("Rows")


@dataclass(frozen=True)
class Documents:
    """Start and size of each document, the tokens of each being contiguous."""

    start_G: Int[np.ndarray, "G"]
    size_G: Int[np.ndarray, "G"]

    @classmethod
    def of(cls, document_M: Int[np.ndarray, "M"] | None, tokens: int) -> Documents:
        """The documents of `tokens` tokens, given each token's document; None is one document.

        >>> Documents.of(np.array([7, 3, 3, 3]), 4).size_G
        array([1, 3])
        """
        runs = DocumentRuns()
        runs.add(document_M, tokens)
        return runs.documents()

    def within(self, first: int, last: int) -> tuple[slice, Int[np.ndarray, "g"]]:
        """The documents of the tokens `first` to `last`, and where each begins in this part."""
        begin = int(np.searchsorted(self.start_G, first, side="right")) - 1
        end = int(np.searchsorted(self.start_G, last, side="left"))
        return slice(begin, end), np.maximum(self.start_G[begin:end] - first, 0)


class DocumentRuns:
    """The documents of tokens that come in parts; with `check`, none may come back later."""

    def __init__(self, check: bool = True) -> None:
        self.tokens = 0
        self._check = check
        self._last: int | None = None
        self._starts: list[Int[np.ndarray, "g"]] = []
        self._ids: list[Int[np.ndarray, "g"]] = []

    def add(
        self, document_m: Int[np.ndarray, "m"] | None, tokens: int
    ) -> tuple[bool, Int[np.ndarray, "g"]]:
        """Whether the part continues the last document, and where its documents begin in it."""
        if tokens == 0:
            return False, np.empty(0, np.int64)
        if document_m is None:
            start_g, id_g = np.zeros(1, np.int64), np.zeros(1, np.int64)
        else:
            start_g = _run_starts(document_m)
            id_g = document_m[start_g]
        continues = self._last is not None and int(id_g[0]) == self._last
        self._starts.append(start_g[continues:] + self.tokens)
        if self._check:
            self._ids.append(id_g[continues:])
        self._last = int(id_g[-1])
        self.tokens += tokens
        return continues, start_g

    def documents(self) -> Documents:
        """Those of all parts."""
        start_G = np.concatenate(self._starts)
        if self._check:
            different = len(np.unique(np.concatenate(self._ids)))
            assert different == len(start_G), "the tokens of a document are not contiguous"
        return Documents(start_G, np.diff(start_G, append=self.tokens))


def documents_of(
    read: Callable[[Rows], tuple[Int[np.ndarray, "m"] | None, int]],
) -> Computation[Rows, Documents]:
    """The documents of rows whose ids, those of a document being contiguous, and number are read.

    Takes one pass.
    """
    runs = _Runs(read)
    yield runs
    return runs.runs.documents()


class _Runs(Generic[Rows]):
    def __init__(self, read: Callable[[Rows], tuple[Int[np.ndarray, "m"] | None, int]]) -> None:
        self.runs = DocumentRuns()
        self._read = read

    def add(self, rows: Rows, /) -> None:
        self.runs.add(*self._read(rows))


class DocumentSums:
    """Sums of a value over each document."""

    def __init__(self, documents: Documents) -> None:
        self.sums_G = np.zeros(len(documents.start_G))
        self._documents = documents
        self._row = 0

    def add(self, values_m: Float[np.ndarray, "m"]) -> None:
        """The values of the next tokens."""
        if len(values_m):
            last = self._row + len(values_m)
            rows, start_g = self._documents.within(self._row, last)
            self.sums_G[rows] += np.add.reduceat(values_m, start_g)
            self._row = last


def document_order(document_M: Int[np.ndarray, "M"] | None) -> Int[np.ndarray, "M"] | None:
    """The tokens document by document, in text order within each; None if they already are.

    >>> document_order(np.array([7, 7, 3, 7]))
    array([2, 0, 1, 3])
    """
    if document_M is None:
        return None
    id_G = document_M[_run_starts(document_M)]
    if len(np.unique(id_G)) == len(id_G):
        return None
    return np.argsort(document_M, kind="stable")


def effective_number(x_G: Num[np.ndarray, "G"]) -> float:
    """The number of equal documents with the same variance: (Σx)² / Σx² (Kish 1965, sect. 11.7).

    >>> effective_number(np.array([2.0, 2.0, 2.0])), effective_number(np.array([1.0, 0.0]))
    (3.0, 1.0)
    """
    squares = float(x_G @ x_G)
    return float(x_G.sum()) ** 2 / squares if squares > 0 else 0.0


def _run_starts(document_M: Int[np.ndarray, "M"]) -> Int[np.ndarray, "G"]:
    return np.concatenate([[0], np.flatnonzero(document_M[1:] != document_M[:-1]) + 1])
