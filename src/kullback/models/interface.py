"""Interfaces of language models: tokens in, predictions out.

:class:`LanguageModel` is what the measures need; :class:`TextModel` adds what reading text needs.

Axes: N sequences, T positions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from kullback.predictions.base import Predictions

if TYPE_CHECKING:
    from kullback.text.tokenizer import TextTokenizer

__all__ = ["LanguageModel", "Sharing", "TextModel"]

#: How sequences may be read in one batch and get the predictions that each has by itself:
#: padded on the right to the longest, only with others of their length, or not at all.
Sharing: TypeAlias = Literal["padded", "equal lengths", "alone"]


class LanguageModel(Protocol):
    """A model that predicts the next token after every prefix of a sequence."""

    @property
    def name(self) -> str:
        """The name that reports show."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> Predictions:
        """Predictions at all N·T positions, row by row; `inputs_NT` begins with `BOS`."""


class TextModel(LanguageModel, Protocol):
    """A language model with its tokenizer and the other properties that its numbers depend on.

    The model is causal: the tokens after a position do not change the predictions there.
    """

    @property
    def tokenizer(self) -> TextTokenizer:
        """From text to the ids that `predict` reads."""

    @property
    def context(self) -> int | None:
        """The longest input in tokens, or None where the length is not limited."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and of the arithmetic in the body."""

    @property
    def device(self) -> torch.device:
        """The device that the inputs must be on."""

    @property
    def factored(self) -> bool:
        """Whether `predict` returns `FactoredPredictions`, whose memory does not grow with V."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read."""

    def sharing(self, longest: int) -> Sharing:
        """How sequences of at most `longest` tokens may be read in one batch."""

    def weights_fingerprint(self) -> str:
        """SHA-256 of all weights, in hexadecimal."""
