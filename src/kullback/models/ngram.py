"""n-gram models behind the interface of all language models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kullback.models.kneser_ney import NgramModel
from kullback.predictions.base import ComputedPredictions
from kullback.sources.language import Sentences

__all__ = ["NgramLanguageModel"]


@dataclass(frozen=True, eq=False)
class NgramLanguageModel:
    """An interpolated modified Kneser-Ney model as a language model."""

    ngram: NgramModel

    @classmethod
    def fit(cls, sentences: Sentences, order: int) -> NgramLanguageModel:
        """The model of the counts of `sentences`."""
        return cls(
            NgramModel.fit(
                sentences.tokens,
                order=order,
                vocabulary_size=len(sentences.language.vocabulary),
                bos=0,
                lengths=sentences.lengths,
            )
        )

    @property
    def name(self) -> str:
        """Order and method."""
        return f"{self.ngram.order}-gram Kneser-Ney"

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.ngram.vocabulary_size

    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> ComputedPredictions:
        """Log-probabilities from the last `order - 1` inputs, computed for the rows asked for."""
        inputs = inputs_NT.numpy()
        N, T = inputs.shape
        reach = self.ngram.order - 1
        padded = np.concatenate([np.full((N, max(reach - 1, 0)), -1), inputs], axis=1)
        # At the start of a sentence the context is BOS alone.
        windows = np.lib.stride_tricks.sliding_window_view(padded, max(reach, 1), axis=1)
        contexts_MR = windows.reshape(N * T, -1)[:, -reach:] if reach else np.zeros((N * T, 0), int)

        def make(rows: Tensor) -> Tensor:
            # Equal contexts have equal predictions: compute each distinct one once.
            distinct, inverse = np.unique(contexts_MR[rows.numpy()], axis=0, return_inverse=True)
            return torch.from_numpy(self.ngram.log_probs(distinct))[inverse.reshape(-1)]

        return ComputedPredictions(torch.arange(N * T), self.vocabulary_size, make)
