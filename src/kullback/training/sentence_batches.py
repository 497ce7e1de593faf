"""Batches of fresh sentences of a source, each token with its true surprisal.

Axes: M tokens of a shard, N sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer

from kullback.runtime.ranges import SEEDS
from kullback.text.special_tokens import BOS, BOS_ID, EOS
from kullback.text.tokenizer_training import word_tokenizer
from kullback.training.batches import ALL, Shard, TokenRows
from kullback.training.config import SIZES
from kullback.training.packed_attention import PackedLayout

if TYPE_CHECKING:
    from kullback.sources.catalogue import Source
    from kullback.sources.language import Sentences

__all__ = ["SentenceBatches"]

VALIDATION_SENTENCES = 1024
ENDLESS_CONTEXT = 256
# A step that no training run reaches, so that validation sentences are drawn independently.
VALIDATION_STEP = 2**40


@dataclass(frozen=True, eq=False)
class SentenceBatches:
    """`sentences` fresh sentences of a source's training language at every step."""

    source: Source
    sentences: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        SIZES["batch"].set(self, "sentences", self.sentences)
        SEEDS.set(self, "seed", self.seed)

    @property
    def vocabulary_size(self) -> int:
        """V, the size of the source's vocabulary."""
        return len(self.source.training.vocabulary)

    @cached_property
    def context(self) -> int:
        """Tokens of the longest sentence, rounded up to a multiple of 16; 256 if unbounded.

        Longer sentences are then truncated: their first tokens still have the true distribution.
        """
        language = self.source.training
        if not language.is_finite:
            return ENDLESS_CONTEXT
        return -(-len(language.entropy_by_position()) // 16) * 16

    @property
    def sequences(self) -> int:
        """The sentences of a batch."""
        return self.sentences

    @property
    def tokens_per_batch(self) -> int:
        """The expected tokens of a batch."""
        return round(self.sentences * self._first[1])

    @property
    def floor(self) -> float:
        """The exact entropy of the training language, of the tokens up to `cut_at`, nats/token."""
        return self._first[0]

    @property
    def cut_at(self) -> int | None:
        """The tokens after which a sentence is cut; None where none is longer."""
        return None if self.source.training.is_finite else self.context

    @cached_property
    def _first(self) -> tuple[float, float]:
        """Nats/token, and tokens per sentence, of sentences as they are in batches."""
        language = self.source.training
        if self.cut_at is None:
            return language.entropy_per_token, language.tokens_per_sentence
        return language.entropy_of_first(self.cut_at)

    def preceding(self, limit: int, count: int) -> None:
        """Nothing: no token is before a sentence."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Splits at whitespace; its ids are those of the source."""
        return word_tokenizer(self.source.training.vocabulary)

    @property
    def spec(self) -> dict[str, Any]:
        """The source, the sentences of a batch, and the seed."""
        return {
            "source": dict(self.source.spec),
            "fingerprint": self.source.fingerprint(),
            "sentences": self.sentences,
            "seed": self.seed,
        }

    def shards(self, step: int, count: int, part: slice = ALL) -> list[Shard]:
        """Sentences sampled with the generator of (seed, step)."""
        return _shards(self._sample(step), count, self.context, part)

    def validation(self, limit: int | None = None) -> list[Shard]:
        """`VALIDATION_SENTENCES` sentences drawn once, whatever the limit."""
        rng = np.random.default_rng([self.seed, VALIDATION_STEP])
        sample = self.source.training.sample(VALIDATION_SENTENCES, rng, cut_at=self.cut_at)
        return _shards(sample, 4, self.context)

    def training_rows(self, steps: int, limit: int) -> TokenRows:
        """The sentences of the batches of `steps`, until they have `limit` tokens.

        Where that is a part of the batches, `TokenRows.total` is extrapolated from it.
        """
        rows: list[Int[np.ndarray, "N T"]] = []
        lengths: list[Int[np.ndarray, "N"]] = []
        tokens = 0
        for step in range(steps):
            sample = self._sample(step)
            rows.append(sample.tokens[:, : self.context])
            lengths.append(np.minimum(sample.lengths, self.context))
            tokens += int(lengths[-1].sum())
            if tokens >= limit:
                break
        T = max(tokens_NT.shape[1] for tokens_NT in rows)
        padded = [np.pad(row, ((0, 0), (0, T - row.shape[1]))) for row in rows]
        total = round(tokens * steps / len(rows))
        return TokenRows(np.concatenate(padded), np.concatenate(lengths), BOS_ID, total)

    special_tokens = (BOS, EOS)

    def _sample(self, step: int) -> Sentences:
        rng = np.random.default_rng([self.seed, step])
        return self.source.training.sample(self.sentences, rng, cut_at=self.cut_at)


def _shards(sentences: Sentences, count: int, context: int, part: slice = ALL) -> list[Shard]:
    """Shards with sentences of similar lengths and about equal numbers of tokens."""
    lengths = np.minimum(sentences.lengths, context)
    order = np.argsort(lengths, kind="stable")
    tokens = np.cumsum(lengths[order])
    count = min(count, len(order))
    number = np.arange(1, count)
    cuts = np.searchsorted(tokens, tokens[-1] * number / count)
    # At least one sentence each.
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - number) + number
    cuts = np.minimum(cuts, len(order) - count + number)
    surprisals = sentences.surprisals
    firsts = [0, *(int(tokens[cut - 1]) for cut in cuts)]
    shards = []
    for rows, first in list(zip(np.split(order, cuts), firsts, strict=True))[part]:
        mask = sentences.mask[rows, :context]
        targets = sentences.tokens[rows, :context].astype(np.int64)
        inputs = np.concatenate([np.full((len(rows), 1), BOS_ID), targets[:, :-1]], axis=1)
        shards.append(
            Shard(
                torch.from_numpy(inputs[mask]),
                torch.from_numpy(targets[mask]),
                torch.from_numpy(surprisals[rows, :context][mask]),
                PackedLayout.of(torch.from_numpy(lengths[rows])),
                lengths[rows],
                first_token=first,
            )
        )
    return shards
