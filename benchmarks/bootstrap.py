"""Bootstrap intervals over documents and over blocks of one text.

They assume no form of the distribution, and check `kullback.uncertainty.intervals`: over documents
they cover about as often, with blocks of a text of long memory less often
(`benchmarks/interval_coverage.py`).

Axes: G documents, M tokens in text order, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from kullback.errors import InvalidValueError
from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.long_run_variance import optimal_block_length

__all__ = ["bootstrap_over_blocks", "bootstrap_over_documents"]

RESAMPLES = 2000
# More documents than this are grouped at random, which does not change the quantiles.
MOST_GROUPS = 4096
# Resamples drawn at a time: with MOST_GROUPS documents a block of counts is 8 MB.
CHUNK = 256


def bootstrap_over_documents(
    numerator_G: Float[np.ndarray, "G"],
    denominator_G: Float[np.ndarray, "G"],
    unit: str,
    n: int,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Measurement:
    """Ratio of sums with the percentile-t interval over G documents.

    Documents are drawn with replacement; the quantiles of ``t* = (r* − r) / s*`` replace those of
    Student's t (Efron and Tibshirani 1993, An Introduction to the Bootstrap, eq. 12.22).  Raises
    `InvalidValueError` below two documents.

    >>> mean = bootstrap_over_documents(np.arange(30.0), np.ones(30), "nats", 30)
    >>> [round(bound, 1) for bound in mean.interval]
    [11.3, 17.9]
    """
    documents = len(numerator_G)
    if documents < 2:
        raise InvalidValueError(f"{documents} documents: a bootstrap needs at least two")
    total = float(denominator_G.sum())
    value = float(numerator_G.sum()) / total
    sums_G: Float[np.ndarray, "2 G"] = np.stack(
        [numerator_G - value * denominator_G, denominator_G.astype(np.float64)]
    )
    rng = np.random.default_rng(seed)
    if documents > MOST_GROUPS:
        group_G = rng.permutation(documents) % MOST_GROUPS
        sums_G = np.stack([np.bincount(group_G, weights=row) for row in sums_G])
    e, x = sums_G
    moments = np.stack([e, x, e * e, e * x, x * x])
    error = math.sqrt(documents / (documents - 1) * moments[2].sum()) / total
    groups = sums_G.shape[1]
    t_B = np.empty(resamples)
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        draw = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        times = np.bincount(draw.reshape(-1), minlength=count * groups).reshape(count, groups)
        e, x, ee, ex, xx = moments @ times.T
        shift = e / x
        spread = np.sqrt(np.maximum(ee - 2 * shift * ex + shift**2 * xx, 0.0)) / x
        spread *= math.sqrt(documents / (documents - 1))
        # A resample of one document many times has no spread: its t is infinite.
        without = np.where(shift == 0, 0.0, np.copysign(math.inf, shift))
        t_B[start : start + count] = np.divide(shift, spread, out=without, where=spread > 0)
    low, high = np.quantile(t_B, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Measurement(
        value,
        unit,
        error,
        n,
        documents,
        f"{documents} documents: percentile-t bootstrap, {resamples} resamples",
        level=level,
        bounds=(value - float(high) * error, value - float(low) * error),
    )


def bootstrap_over_blocks(
    values_M: Float[np.ndarray, "M"],
    unit: str,
    block_length: float | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Measurement:
    """The mean of one text with the percentile interval of the circular block bootstrap.

    Blocks of `block_length` successive tokens, of the text closed to a ring, are drawn until they
    have as many tokens as the text (Politis and Romano 1992); the length is that of Politis and
    White unless given.  Raises `InvalidValueError` for an empty text or a length below one.

    >>> mean = bootstrap_over_blocks(np.arange(100.0) % 10, "nats", block_length=10)
    >>> mean.value, mean.interval
    (4.5, (4.5, 4.5))
    """
    tokens = len(values_M)
    if tokens == 0:
        raise InvalidValueError("values is empty: give at least one token")
    if block_length is None:
        # Below one where neighbours are negatively correlated: then a token is a block.
        block_length = max(1.0, optimal_block_length(values_M).circular)
    if not block_length >= 1:
        raise InvalidValueError(f"block_length is {block_length}: it must be at least 1 token")
    length = min(tokens, max(1, round(block_length)))
    value = float(values_M.mean())
    blocks = -(-tokens // length)
    last = tokens - (blocks - 1) * length
    whole = _ring_sums(values_M - value, length)
    remainder = _ring_sums(values_M - value, last)
    rng = np.random.default_rng(seed)
    mean_B = np.empty(resamples)
    for start in range(0, resamples, CHUNK):
        draw = rng.integers(tokens, size=(min(CHUNK, resamples - start), blocks))
        sums = whole(draw[:, :-1]).sum(axis=1) + remainder(draw[:, -1])
        mean_B[start : start + CHUNK] = sums / tokens
    low, high = np.quantile(mean_B, [(1 - level) / 2, (1 + level) / 2])
    return Measurement(
        value,
        unit,
        float(mean_B.std()),
        tokens,
        blocks,
        f"one text: circular block bootstrap, blocks of {length} tokens, {resamples} resamples",
        level=level,
        bounds=(value + float(low), value + float(high)),
    )


def _ring_sums(
    values_M: Float[np.ndarray, "M"], length: int
) -> Callable[[np.ndarray], Float[np.ndarray, "..."]]:
    """The sums of `length` values from given starts; the end is followed by the start."""
    cumulated = np.concatenate([[0.0], np.cumsum(np.concatenate([values_M, values_M[:length]]))])

    def sums(start: np.ndarray) -> Float[np.ndarray, "..."]:
        totals: Float[np.ndarray, "..."] = cumulated[start + length] - cumulated[start]
        return totals

    return sums
