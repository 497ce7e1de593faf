"""What is read of a source: its sentences or windows, and the weight of each position.

Either all prefixes enter with their probabilities, so that sums over them are exact, or those of a
sample.  Sentences are read after ``<s>``; a window of a stationary process has no beginning, and
its first symbol is given.

Axes: N sentences or windows, T positions of the longest, B rows of a batch, M positions that count,
K entries of all true distributions, V symbols.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.special import entr
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.evaluation.source_sums import Prefixes, Summed
from kullback.scoring.source_statistics import TrueDistributions
from kullback.sources.language import Language, Sentences
from kullback.sources.process import FIRST_SYMBOL, Process
from kullback.text.special_tokens import BOS_ID

__all__ = ["Batch", "Corpus", "FirstTokens", "SourceCorpus", "WindowCorpus"]

# Positions that the model reads at once: enough to keep it busy, few enough for the cache.
BATCH_POSITIONS = 1 << 13
# Symbols of all windows of a process, beyond which they are sampled, and of a sample.
MOST_SYMBOLS = 2_000_000
SAMPLED_SYMBOLS = 400_000
# Of the generator of a sample: (seed, 0), which is that of the seed alone, is that of a training
# batch and of an export, and smaller numbers are those of other batches.
SAMPLE = 2**42


@dataclass(frozen=True)
class Batch:
    """The model's inputs, the positions that count, and what the source says there."""

    inputs_BT: Int[Tensor, "B T"]
    keep_M: Int[Tensor, "M"]
    """Of the B·T positions, row by row."""
    prefixes: Prefixes


class SourceCorpus(Protocol):
    """Rows of a source, read batch by batch."""

    @property
    def name(self) -> str:
        """Of the language."""

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the model must have."""

    @property
    def summed(self) -> Summed:
        """What sums over the corpus are over."""

    @property
    def prefixes(self) -> int:
        """How many positions count."""

    def batches(self) -> Iterator[Int[np.ndarray, "B"]]:
        """The rows, in batches."""

    def batch(self, rows: Int[np.ndarray, "B"]) -> Batch:
        """What is read of these rows."""

    def digest(self) -> str:
        """A hash of the tokens and weights."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences of a language, and the weight of each position."""

    sentences: Sentences
    weights: Float[np.ndarray, "N T"]
    exact: bool
    """Whether the weights are those of all prefixes, so that sums over them are exact."""

    @classmethod
    def everything(cls, language: Language) -> Corpus:
        """All prefixes; `InvalidValueError` where there are more than some millions."""
        return cls(*language.enumerate(), exact=True)

    @classmethod
    def sample(cls, language: Language, sentences: int, seed: int) -> Corpus:
        """`sentences` independent sentences, each position counting once."""
        sample = language.sample(sentences, np.random.default_rng([seed, SAMPLE]))
        return cls(sample, sample.mask.astype(np.float64), exact=False)

    @classmethod
    def best(cls, language: Language, sentences: int, seed: int) -> Corpus:
        """All prefixes where that is feasible, otherwise a sample."""
        try:
            return cls.everything(language)
        except InvalidValueError:
            return cls.sample(language, sentences, seed)

    @property
    def name(self) -> str:
        """Of the language."""
        return self.sentences.language.name

    @property
    def vocabulary_size(self) -> int:
        """Of the language."""
        return len(self.sentences.language.vocabulary)

    @property
    def summed(self) -> Summed:
        """The sentences, and the slots of the language."""
        language = self.sentences.language
        return Summed(
            rows=len(self.sentences),
            slots=language.slots,
            tokens_per_row=language.tokens_per_sentence,
            floor=language.entropy_per_token,
            floor_error=0.0,
            exact=self.exact,
        )

    @property
    def prefixes(self) -> int:
        """How many positions count."""
        return int(np.count_nonzero(self.weights > 0))

    def digest(self) -> str:
        """Of the arcs of the sentences, which stand for their tokens and what the source says."""
        language = self.sentences.language
        return _digest(self.sentences.arcs, self.weights, language.probabilities)

    def batches(self) -> Iterator[Int[np.ndarray, "B"]]:
        """Row indices, sentences of like length together."""
        lengths = self.sentences.lengths
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            longest = int(lengths[order[min(start + 512, len(order)) - 1]])
            count = max(1, BATCH_POSITIONS // longest)
            yield order[start : start + count]
            start += count

    def batch(self, rows: Int[np.ndarray, "B"]) -> Batch:
        """The sentences of these rows after ``<s>``, and the true distribution at each state."""
        language, longest = self.sentences.language, int(self.sentences.lengths[rows].max())
        tokens = self.sentences.tokens[rows, : longest - 1].astype(np.int64)
        inputs = np.concatenate([np.full((len(rows), 1), BOS_ID), tokens], axis=1)
        weights = self.weights[rows, :longest].reshape(-1)
        keep = np.flatnonzero(weights > 0)
        state_M = language.arc_states[self.sentences.arcs[rows, :longest].reshape(-1)[keep]]
        row_K, arc_K = language.arcs_of(state_M)
        prefixes = Prefixes(
            TrueDistributions(row_K, language.arc_tokens[arc_K], language.probabilities[arc_K]),
            log_p_K=language.log_probs[arc_K],
            slot_K=language.arc_slots[arc_K],
            entropy_M=language.state_entropies[state_M],
            weight_M=weights[keep],
            row_M=rows[keep // longest],
            tokens_before_M=keep % longest,
        )
        return Batch(torch.from_numpy(inputs), torch.from_numpy(keep), prefixes)


@dataclass(frozen=True, eq=False)
class FirstTokens(Corpus):
    """The first tokens of each sentence, as many as `context`; their floor is of these alone."""

    context: int

    @classmethod
    def of(cls, corpus: Corpus, context: int) -> FirstTokens:
        """Those of a corpus of whole sentences."""
        sentences = corpus.sentences.language.sentences_of(corpus.sentences.arcs[:, :context])
        return cls(sentences, corpus.weights[:, :context], corpus.exact, context)

    @property
    def summed(self) -> Summed:
        """As of whole sentences, but for the floor and the tokens."""
        floor, tokens = self.sentences.language.entropy_of_first(self.context)
        return replace(super().summed, floor=floor, tokens_per_row=tokens)


@dataclass(frozen=True, eq=False)
class WindowCorpus:
    """Windows of a process without their last symbol, and the weight of the symbol after each."""

    process: Process
    symbols: Int[np.ndarray, "N T"]
    weights: Float[np.ndarray, "N T"]
    exact: bool

    @classmethod
    def everything(cls, process: Process, window: int) -> WindowCorpus | None:
        """All windows of that many symbols; None where they are too many."""
        symbols = np.zeros((1, 0), dtype=np.int64)
        for length in range(window - 1):
            size = len(symbols)
            if size * len(process.symbols) * (window - 1) > MOST_SYMBOLS:
                return None
            following = np.tile(np.arange(len(process.symbols)), size)
            symbols = np.concatenate(
                [np.repeat(symbols, len(process.symbols), axis=0), following[:, None]], axis=1
            )
            p_N = process.probabilities(symbols)[:, length]
            symbols = symbols[p_N > 0]
        probabilities = process.probabilities(symbols)
        # Rows are sorted: the first one with a prefix represents it.
        first = np.ones(symbols.shape, dtype=bool)
        first[1:] = np.cumsum(symbols[1:] != symbols[:-1], axis=1) > 0
        return cls(process, symbols, np.where(first, probabilities, 0.0), exact=True)

    @classmethod
    def sample(cls, process: Process, window: int, windows: int | None, seed: int) -> WindowCorpus:
        """`windows` independent windows (default: some hundred thousand symbols)."""
        if windows is None:
            windows = max(2, SAMPLED_SYMBOLS // window)
        symbols = process.sample(windows, window - 1, np.random.default_rng([seed, SAMPLE]))
        return cls(process, symbols, np.ones(symbols.shape), exact=False)

    @property
    def name(self) -> str:
        """Of the process."""
        return self.process.name

    @property
    def vocabulary_size(self) -> int:
        """Of the process."""
        return len(self.process.vocabulary)

    @property
    def summed(self) -> Summed:
        """The windows, whose slots are the symbols."""
        window = self.symbols.shape[1] + 1
        floor = self.process.window_entropy(window)
        return Summed(
            rows=len(self.symbols),
            slots=self.process.symbols,
            tokens_per_row=window - 1,
            floor=floor.value,
            floor_error=floor.error,
            exact=self.exact,
            window=window,
        )

    @property
    def prefixes(self) -> int:
        """How many positions count."""
        return int(np.count_nonzero(self.weights > 0))

    def digest(self) -> str:
        """Of the windows and their weights."""
        return _digest(self.symbols, self.weights)

    def batches(self) -> Iterator[Int[np.ndarray, "B"]]:
        """Row indices in their order."""
        count = max(1, BATCH_POSITIONS // self.symbols.shape[1])
        for start in range(0, len(self.symbols), count):
            yield np.arange(start, min(start + count, len(self.symbols)))

    def batch(self, rows: Int[np.ndarray, "B"]) -> Batch:
        """The windows of these rows, and the true distribution after each prefix."""
        symbols = self.symbols[rows]
        weights = self.weights[rows].reshape(-1)
        keep = np.flatnonzero(weights > 0)
        p_MV = self.process.predictor.distributions(symbols).reshape(len(weights), -1)[keep]
        row_K, symbol_K = np.nonzero(p_MV > 0)
        p_K = p_MV[row_K, symbol_K]
        length = symbols.shape[1]
        prefixes = Prefixes(
            TrueDistributions(row_K, symbol_K + FIRST_SYMBOL, p_K),
            log_p_K=np.log(p_K),
            slot_K=symbol_K,
            entropy_M=entr(p_MV).sum(axis=1),
            weight_M=weights[keep],
            row_M=rows[keep // length],
            tokens_before_M=keep % length + 1,
        )
        inputs = torch.from_numpy(symbols + FIRST_SYMBOL)
        return Batch(inputs, torch.from_numpy(keep), prefixes)


def _digest(*arrays: Shaped[np.ndarray, "..."]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
