"""What a model says about the next token, in a form whose size does not depend on the vocabulary.

A language model of V words makes V numbers a token.  Whoever measures it needs them only once, a
block at a time, so predictions are handed over unmade:

* :class:`FactoredPredictions`: hidden states and the head; a block's logits are one matmul away;
* :class:`DensePredictions`: logits (or log-probabilities, which are logits too) that exist already;
* :class:`ComputedPredictions`: a function that makes the rows asked for.

All yield blocks of **logits**: numbers whose softmax over V is the distribution.

Axes: N sequences, T positions, M rows (positions of all sequences), B rows of a block, D width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "ComputedPredictions",
    "DensePredictions",
    "FactoredPredictions",
    "LanguageModel",
    "Predictions",
]


class Predictions(Protocol):
    """Distributions over the next token at M positions."""

    def __len__(self) -> int:
        """M."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    def logits(self, rows: slice) -> Float[Tensor, "B V"]:
        """The logits of `rows`; the caller may overwrite them."""

    def select(self, rows_M: Int[Tensor, "M"]) -> Predictions:
        """The predictions at some of the positions."""


class LanguageModel(Protocol):
    """Anything that predicts the next token after every prefix of a sequence."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> Predictions:
        """Predictions at all N·T positions, row by row; `inputs_NT` begins with `BOS`."""


@dataclass(frozen=True)
class FactoredPredictions:
    """logits = hidden @ head.T, made when asked for."""

    hidden_MD: Float[Tensor, "M D"]
    head_VD: Float[Tensor, "V D"]

    def __len__(self) -> int:
        return len(self.hidden_MD)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.head_VD)

    def logits(self, rows: slice) -> Float[Tensor, "B V"]:
        """One matmul."""
        return self.hidden_MD[rows] @ self.head_VD.T

    def select(self, rows_M: Int[Tensor, "M"]) -> FactoredPredictions:
        """Fewer hidden states, the same head."""
        return FactoredPredictions(self.hidden_MD[rows_M], self.head_VD)


@dataclass(frozen=True)
class DensePredictions:
    """Logits that are in memory."""

    logits_MV: Float[Tensor, "M V"]

    def __len__(self) -> int:
        return len(self.logits_MV)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.logits_MV.shape[1]

    def logits(self, rows: slice) -> Float[Tensor, "B V"]:
        """A copy of the rows."""
        return self.logits_MV[rows].clone()

    def select(self, rows_M: Int[Tensor, "M"]) -> DensePredictions:
        """Fewer rows."""
        return DensePredictions(self.logits_MV[rows_M])


@dataclass(frozen=True)
class ComputedPredictions:
    """Rows that a function makes from their indices."""

    rows_M: Int[Tensor, "M"]
    vocabulary_size: int
    make: Callable[[Int[Tensor, "B"]], Float[Tensor, "B V"]]

    def __len__(self) -> int:
        return len(self.rows_M)

    def logits(self, rows: slice) -> Float[Tensor, "B V"]:
        """What the function makes of the rows' indices."""
        return self.make(self.rows_M[rows])

    def select(self, rows_M: Int[Tensor, "M"]) -> ComputedPredictions:
        """Fewer indices."""
        return ComputedPredictions(self.rows_M[rows_M], self.vocabulary_size, self.make)


