"""Rows of token ids: checks, and their layout as one stream of tokens.

Axes: N rows, T columns, P positions of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Int64

from kullback.errors import InvalidValueError

__all__ = [
    "Integers",
    "Row",
    "TokenStream",
    "integers",
    "positive",
    "rows_of",
    "sentence_stream",
    "token_mask",
    "token_stream",
]

Row: TypeAlias = "Sequence[int] | Int[np.ndarray, ' T']"
Integers: TypeAlias = Int[np.ndarray, " _"]  # one per position, n-gram or row, as its name says


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Rows concatenated, each after `bos` if there is one."""

    tokens: Integers
    """Of 32 bits where they are enough to count as many n-grams."""
    sizes: Int[np.ndarray, " N"]
    """The tokens of each row, `bos` included."""
    added: int
    """1 where each row begins with an added `bos`, else 0."""

    def has_before(self, count: int) -> Bool[np.ndarray, " P"]:
        """At which positions the row has `count` tokens before."""
        has = np.ones(len(self.tokens), bool)
        begins, sizes = np.cumsum(self.sizes) - self.sizes, self.sizes
        for place in range(count):
            begins, sizes = begins[sizes > place], sizes[sizes > place]
            has[begins + place] = False
        return has

    @property
    def predicted(self) -> Bool[np.ndarray, " P"]:
        """All positions but those of the added `bos`."""
        return self.has_before(self.added)


def token_stream(
    values: Integers, sizes: Integers, bos: int | None, vocabulary_size: int, place: str
) -> TokenStream:
    """Concatenate the rows, `bos` before each; `place` formats a token's position in an error."""
    wrong = np.flatnonzero((values < 0) | (values >= vocabulary_size))
    if len(wrong):
        row = int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
        column = int(wrong[0] - sizes[:row].sum())
        raise InvalidValueError(
            f"{place.format(row=row, column=column)} is {values[wrong[0]]}: a token id must be"
            f" in [0, {vocabulary_size}), the vocabulary; give the array's lengths if it is padding"
        )
    added = 0 if bos is None else 1
    total = len(values) + added * len(sizes)
    index = np.int32 if max(total, vocabulary_size) < 1 << 31 else np.int64
    stream = TokenStream(np.full(total, bos or 0, index), sizes + added, added)
    stream.tokens[stream.predicted] = values
    return stream


def sentence_stream(
    sentences: Sequence[Row] | Int[np.ndarray, "N T"],
    lengths: Row | None,
    bos: int | None,
    vocabulary_size: int,
) -> TokenStream:
    """The stream of rows that are counted; `InvalidValueError` where they have no token."""
    values, sizes = rows_of(sentences, lengths, "sentences")
    stream = token_stream(values, sizes, bos, vocabulary_size, "sentences[{row}][{column}]")
    if not len(values):
        raise InvalidValueError("sentences contain no token: at least one is needed to count")
    return stream


def rows_of(
    sentences: Sequence[Row] | Int[np.ndarray, "N T"], lengths: Row | None, name: str
) -> tuple[Integers, Integers]:
    """The tokens of all rows concatenated, without padding, and the sizes of the rows."""
    if not isinstance(sentences, np.ndarray):
        if lengths is not None:
            raise InvalidValueError(f"lengths must be None when {name} is a sequence of rows")
        rows = [integers(row, f"{name}[{i}]") for i, row in enumerate(sentences)]
        sizes = np.array([len(row) for row in rows], dtype=np.int64)
        return np.concatenate([*rows, np.empty(0, dtype=np.int64)]), sizes
    tokens = integers(sentences, name, dimensions=2)
    n_rows, n_columns = tokens.shape
    sizes = np.full(n_rows, n_columns) if lengths is None else integers(lengths, "lengths")
    if len(sizes) != n_rows:
        raise InvalidValueError(f"lengths has {len(sizes)} entries: it needs {n_rows}, one per row")
    wrong = np.flatnonzero((sizes < 0) | (sizes > n_columns))
    if len(wrong):
        raise InvalidValueError(
            f"lengths[{wrong[0]}] is {sizes[wrong[0]]}: it must be in [0, {n_columns}], the"
            f" number of columns of {name}"
        )
    return tokens[token_mask(n_columns, sizes)], sizes


def token_mask(n_columns: int, sizes: Integers) -> Bool[np.ndarray, "N T"]:
    """Which entries of a padded array are tokens."""
    return np.arange(n_columns) < sizes[:, None]


def integers(
    values: Row | Int[np.ndarray, "N T"], name: str, *, dimensions: int = 1
) -> Int64[np.ndarray, "..."]:
    """An int64 array of that many dimensions; floats are refused, not rounded."""
    array = np.asarray(values)
    if array.ndim != dimensions:
        wanted = "[rows, columns]" if dimensions == 2 else "flat; one text is [tokens], one row"
        raise InvalidValueError(f"{name} has shape {array.shape}: it must be {wanted}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InvalidValueError(f"{name} has dtype {array.dtype}: it must be of integers")
    return array.astype(np.int64, copy=False)


def positive(value: int, name: str) -> int:
    """`value` as an int; `InvalidValueError` where it is not a whole number of at least 1."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise InvalidValueError(f"{name} is {value!r}: it must be a whole number, at least 1")
    return int(value)
