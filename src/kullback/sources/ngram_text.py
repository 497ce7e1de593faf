"""The n-gram model of a text as a source: its counts are the true probabilities.

Each line of the text that is not empty is a sentence, and a token (a character or a word) depends
on the n − 1 tokens before it in its line, with p(token | context) = c(context, token) /
c(context): the maximum-likelihood estimate.  That is a deterministic automaton whose states are the
contexts, so its entropy is exact.  Moreover the flow through its states is that of the text, which
is balanced: a sentence of the source passes a context as often as a line of the text does on
average.

A space is written as ``▁`` where tokens are characters, since spaces separate tokens.

Axes: N tokens of the text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.runtime.decoding import read_bounded
from kullback.runtime.ranges import Range
from kullback.sources.language import Language
from kullback.text.special_tokens import BOS, BOS_ID, EOS, EOS_ID

__all__ = ["ORDERS", "UNITS", "Unit", "ngram_language"]

Unit: TypeAlias = Literal["characters", "words"]
UNITS: tuple[Unit, ...] = ("characters", "words")
#: Of an n-gram: at 1 the tokens are independent.
ORDERS = Range(1, 64)
MOST_BYTES = 256 << 20  # of a text: its counts are in memory
SPACE = "▁"
# Tokens of a line on average: sampled sentences are longer, and have at most 10,000.
MOST_MEAN = 500


def ngram_language(path: Path, order: int, unit: Unit) -> Language:
    """The n-gram model of the UTF-8 text in a file, n = `order`.

    Raises `InvalidValueError` for a file that cannot be read or has no line with a token, and for
    an order or a unit that is unknown.
    """
    ORDERS.check("order", order)
    if unit not in UNITS:
        raise InvalidValueError(f"unit is {unit!r}: it must be one of {', '.join(UNITS)}")
    lines = _lines(path, unit)
    words = sorted({word for line in lines for word in set(line)} - {BOS, EOS})
    vocabulary = (BOS, EOS, *words)
    number = {word: i for i, word in enumerate(vocabulary)}
    reserved = next((word for line in lines for word in (BOS, EOS) if word in line), None)
    if unit == "words" and reserved is not None:
        raise InvalidValueError(
            f"{path} contains the word {reserved}, which the vocabulary of a source reserves: "
            "remove it from the text"
        )
    tokens = [number[word] for line in lines for word in (*line, EOS)]
    lengths = np.array([len(line) + 1 for line in lines])
    if lengths.mean() > MOST_MEAN:
        raise InvalidValueError(
            f"the lines of {path} have {lengths.mean():,.0f} {unit} on average, and each is a "
            f"sentence: break them into lines of at most {MOST_MEAN}"
        )
    return _language(path.stem, vocabulary, np.array(tokens), lengths, order, unit)


def _lines(path: Path, unit: Unit) -> list[Sequence[str]]:
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InvalidValueError(
            f"the text {path} cannot be read: {error.strerror or error}; check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"the text {path} is not UTF-8: byte {error.start:,} is wrong; convert it first"
        ) from None
    except ValueError as error:
        raise InvalidValueError(f"the text {path}: {error}; use a smaller text") from None
    lines: list[Sequence[str]] = []
    for line in text.split("\n"):
        words = line.split()
        if words:
            lines.append(words if unit == "words" else SPACE.join(words))
    if not lines:
        raise InvalidValueError(f"the text {path} has no line with a token: give another text")
    return lines


def _language(
    name: str,
    vocabulary: tuple[str, ...],
    tokens_N: Int[np.ndarray, "N"],
    lengths: Int[np.ndarray, "sentences"],
    order: int,
    unit: Unit,
) -> Language:
    size = len(vocabulary)
    first_N = np.repeat(np.cumsum(lengths) - lengths, lengths)
    place_N = np.arange(len(tokens_N))
    # The context of each token: its last tokens, the oldest first; before a line there is BOS.
    context_N = np.zeros(len(tokens_N), dtype=np.int64)
    for back in range(order - 1, 0, -1):
        before = place_N - back
        token = np.where(before >= first_N, tokens_N[np.maximum(before, 0)], BOS_ID)
        _, context_N = np.unique(context_N * size + token, return_inverse=True)
        context_N = context_N.reshape(-1)
    # State 0 is the start, the context of the first token of the text.
    start = context_N[0]
    context_N = np.where(context_N == start, 0, np.where(context_N == 0, start, context_N))
    arcs, example, count = np.unique(
        context_N * size + tokens_N, return_index=True, return_counts=True
    )
    states, arc_tokens = np.divmod(arcs, size)
    visits = np.bincount(states, count)
    following = np.concatenate([context_N[1:], [0]])[example]
    return Language(
        name=f"{name} ({order}-grams of {unit})",
        vocabulary=vocabulary,
        slots=(unit.removesuffix("s"), "end"),
        offsets=np.searchsorted(states, np.arange(len(visits) + 1)),
        arc_tokens=arc_tokens.astype(np.int32),
        arc_slots=(arc_tokens == EOS_ID).astype(np.int32),
        probabilities=count / visits[states],
        targets=np.where(arc_tokens == EOS_ID, -1, following),
        known_visits=visits / len(lengths),
    )
