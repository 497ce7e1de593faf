"""n-gram baselines of a training run, scored on the targets that its model is validated on.

Fitted to the training data and scored after the same contexts: an n-gram model sees the tokens of
the window or sentence, at most the last ``order - 1`` of them, and nothing before.  On a text also
as running text, where it sees the tokens before the window, which the model does not, as n-gram
toolkits (KenLM, SRILM) report the perplexity of a text.

Axes: M target tokens, N sequences, T tokens of the longest sequence and the token before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from kullback.models._token_rows import Row
from kullback.models.kneser_ney import NgramModel
from kullback.training.batches import Batches, Shard

__all__ = [
    "BASELINE_ORDERS",
    "BASELINE_TOKENS",
    "TEXT_ORDERS",
    "fit_baselines",
    "ngram_losses",
    "running_losses",
    "scored_rows",
]

# Of a source, whose sentences are short.
BASELINE_ORDERS = (3, 5, 7)
#: Of a text: unigrams, then what is best for byte-pair tokens of a megabyte of text (3 or 4) or
#: more (5), and for characters (7).
TEXT_ORDERS = (1, 2, 3, 4, 5, 6, 7)
# Counting and scoring this many tokens takes seconds.
BASELINE_TOKENS = 2_000_000


def fit_baselines(
    batches: Batches,
    steps: int,
    orders: Sequence[int] | None = None,
    scored: Sequence[Row] | None = None,
) -> tuple[list[NgramModel], int, int]:
    """Models of each order, the tokens that they are fitted to, and those of the training data.

    By default the orders are `TEXT_ORDERS`, or `BASELINE_ORDERS` of a source.  With `scored` the
    models are for these rows only, as `NgramModel.fit_orders` has it.
    """
    if orders is None:
        orders = TEXT_ORDERS if batches.floor is None else BASELINE_ORDERS
    rows = batches.training_rows(steps, BASELINE_TOKENS)
    models = NgramModel.fit_orders(
        rows.tokens_NT,
        orders=orders,
        vocabulary_size=batches.vocabulary_size,
        bos=rows.bos,
        lengths=rows.lengths_N,
        scored=scored,
    )
    return models, int(rows.lengths_N.sum()), rows.total


def scored_rows(
    shards: Sequence[Shard], preceding: Sequence[Int64[np.ndarray, "N C"]] | None
) -> list[Row]:
    """Rows that have every n-gram that `ngram_losses` and `running_losses` look up."""
    rows: list[Row] = []
    for number, shard in enumerate(shards):
        tokens_NT, in_row_NT = _rows(shard)
        for i, (tokens_T, in_row_T) in enumerate(zip(tokens_NT, in_row_NT, strict=True)):
            row_T = tokens_T[in_row_T]
            if preceding is not None:
                before_C = preceding[number][i]
                row_T = np.concatenate([before_C[before_C >= 0], row_T])
            rows.append(row_T)
    return rows


def ngram_losses(model: NgramModel, shards: Sequence[Shard]) -> Float64[np.ndarray, "M"]:
    """The negative log-likelihood of each target of the shards, in nats."""
    return np.concatenate([_losses(model, shard) for shard in shards])


def _losses(model: NgramModel, shard: Shard) -> Float64[np.ndarray, "M"]:
    tokens_NT, in_row_NT = _rows(shard)
    if model.bos is None:
        log_probs_NT = model.token_log_probs(tokens_NT, shard.lengths_N + 1)[:, 1:]
    else:  # the model adds the first input itself
        log_probs_NT = model.token_log_probs(tokens_NT[:, 1:], shard.lengths_N)
    losses_M: Float64[np.ndarray, "M"] = -log_probs_NT[in_row_NT[:, 1:]]
    return losses_M


def running_losses(
    model: NgramModel, shards: Sequence[Shard], preceding: Sequence[Int64[np.ndarray, "N C"]]
) -> Float64[np.ndarray, "M"]:
    """As `ngram_losses`, of windows of a text with the tokens `preceding` each; -1 is none.

    Windows of a shard are equally long.
    """
    return np.concatenate(
        [_running(model, *of_shard) for of_shard in zip(shards, preceding, strict=True)]
    )


def _running(
    model: NgramModel, shard: Shard, before_NC: Int64[np.ndarray, "N C"]
) -> Float64[np.ndarray, "M"]:
    tokens_NT, _ = _rows(shard)
    losses_NL = np.empty((len(tokens_NT), tokens_NT.shape[1] - 1))
    known_N = (before_NC >= 0).sum(axis=1)
    for known in np.unique(known_N):
        rows = np.flatnonzero(known_N == known)
        before = before_NC[rows, before_NC.shape[1] - known :]
        whole = np.concatenate([before, tokens_NT[rows]], axis=1)
        losses_NL[rows] = -model.token_log_probs(whole)[:, known + 1 :]
    losses_M: Float64[np.ndarray, "M"] = losses_NL.reshape(-1)
    return losses_M


def _rows(shard: Shard) -> tuple[Int64[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """The tokens of each sequence, the first input before its targets, and which are no padding."""
    inputs_M, targets_M = shard.inputs_M.numpy(), shard.targets_M.numpy()
    starts_N = np.cumsum(shard.lengths_N) - shard.lengths_N
    tokens_NT = np.zeros((len(starts_N), int(shard.lengths_N.max()) + 1), dtype=np.int64)
    in_row_NT = np.arange(tokens_NT.shape[1]) <= shard.lengths_N[:, None]
    tokens_NT[in_row_NT] = np.insert(targets_M, starts_N, inputs_M[starts_N])
    return tokens_NT, in_row_NT
