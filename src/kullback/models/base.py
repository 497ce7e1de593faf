"""What a model says about the next token, in a form whose size does not depend on the vocabulary.

A language model of V words makes V numbers a token.  Whoever measures it needs them only once, a
block at a time, so predictions are handed over unmade:

* :class:`FactoredPredictions`: hidden states and the head; a block's logits are one matmul away;
* :class:`DensePredictions`: logits (or log-probabilities, which are logits too) that exist already;
* :class:`ComputedPredictions`: a function that makes the rows asked for.

All yield blocks of **logits**: numbers whose softmax over V is the distribution.

Axes: N sequences, T positions, M rows (positions of all sequences), B rows of a block, D width,
V vocabulary, W words of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "ComputedPredictions",
    "DensePredictions",
    "FactoredPredictions",
    "Head",
    "LanguageModel",
    "Predictions",
]

ALL = slice(None)


class Predictions(Protocol):
    """Distributions over the next token at M positions."""

    def __len__(self) -> int:
        """M."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    def logits(self, rows: slice, words: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits of `rows` and `words`; the caller may overwrite them."""

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
class Head:
    """What a model does after its last hidden state: logits = cap(scale × (hidden @ weight.T + bias)).

    ``cap(x) = softcap × tanh(x / softcap)`` where a soft-cap is given (Gemma 2), else x.
    """

    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, "V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_BD: Float[Tensor, "B D"], words: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits of some words: one matmul, the rest in place."""
        weight_WD = self.weight_VD[words]
        if self.bias_V is None:
            logits_BW = hidden_BD @ weight_WD.T
        else:
            logits_BW = torch.addmm(self.bias_V[words], hidden_BD, weight_WD.T)
        if self.scale != 1.0:
            logits_BW *= self.scale
        if self.softcap is not None:
            logits_BW.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_BW


@dataclass(frozen=True)
class FactoredPredictions:
    """Hidden states and the head; the logits are made when asked for."""

    hidden_MD: Float[Tensor, "M D"]
    head: Head

    def __len__(self) -> int:
        return len(self.hidden_MD)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.head.weight_VD)

    def logits(self, rows: slice, words: slice = ALL) -> Float[Tensor, "B W"]:
        """One matmul."""
        return self.head.logits(self.hidden_MD[rows], words)

    def select(self, rows_M: Int[Tensor, "M"]) -> FactoredPredictions:
        """Fewer hidden states, the same head."""
        return FactoredPredictions(self.hidden_MD[rows_M], self.head)


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

    def logits(self, rows: slice, words: slice = ALL) -> Float[Tensor, "B W"]:
        """A copy of the block."""
        return self.logits_MV[rows, words].clone()

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

    def logits(self, rows: slice, words: slice = ALL) -> Float[Tensor, "B W"]:
        """What the function makes of the rows' indices."""
        return self.make(self.rows_M[rows])[:, words]

    def select(self, rows_M: Int[Tensor, "M"]) -> ComputedPredictions:
        """Fewer indices."""
        return ComputedPredictions(self.rows_M[rows_M], self.vocabulary_size, self.make)
