"""n-gram baselines of a training run, scored on the targets that its model is validated on.

Fitted to the training data and scored after the same contexts: an n-gram model sees the tokens of
the window or sentence, at most the last ``order - 1`` of them, and nothing before.  On a text also
as running text, where it sees the tokens before the window, which the model does not, as n-gram
toolkits (KenLM, SRILM) report the perplexity of a text.

The training data is counted for some of the targets after the other, so that memory does not grow
with them.

Axes: M target tokens, N sequences, T tokens of the longest sequence and the token before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from kullback.models._ngram_scores import OrderScores
from kullback.models._ngram_tables import count_ngrams
from kullback.models._token_rows import TokenStream, sentence_stream, token_stream
from kullback.runtime.columns import IN_MEMORY_EACH, Column
from kullback.training.batches import Batches, Shard

__all__ = [
    "BASELINE_ORDERS",
    "BASELINE_TOKENS",
    "TEXT_ORDERS",
    "BaselineLosses",
    "baseline_losses",
]

# Of a source, whose sentences are short.
BASELINE_ORDERS = (3, 5, 7)
#: Of a text: unigrams, then what is best for byte-pair tokens of a megabyte of text (3 or 4) or
#: more (5), and for characters (7).
TEXT_ORDERS = (1, 2, 3, 4, 5, 6, 7)
# Counting and scoring this many tokens takes seconds.
BASELINE_TOKENS = 2_000_000
# Targets that are scored in one count, which takes about a second: each takes 70 bytes.
SCORED_TOKENS = 1 << 19


@dataclass(frozen=True)
class BaselineLosses:
    """The negative log-likelihood of each target by the model of each order, in nats."""

    windows: dict[int, Column]
    """After the tokens of its window or sentence."""
    running: dict[int, Column]
    """After those before it in the text, too; of orders above 1, and of none on a source."""
    fitted_tokens: int
    """That the models are fitted to."""
    training_tokens: int


class _Scored(NamedTuple):
    """Targets with the tokens before them."""

    stream: TokenStream
    is_target: Bool[np.ndarray, "P"]
    """Of the predicted tokens of the stream."""


def baseline_losses(
    batches: Batches,
    steps: int,
    shards: Sequence[Shard],
    preceding: Sequence[Int64[np.ndarray, "N C"]] | None,
    orders: Sequence[int] | None = None,
) -> BaselineLosses:
    """Losses of the targets of the shards under models of each order.

    `preceding` are the tokens before each window of a text, at most, -1 for none; None on a source.
    By default the orders are `TEXT_ORDERS`, or `BASELINE_ORDERS` of a source.
    """
    if orders is None:
        orders = TEXT_ORDERS if batches.floor is None else BASELINE_ORDERS
    rows, V = batches.training_rows(steps, BASELINE_TOKENS), batches.vocabulary_size
    counted = sentence_stream(rows.tokens_NT, rows.lengths_N, rows.bos, V)
    on_text = preceding is not None
    losses = BaselineLosses(
        {order: Column(np.float64, IN_MEMORY_EACH) for order in orders},
        {order: Column(np.float64, IN_MEMORY_EACH) for order in orders if order > 1 and on_text},
        int(rows.lengths_N.sum()),
        rows.total,
    )
    columns, bos = (losses.windows, losses.running), rows.bos
    del rows
    for some in _groups(shards):
        scored = [_windows(shards[some], bos, V)]
        if preceding is not None:
            scored.append(_running(shards[some], preceding[some], V))

        def take(
            order: int,
            log_probs: list[Float64[np.ndarray, "..."]],
            scored: Sequence[_Scored] = scored,
        ) -> None:
            for of_order, log_probs_P, (_, is_target) in zip(
                columns, log_probs, scored, strict=False
            ):
                if order in of_order:
                    of_order[order].append(-log_probs_P[is_target])

        count_ngrams(counted, orders, V, OrderScores([s.stream for s in scored], V, take))
    return losses


def _groups(shards: Sequence[Shard]) -> Iterator[slice]:
    """Consecutive shards of about `SCORED_TOKENS` targets."""
    begin = targets = 0
    for end, shard in enumerate(shards, start=1):
        targets += len(shard.targets_M)
        if targets >= SCORED_TOKENS or end == len(shards):
            yield slice(begin, end)
            begin, targets = end, 0


def _windows(shards: Sequence[Shard], bos: int | None, vocabulary_size: int) -> _Scored:
    """The targets after what the model reads."""
    values, sizes = [], []
    skipped = 1 if bos is None else 0  # the n-gram model adds BOS, the first input, itself
    for shard in shards:
        tokens_NT, in_row_NT = _rows(shard)
        values.append(tokens_NT[:, 1 - skipped :][in_row_NT[:, 1 - skipped :]])
        sizes.append(shard.lengths_N + skipped)
    skipped_N = np.full(sum(map(len, sizes)), skipped)
    return _scored(np.concatenate(values), np.concatenate(sizes), skipped_N, bos, vocabulary_size)


def _running(
    shards: Sequence[Shard], preceding: Sequence[Int64[np.ndarray, "N C"]], vocabulary_size: int
) -> _Scored:
    """The targets of windows of a text after the tokens `preceding` each, too."""
    values, sizes, skipped = [], [], []
    for shard, before_NC in zip(shards, preceding, strict=True):
        tokens_NT, in_row_NT = _rows(shard)
        is_before_NC = before_NC >= 0
        tokens, known = (
            np.concatenate(halves, axis=1)
            for halves in ((before_NC, tokens_NT), (is_before_NC, in_row_NT))
        )
        values.append(tokens[known])
        sizes.append(known.sum(axis=1))
        skipped.append(1 + is_before_NC.sum(axis=1))
    values_P, sizes_N, skipped_N = map(np.concatenate, (values, sizes, skipped))
    return _scored(values_P, sizes_N, skipped_N, None, vocabulary_size)


def _scored(
    values: Int64[np.ndarray, "P"],
    sizes_N: Int64[np.ndarray, "N"],
    skipped_N: Int64[np.ndarray, "N"],
    bos: int | None,
    vocabulary_size: int,
) -> _Scored:
    """Rows of `sizes_N` tokens, of which the first `skipped_N` are no targets."""
    stream = token_stream(values, sizes_N, bos, vocabulary_size, "scored[{row}][{column}]")
    begins_N = np.cumsum(sizes_N) - sizes_N
    is_target = np.ones(len(values), bool)
    for column in range(int(skipped_N.max(initial=0))):
        is_target[begins_N[skipped_N > column] + column] = False
    return _Scored(stream, is_target)


def _rows(shard: Shard) -> tuple[Int64[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """The tokens of each sequence, the first input before its targets, and which are no padding."""
    inputs_M, targets_M = shard.inputs_M.numpy(), shard.targets_M.numpy()
    starts_N = np.cumsum(shard.lengths_N) - shard.lengths_N
    tokens_NT = np.zeros((len(starts_N), int(shard.lengths_N.max()) + 1), dtype=np.int64)
    in_row_NT = np.arange(tokens_NT.shape[1]) <= shard.lengths_N[:, None]
    tokens_NT[in_row_NT] = np.insert(targets_M, starts_N, inputs_M[starts_N])
    return tokens_NT, in_row_NT
