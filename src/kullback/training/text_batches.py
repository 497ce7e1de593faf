"""Batches of random windows of a text; the last tenth of its tokens is the validation split.

Axes: M tokens of a shard, N windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import SEEDS
from kullback.text.byte_spans import bytes_of_token
from kullback.text.documents import read_texts
from kullback.text.special_tokens import BOS_ID, EOS_ID
from kullback.text.tokenizer_training import train_tokenizer
from kullback.training.batches import Shard, TokenRows
from kullback.training.config import SIZES
from kullback.training.packed_attention import PackedLayout

__all__ = ["TextBatches"]


@dataclass(frozen=True, eq=False)
class TextBatches:
    """`windows` random windows of `context` tokens at every step."""

    tokens: Int[np.ndarray, "total"]
    tokenizer: Tokenizer
    paths: tuple[str, ...]
    context: int = 64
    windows: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        SEEDS.set(self, "seed", self.seed)
        SIZES["context"].set(self, "context", self.context)
        SIZES["batch"].set(self, "windows", self.windows)
        if len(self.tokens) // 10 < self.context + 1:
            raise InvalidValueError(
                f"the text has {len(self.tokens)} tokens: with a context of {self.context} it "
                f"needs at least {10 * (self.context + 1)}; give more text or a smaller context"
            )

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        vocabulary_size: int = 1024,
        context: int = 64,
        windows: int = 48,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
    ) -> TextBatches:
        """Read the files, train a tokenizer on them unless one is given, and encode them.

        Raises `InvalidValueError` for a text that cannot be read or is too short for the context,
        and for sizes out of range.
        """
        for path in paths:
            try:
                str(path.resolve()).encode()
            except UnicodeEncodeError:
                raise InvalidValueError(
                    f"the name of the text {path} is not UTF-8: rename the file"
                ) from None
        texts = read_texts(paths)
        tokenizer = tokenizer or train_tokenizer(texts, vocabulary_size)
        ids = [tokenizer.encode(text).ids for text in texts]
        tokens = np.concatenate([np.array(document, dtype=np.int64) for document in ids])
        resolved = tuple(str(path.resolve()) for path in paths)
        return cls(tokens, tokenizer, resolved, context, windows, seed)

    floor = None

    @property
    def vocabulary_size(self) -> int:
        """V, the entries of the tokenizer."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def tokens_per_batch(self) -> int:
        """The tokens of a batch."""
        return self.windows * self.context

    @property
    def spec(self) -> dict[str, Any]:
        """The files, a hash of their tokens, the windows of a batch, and the seed."""
        return {
            "text": list(self.paths),
            "fingerprint": hashlib.sha256(self.tokens.tobytes()).hexdigest(),
            "context": self.context,
            "windows": self.windows,
            "seed": self.seed,
        }

    def shards(self, step: int, count: int) -> list[Shard]:
        """Windows of the first nine tenths, drawn with the generator of (seed, step)."""
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(0, self._split - self.context, self.windows)
        return [self._shard(part) for part in np.array_split(starts, count) if len(part)]

    def validation(self) -> list[Shard]:
        """The consecutive windows of the last tenth."""
        starts = np.arange(self._split, len(self.tokens) - self.context, self.context)
        return [self._shard(starts[i : i + 64]) for i in range(0, len(starts), 64)]

    def training_rows(self, steps: int, limit: int) -> TokenRows:
        """The last `limit` tokens of the first nine tenths, as one row."""
        tokens = self.tokens[max(0, self._split - limit) : self._split]
        return TokenRows(tokens[None], np.array([len(tokens)]), None, self._split)

    @cached_property
    def token_bytes(self) -> Int[np.ndarray, "V"]:
        """The bytes of text of each entry of the byte-level tokenizer; 0 for special tokens."""
        special = (BOS_ID, EOS_ID)
        sizes = np.zeros(self.vocabulary_size, dtype=np.int64)
        for token, token_id in self.tokenizer.get_vocab().items():
            if token_id not in special:
                sizes[token_id] = len(bytes_of_token(token, byte_level=True))
        return sizes

    @property
    def _split(self) -> int:
        return len(self.tokens) * 9 // 10

    def _shard(self, starts: Int[np.ndarray, "N"]) -> Shard:
        rows = self.tokens[starts[:, None] + np.arange(self.context + 1)]
        lengths = np.full(len(starts), self.context)
        return Shard(
            torch.from_numpy(rows[:, :-1].reshape(-1)),
            torch.from_numpy(rows[:, 1:].reshape(-1)),
            None,
            PackedLayout.of(torch.from_numpy(lengths)),
            lengths,
        )
