"""Sentences of an exact language, with the true surprisal of every token.

Axes: N sentences, T positions.  Rows are padded on the right.  Units are nats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from kullback.sources.language import Language

__all__ = ["Sentences"]


@dataclass(frozen=True)
class Sentences:
    """Sentences of a language, with the arc taken at each position and thereby its state.

    The padding of `tokens` is the end-of-sentence id, that of `arcs` is -1.

    >>> from kullback.sources.conjugation_source import ConjugationSource
    >>> language = ConjugationSource(verbs=("go", "eat")).training
    >>> sample = language.sample(3, np.random.default_rng(0))
    >>> len(sample), sample.tokens.shape == sample.surprisals.shape
    (3, True)
    >>> next(sample.texts())
    'once I went to the market → una vez fui al mercado'
    """

    language: Language
    tokens: Int[np.ndarray, "N T"]
    arcs: Int[np.ndarray, "N T"]
    lengths: Int[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> np.ndarray:
        """True at the positions that contain a token, shape [N, T]."""
        return self.arcs >= 0

    @property
    def surprisals(self) -> Float[np.ndarray, "N T"]:
        """The true -log p(token | prefix) in nats; 0 at padding."""
        return np.where(self.mask, -self.language.log_probs[self.arcs], 0.0)

    @property
    def states(self) -> Int[np.ndarray, "N T"]:
        """The state *before* each token, whose distribution it was drawn from; 0 at padding."""
        return np.where(self.mask, self.language.arc_states[self.arcs], 0)

    @property
    def slots(self) -> Int[np.ndarray, "N T"]:
        """The slot of each token, as an index into the language's `slots`; -1 at padding."""
        return np.where(self.mask, self.language.arc_slots[self.arcs], -1)

    def texts(self) -> Iterator[str]:
        """The sentences as text, without the end-of-sentence token."""
        for row, length in zip(self.tokens, self.lengths, strict=True):
            yield " ".join(self.language.vocabulary[token] for token in row[: length - 1])
