"""What a training step learns from: sentences of a source, or windows of a text.

The batch of step k is a function of (seed, k) alone.  So the place in the data is one number, a
resumed run meets the very batches that an uninterrupted one would, and nothing else about the
data needs to be saved.

A batch is cut into shards of about equal numbers of tokens, sequences of like length together;
each shard is worked on by one thread.  Axes: M tokens of a shard, N sequences.
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
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.sources.catalogue import Source, source_from_spec
from kullback.sources.language import Sentences
from kullback.text.documents import read_texts
from kullback.text.special_tokens import BOS_ID
from kullback.text.tokenizer_training import train_tokenizer, word_tokenizer
from kullback.training.packed_attention import PackedLayout

__all__ = ["Batches", "SentenceBatches", "Shard", "TextBatches", "batches_from_spec"]

VALIDATION_SENTENCES = 1024
ENDLESS_CONTEXT = 256
# A step that no training run reaches: the validation sample never meets the training batches.
VALIDATION_STEP = 2**40


@dataclass(frozen=True)
class Shard:
    """Sequences of a batch, end to end; the model reads `inputs_M` and predicts `targets_M`."""

    inputs_M: Int[Tensor, "M"]
    targets_M: Int[Tensor, "M"]
    surprisals_M: Float[Tensor, "M"] | None
    """The true -log p of each target, in nats, where the source knows it."""
    layout: PackedLayout
    lengths_N: Int[np.ndarray, "N"]


class Batches(Protocol):
    """An endless, reproducible supply of batches."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    @property
    def context(self) -> int:
        """The longest sequence, in tokens."""

    @property
    def floor(self) -> float | None:
        """The entropy in nats/token, where it is known exactly."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """What :func:`batches_from_spec` builds the same batches from."""

    def shards(self, step: int, count: int) -> list[Shard]:
        """The batch of `step`, in `count` shards."""

    def validation(self) -> list[Shard]:
        """A fixed sample that no training batch is drawn from."""


@dataclass(frozen=True, eq=False)
class SentenceBatches:
    """`sentences` fresh sentences of a source's training language at every step."""

    source: Source
    sentences: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sentences < 1:
            raise InvalidValueError(
                f"sentences is {self.sentences}: a batch needs at least one sentence"
            )
        _check_seed(self.seed)

    @property
    def vocabulary_size(self) -> int:
        """Words of the source."""
        return len(self.source.training.vocabulary)

    @cached_property
    def context(self) -> int:
        """Tokens of the longest sentence, rounded up to 16; 256 where there is none longest.

        There, a longer sentence is cut: its first tokens are still a sample of what may be there.
        """
        language = self.source.training
        if not language.is_finite:
            return ENDLESS_CONTEXT
        return -(-len(language.entropy_by_position()) // 16) * 16

    @property
    def floor(self) -> float:
        """The exact entropy of the training language, nats/token."""
        return self.source.training.entropy_per_token

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Words at blanks."""
        return word_tokenizer(self.source.training.vocabulary)

    @property
    def spec(self) -> dict[str, Any]:
        """The source, how many sentences, and the seed."""
        return {
            "source": dict(self.source.spec),
            "fingerprint": self.source.fingerprint(),
            "sentences": self.sentences,
            "seed": self.seed,
        }

    def shards(self, step: int, count: int) -> list[Shard]:
        """Sentences sampled with the generator of (seed, step)."""
        rng = np.random.default_rng([self.seed, step])
        return _cut(self.source.training.sample(self.sentences, rng), count, self.context)

    def validation(self) -> list[Shard]:
        """`VALIDATION_SENTENCES` sentences drawn once."""
        rng = np.random.default_rng([self.seed, VALIDATION_STEP])
        sample = self.source.training.sample(VALIDATION_SENTENCES, rng)
        return _cut(sample, 4, self.context)


@dataclass(frozen=True, eq=False)
class TextBatches:
    """`windows` random windows of `context` tokens of a text; its last tenth validates."""

    tokens: Int[np.ndarray, "total"]
    tokenizer: Tokenizer
    paths: tuple[str, ...]
    context: int = 64
    windows: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        for name, value in (("context", self.context), ("windows", self.windows)):
            if value < 1:
                raise InvalidValueError(f"{name} is {value}: it must be at least 1")
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
        and for impossible sizes.
        """
        texts = read_texts(paths)
        tokenizer = tokenizer or train_tokenizer(texts, vocabulary_size)
        ids = [tokenizer.encode(text).ids for text in texts]
        tokens = np.concatenate([np.array(document, dtype=np.int64) for document in ids])
        resolved = tuple(str(path.resolve()) for path in paths)
        return cls(tokens, tokenizer, resolved, context, windows, seed)

    floor = None

    @property
    def vocabulary_size(self) -> int:
        """Entries of the tokenizer."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def spec(self) -> dict[str, Any]:
        """The files, a hash of their tokens, and how windows are drawn."""
        return {
            "text": list(self.paths),
            "fingerprint": hashlib.sha256(self.tokens.tobytes()).hexdigest(),
            "context": self.context,
            "windows": self.windows,
            "seed": self.seed,
        }

    def shards(self, step: int, count: int) -> list[Shard]:
        """Windows that start anywhere in the first nine tenths."""
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(0, self._split - self.context, self.windows)
        return [self._shard(part) for part in np.array_split(starts, count) if len(part)]

    def validation(self) -> list[Shard]:
        """The windows of the last tenth, one after the other."""
        starts = np.arange(self._split, len(self.tokens) - self.context, self.context)
        return [self._shard(starts[i : i + 64]) for i in range(0, len(starts), 64)]

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


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InvalidValueError(f"seed is {seed}: it must be at least 0")


def batches_from_spec(spec: Mapping[str, Any], tokenizer: Tokenizer) -> Batches:
    """The batches that a run folder describes; `RunError` if their data has changed since."""
    batches: Batches
    if "source" in spec:
        batches = SentenceBatches(source_from_spec(spec["source"]), spec["sentences"], spec["seed"])
    else:
        batches = TextBatches.read(
            [Path(path) for path in spec["text"]],
            context=spec["context"],
            windows=spec["windows"],
            seed=spec["seed"],
            tokenizer=tokenizer,
        )
    if batches.spec["fingerprint"] != spec["fingerprint"]:
        raise RunError(
            "the data has changed since this run began (its fingerprint is another), so the run "
            "cannot be resumed exactly; restore the data, or train a new run"
        )
    return batches


def _cut(sentences: Sentences, count: int, context: int) -> list[Shard]:
    """Shards of like lengths and about equal numbers of tokens."""
    lengths = np.minimum(sentences.lengths, context)
    order = np.argsort(lengths, kind="stable")
    done = np.cumsum(lengths[order])
    cuts = np.searchsorted(done, done[-1] * np.arange(1, count) / count)
    surprisals = sentences.surprisals
    shards = []
    for rows in np.split(order, cuts):
        if not len(rows):
            continue
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
            )
        )
    return shards
