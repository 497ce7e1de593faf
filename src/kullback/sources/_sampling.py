"""Vectorised sampling of sentences from a deterministic weighted automaton.

Axes: N sentences, T positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from kullback.errors import GrammarError
from kullback.runtime.limits import check_fits
from kullback.runtime.ranges import SENTENCES, Range

if TYPE_CHECKING:
    from kullback.sources.language import Language

__all__ = ["sample_arcs"]

# Sampling works on this many sentences at a time, so that its arrays stay in the cache.
SAMPLE_BLOCK = 1 << 15
# Arcs, tokens and surprisals, and the arcs of blocks that are not joined yet.
BYTES_PER_TOKEN = 32


def sample_arcs(
    language: Language, n: int, rng: np.random.Generator, max_tokens: int, cut_at: int | None
) -> Int[np.ndarray, "N T"]:
    """The arcs of `n` sampled sentences, padded with -1; errors as in `Language.sample`."""
    Range(0, SENTENCES.high).check("n", n, ", the number of sentences")
    if n > SAMPLE_BLOCK:
        check_fits(
            n * language.tokens_per_sentence * BYTES_PER_TOKEN,
            f"a sample of {n:,} sentences",
            "ask for fewer sentences",
        )
    blocks = [
        _sample_block(language, min(SAMPLE_BLOCK, n - i), rng, max_tokens, cut_at)
        for i in range(0, n, SAMPLE_BLOCK)
    ] or [np.full((0, 0), -1, dtype=np.int64)]
    longest = max(block.shape[1] for block in blocks)
    arcs = np.full((n, longest), -1, dtype=np.int64)
    for i, block in enumerate(blocks):
        start = i * SAMPLE_BLOCK
        arcs[start : start + len(block), : block.shape[1]] = block
    return arcs


def _sample_block(
    language: Language, n: int, rng: np.random.Generator, max_tokens: int, cut_at: int | None
) -> Int[np.ndarray, "n T"]:
    """The arcs of `n` sampled sentences, all of which advance one position in each step."""
    cumulative, offsets = language.cumulative_probabilities, language.offsets
    rows, states = np.arange(n), np.zeros(n, dtype=np.int64)
    columns: list[np.ndarray] = []
    while len(rows) and len(columns) != cut_at:
        if len(columns) == max_tokens:
            raise GrammarError(
                f"{language.name}: a sentence has more than {max_tokens:,} tokens; make the "
                "grammar end sooner (in Python, Language.sample takes a larger max_tokens)"
            )
        low, high = offsets[states], offsets[states + 1] - 1
        threshold = rng.random(len(rows))
        # Where there is a choice: a binary search of each row's own cumulative distribution.
        open_rows = np.flatnonzero(low < high)
        while len(open_rows):
            first, last = low[open_rows], high[open_rows]
            middle = (first + last) >> 1
            beyond = cumulative[middle] <= threshold[open_rows]
            first = np.where(beyond, middle + 1, first)
            last = np.where(beyond, last, middle)
            low[open_rows], high[open_rows] = first, last
            open_rows = open_rows[first < last]
        column = np.full(n, -1, dtype=np.int64)
        column[rows] = low
        columns.append(column)
        states = language.targets[low]
        alive = states >= 0
        rows, states = rows[alive], states[alive]
    return np.stack(columns, axis=1)
