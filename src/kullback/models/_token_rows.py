"""Rows of token ids: checks, and their layout as one stream of tokens.

Axes: N rows, T columns, P positions of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

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
    "token_mask",
    "token_stream",
]

Row: TypeAlias = "Sequence[int] | Int[np.ndarray, ' T']"
Integers: TypeAlias = Int64[np.ndarray, " _"]  # one per position, n-gram or row, as its name says


class TokenStream(NamedTuple):
    """Rows concatenated, each after `bos` if there is one."""

    tokens: Integers
    depth: Integers
    """The number of tokens of the row to the left of each position."""
    predicted: Bool[np.ndarray, " P"]
    """All positions but those of the added `bos`."""


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
    sizes = sizes + added
    depth = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    predicted = depth >= added
    tokens = np.full(len(depth), -1 if bos is None else bos, dtype=np.int64)
    tokens[predicted] = values
    return TokenStream(tokens, depth, predicted)


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
