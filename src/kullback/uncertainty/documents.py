"""The documents of a text: where each begins, and how many there are in effect.

Axes: M tokens in text order, G documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Documents", "effective_number"]


@dataclass(frozen=True)
class Documents:
    """Start and size of each document, once the tokens of a document are contiguous."""

    order_M: Int[np.ndarray, "M"] | None
    """The tokens document by document, in text order within each; None if they already are."""
    start_G: Int[np.ndarray, "G"]
    size_G: Int[np.ndarray, "G"]

    @classmethod
    def of(cls, document_M: Int[np.ndarray, "M"] | None, tokens: int) -> Documents:
        """The documents of `tokens` tokens, given each token's document; None is one document.

        >>> Documents.of(np.array([7, 7, 3, 7]), 4).size_G
        array([1, 3])
        """
        if document_M is None:
            return cls(None, np.zeros(1, np.int64), np.array([tokens]))
        order_M = None
        start_G = _run_starts(document_M)
        if len(np.unique(document_M[start_G])) < len(start_G):
            order_M = np.argsort(document_M, kind="stable")
            start_G = _run_starts(document_M[order_M])
        return cls(order_M, start_G, np.diff(start_G, append=tokens))

    def arranged(self, values_M: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
        """Values of tokens, document by document."""
        return values_M if self.order_M is None else values_M[self.order_M]

    def sums(self, values_M: Float[np.ndarray, "M"]) -> Float[np.ndarray, "G"]:
        """Sums over each document."""
        sums: Float[np.ndarray, "G"] = np.add.reduceat(self.arranged(values_M), self.start_G)
        return sums


def effective_number(x_G: Float[np.ndarray, "G"]) -> float:
    """The number of equal documents with the same variance: (Σx)² / Σx² (Kish 1965, sect. 11.7).

    >>> effective_number(np.array([2.0, 2.0, 2.0])), effective_number(np.array([1.0, 0.0]))
    (3.0, 1.0)
    """
    squares = float(x_G @ x_G)
    return float(x_G.sum()) ** 2 / squares if squares > 0 else 0.0


def _run_starts(document_M: Int[np.ndarray, "M"]) -> Int[np.ndarray, "G"]:
    return np.concatenate([[0], np.flatnonzero(document_M[1:] != document_M[:-1]) + 1])
