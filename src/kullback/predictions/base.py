"""What a model says about the next token, in a form whose size does not depend on the vocabulary.

A language model of V words makes V numbers a token.  Whoever measures it needs them only once, a
block at a time, so predictions are handed over unmade:

* :class:`FactoredPredictions`: hidden states and the head; a block's logits are one matmul away;
* :class:`DensePredictions`: logits (or log-probabilities, which are logits too) that exist already;
* :class:`ComputedPredictions`: a function that makes the rows asked for.

All yield blocks of **logits**: numbers whose softmax over V is the distribution.

:class:`LanguageModel` is what the measures need; :class:`TextModel` adds what reading text needs.

Axes: N sequences, T positions, M rows (positions of all sequences), B rows of a block, D width,
V vocabulary, W words of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.runtime.fast_linear import linear

if TYPE_CHECKING:
    from kullback.text.tokenizer import TextTokenizer

__all__ = [
    "ComputedPredictions",
    "DensePredictions",
    "FactoredPredictions",
    "Head",
    "LanguageModel",
    "Predictions",
    "TextModel",
    "weights_fingerprint",
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


class TextModel(LanguageModel, Protocol):
    """A language model that reads text through a tokenizer, and what its numbers depend on.

    It is causal: what follows a position does not change the predictions there, so that padding on
    the right is harmless.
    """

    @property
    def tokenizer(self) -> TextTokenizer:
        """From text to the ids that `predict` reads."""

    @property
    def context(self) -> int | None:
        """The longest input in tokens, or None where any length will do."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and of the arithmetic in the body."""

    @property
    def device(self) -> torch.device:
        """Where the inputs must be."""

    @property
    def factored(self) -> bool:
        """Whether `predict` gives `FactoredPredictions`, so that V costs no memory."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read."""

    def weights_fingerprint(self) -> str:
        """SHA-256 of all weights, in hexadecimal."""


@dataclass(frozen=True)
class Head:
    """What a model does after its last hidden state.

    ``logits = cap(scale × (hidden @ weight.T + bias))``, where
    ``cap(x) = softcap × tanh(x / softcap)`` where a soft-cap is given (Gemma 2), else x.  The
    arithmetic is that of the hidden states: a 16-bit weight is widened to their type, a block of
    words at a time, which costs about a twentieth of the block's matmul and no memory.
    """

    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, "V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_BD: Float[Tensor, "B D"], words: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits of some words: one matmul, the rest in place."""
        weight_WD = self.weight_VD[words].to(hidden_BD.dtype)
        bias_W = None if self.bias_V is None else self.bias_V[words].to(hidden_BD.dtype)
        logits_BW = linear(hidden_BD, weight_WD, bias_W)
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


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the name, type, shape and bytes of every tensor, in the order of the names.

    Tied weights are hashed once: the later name stands for the earlier one.

    >>> weights_fingerprint({"a": torch.zeros(2)}) == weights_fingerprint({"a": torch.zeros(1, 2)})
    False
    """
    digest = hashlib.sha256()
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype], str] = {}
    for name, weight in sorted(_plain(weights).items()):
        place = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)
        twin = seen.setdefault(place, name)
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        if twin != name and weight.numel():
            digest.update(f"is {twin}".encode())
            continue
        # NumPy has no bfloat16: bytes are bytes.
        flat = weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with tensors that wrap others (quantised ones) replaced by what they wrap."""
    plain: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if hasattr(weight, "__tensor_flatten__"):
            inner, _ = weight.__tensor_flatten__()
            plain.update(_plain({f"{name}.{part}": getattr(weight, part) for part in inner}))
        else:
            plain[name] = weight
    return plain
