"""The interface of training data: batches, and the shards that they are split into.

The batch of step k is a function of (seed, k) alone.  So the position in the data is one number, a
resumed run reads exactly the batches of an uninterrupted one, and nothing else about the data
needs to be saved.

A batch is split into shards of about equal numbers of tokens, each processed by one thread.

Axes: M tokens of a shard, N sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from kullback.runtime.transfers import to_device
from kullback.training.packed_attention import PackedLayout

__all__ = ["ALL", "Batches", "Shard", "TokenRows"]

#: Every shard of a batch.
ALL = slice(None)


@dataclass(frozen=True)
class Shard:
    """Sequences of a batch, end to end; the model reads `inputs_M` and predicts `targets_M`."""

    inputs_M: Int[Tensor, "M"]
    targets_M: Int[Tensor, "M"]
    surprisals_M: Float[Tensor, "M"] | None
    """The true -log p of each target in nats; None on a text."""
    layout: PackedLayout
    lengths_N: Int[np.ndarray, "N"]
    bytes_M: Int[np.ndarray, "M"] | None = None
    """The bytes of text that each target covers; only of the validation split of a text."""
    document_M: Int[np.ndarray, "M"] | None = None
    """The document of each target; None where they are of one text, or of a source."""
    first_token: int = 0
    """Tokens of the shards of the batch before it."""

    def on(self, device: torch.device) -> Shard:
        """The same with what the model reads on a device."""
        return replace(
            self,
            inputs_M=to_device(self.inputs_M, device),
            targets_M=to_device(self.targets_M, device),
            layout=self.layout.on(device),
        )


@dataclass(frozen=True)
class TokenRows:
    """Rows of training tokens, from which n-grams are counted."""

    tokens_NT: Int[np.ndarray, "N T"]
    lengths_N: Int[np.ndarray, "N"]
    """Tokens of each row; beyond is padding."""
    bos: int | None
    """The token before each row, or None."""
    total: int
    """Tokens of the training data, of which the rows may be a part."""


class Batches(Protocol):
    """An unlimited, reproducible sequence of batches."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    @property
    def context(self) -> int:
        """The longest sequence, in tokens."""

    @property
    def tokens_per_batch(self) -> int:
        """The tokens of a batch, at least about."""

    @property
    def floor(self) -> float | None:
        """The exact entropy in nats/token; None on a text, where it is unknown."""

    @property
    def cut_at(self) -> int | None:
        """The tokens after which sentences of a source are cut; `floor` is of those before."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data."""

    @property
    def special_tokens(self) -> tuple[str | None, str | None]:
        """BOS and EOS as the tokenizer spells them; None where it has none."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """What `kullback.training.description.batches_of_run` builds the same batches from."""

    @property
    def sequences(self) -> int:
        """Windows or sentences of a batch."""

    def shards(self, step: int, count: int, part: slice = ALL) -> list[Shard]:
        """The batch of `step` in `count` shards, at most one per sequence; those in `part`."""

    def validation(self, limit: int | None = None) -> Sequence[Shard]:
        """A fixed validation sample, independent of the training batches.

        Of a text with more than `limit` tokens about as many, evenly spread over all of it; its
        shards are made when they are read.
        """

    def preceding(self, limit: int, count: int) -> Sequence[Int[np.ndarray, "N count"]] | None:
        """The tokens before each window of ``validation(limit)``, -1 where there are none.

        An array for each of its shards; None on a source, where no token is before a sentence.
        """

    def training_rows(self, steps: int, limit: int) -> TokenRows:
        """About `limit` tokens of the training split of a text, or of the batches of `steps`."""
