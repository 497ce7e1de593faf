"""Batches of random windows of a text, whose last part or some of whose documents are held out.

Axes: M tokens of a shard, N windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import SEEDS
from kullback.runtime.sequences import MadeItems
from kullback.text.byte_spans import bytes_of_token
from kullback.text.documents import read_texts
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer_training import train_tokenizer
from kullback.training.batches import ALL, Shard, TokenRows
from kullback.training.config import SIZES
from kullback.training.packed_attention import PackedLayout

__all__ = ["TextBatches", "TokenArray"]

# Windows of a validation shard, and its tokens, which bound the memory that it takes.
SHARD_WINDOWS = 64
SHARD_TOKENS = 4096


class TokenArray(Protocol):
    """An array of int64, or a file that is read as if it were one."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any) -> Int[np.ndarray, "..."]:
        """The tokens at these places, as a new array."""


@dataclass(frozen=True, eq=False)
class TextBatches:
    """`windows` random windows of `context` tokens at every step; they may cross documents."""

    training: TokenArray
    held_out: TokenArray
    """The validation split."""
    tokenizer: Tokenizer
    data: Mapping[str, Any]
    """The text as the description of a run has it."""
    context: int = 64
    windows: int = 48
    seed: int = 0
    held_out_bytes: Int[np.ndarray, "held"] | None = None
    """The bytes of text of each held-out token; None where they are those of its entry."""
    document_ends: Int[np.ndarray, "documents"] | None = None
    """Where each held-out document ends; None for one."""
    special_tokens: tuple[str | None, str | None] = (BOS, EOS)
    # Those of a source: the entropy of a text is unknown, and its windows are not cut.
    floor = None
    cut_at = None

    def __post_init__(self) -> None:
        SEEDS.set(self, "seed", self.seed)
        SIZES["context"].set(self, "context", self.context)
        SIZES["batch"].set(self, "windows", self.windows)
        trained, held = len(self.training), len(self.held_out)
        if min(trained, held) < self.context + 1:
            raise InvalidValueError(
                f"the text is too short, {trained:,} tokens to train on and {held:,} for "
                f"validation: with a context of {self.context} each needs at least "
                f"{self.context + 1}; give more text or a smaller context"
            )

    @classmethod
    def of_tokens(
        cls,
        tokens: Int[np.ndarray, "total"],
        tokenizer: Tokenizer,
        paths: Sequence[str] = (),
        context: int = 64,
        windows: int = 48,
        seed: int = 0,
    ) -> TextBatches:
        """Batches of tokens in memory, of which the last tenth is held out."""
        data = {
            "text": list(paths),
            "fingerprint": hashlib.sha256(tokens.astype(np.int64).tobytes()).hexdigest(),
        }
        split = len(tokens) * 9 // 10
        return cls(tokens[:split], tokens[split:], tokenizer, data, context, windows, seed)

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

        All in memory, each file as one text: runs of version 0.1 are resumed so.  Raises
        `InvalidValueError` for a text that cannot be read or is too short for the context, and for
        sizes out of range.
        """
        texts = read_texts(paths)
        tokenizer = tokenizer or train_tokenizer(texts, vocabulary_size)
        ids = [tokenizer.encode(text).ids for text in texts]
        tokens = np.concatenate([np.array(document, dtype=np.int64) for document in ids])
        resolved = tuple(str(path.resolve()) for path in paths)
        return cls.of_tokens(tokens, tokenizer, resolved, context, windows, seed)

    @cached_property
    def vocabulary_size(self) -> int:
        """V: 1 + the largest id of the tokenizer."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def tokens_per_batch(self) -> int:
        """The tokens of a batch."""
        return self.windows * self.context

    @property
    def spec(self) -> dict[str, Any]:
        """The files, a hash of their tokens, the windows of a batch, and the seed."""
        return {
            **self.data,
            "context": self.context,
            "windows": self.windows,
            "seed": self.seed,
        }

    @property
    def sequences(self) -> int:
        """The windows of a batch."""
        return self.windows

    def shards(self, step: int, count: int, part: slice = ALL) -> list[Shard]:
        """Windows of the training split, drawn with the generator of (seed, step)."""
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(0, len(self.training) - self.context, self.windows)
        count = min(count, self.windows)
        pieces = np.array_split(starts, count)
        windows = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
        return [
            _shard(
                self.training[piece[:, None] + np.arange(self.context + 1)],
                first_token=int(before) * self.context,
            )
            for piece, before in list(zip(pieces, windows, strict=True))[part]
        ]

    def validation(self, limit: int | None = None) -> Sequence[Shard]:
        """The consecutive windows of the validation split, whose shards are made when read.

        With `limit`, about as many tokens, in windows at equal distances.
        """
        windows = self._windows(limit)
        return MadeItems(lambda i: self._held_out_shard(*windows[i]), range(len(windows)))

    def preceding(self, limit: int, count: int) -> Sequence[Int[np.ndarray, "N count"]]:
        """The `count` tokens before each window of ``validation(limit)``, -1 where there are none.

        An array for each of its shards.
        """
        windows, before = self._windows(limit), np.arange(-count, 0)

        def of_shard(i: int) -> Int[np.ndarray, "N count"]:
            places = windows[i][0][:, None] + before
            return np.where(places < 0, -1, self.held_out[np.maximum(places, 0)])

        return MadeItems(of_shard, range(len(windows)))

    def _windows(self, limit: int | None) -> list[tuple[Int[np.ndarray, "N"], int]]:
        """Where the windows of each shard of the validation split begin, and their length."""
        predicted = len(self.held_out) - 1
        starts = np.arange(0, predicted, self.context)
        if limit is not None and limit < predicted:
            count = max(1, limit // self.context)
            starts = starts[np.arange(count) * len(starts) // count]
        whole = starts[starts + self.context <= predicted]
        at_once = min(SHARD_WINDOWS, max(1, SHARD_TOKENS // self.context))
        groups = [(whole[i : i + at_once], self.context) for i in range(0, len(whole), at_once)]
        if len(whole) < len(starts):
            groups.append((starts[-1:], predicted - int(starts[-1])))
        return groups

    def training_rows(self, steps: int, limit: int) -> TokenRows:
        """The last `limit` tokens of the training split, as one row."""
        total = len(self.training)
        tokens = self.training[max(0, total - limit) : total].astype(np.int32)
        return TokenRows(tokens[None], np.array([len(tokens)]), None, total)

    @cached_property
    def token_bytes(self) -> Int[np.ndarray, "V"]:
        """The bytes of text of each entry of a byte-level tokenizer; 0 for special tokens."""
        sizes = np.zeros(self.vocabulary_size, dtype=np.int64)
        for token, token_id in self.tokenizer.get_vocab().items():
            if token not in self.special_tokens:
                sizes[token_id] = len(bytes_of_token(token, byte_level=True))
        return sizes

    def _held_out_shard(self, starts: Int[np.ndarray, "N"], length: int) -> Shard:
        places = starts[:, None] + np.arange(length + 1)
        rows = self.held_out[places]
        targets = places[:, 1:].reshape(-1)
        sizes, ends = self.held_out_bytes, self.document_ends
        of_targets = self.token_bytes[rows[:, 1:].reshape(-1)] if sizes is None else sizes[targets]
        document = None if ends is None else np.searchsorted(ends, targets, side="right")
        return _shard(rows, of_targets, document)


def _shard(
    rows: Int[np.ndarray, "N T"],
    bytes_M: Int[np.ndarray, "M"] | None = None,
    document_M: Int[np.ndarray, "M"] | None = None,
    first_token: int = 0,
) -> Shard:
    """All tokens but the last of each row are read, all but the first predicted."""
    lengths = np.full(len(rows), rows.shape[1] - 1)
    return Shard(
        torch.from_numpy(rows[:, :-1].reshape(-1)),
        torch.from_numpy(rows[:, 1:].reshape(-1)),
        None,
        PackedLayout.of(torch.from_numpy(lengths)),
        lengths,
        bytes_M,
        document_M,
        first_token,
    )
