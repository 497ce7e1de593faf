"""Sums of residuals over documents, and over equal pieces of long ones.

Axes: G documents, m tokens of one part, P pieces of a document.  Arrays marked ``_`` differ in
length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kullback.uncertainty.documents import Documents, DocumentSums

__all__ = ["FINEST", "PieceSums", "piece_length"]

# The most pieces that a text is split into: finer ones change nothing at low frequencies.
FINEST = 1 << 16


def piece_length(tokens: int) -> int:
    """The tokens of each of at most `FINEST` pieces of a document."""
    return -(-tokens // FINEST)


class PieceSums:
    """One value a token, in parts, summed over documents and over pieces of the long ones."""

    def __init__(self, documents: Documents, long_documents: Sequence[int]) -> None:
        self._sums = DocumentSums(documents)
        self._series = [
            _Series(int(documents.start_G[g]), int(documents.size_G[g])) for g in long_documents
        ]
        self._row = 0

    def add(self, values_m: Float[np.ndarray, "m"]) -> None:
        """The values of the next tokens."""
        self._sums.add(values_m)
        for series in self._series:
            series.add(values_m, self._row)
        self._row += len(values_m)

    @property
    def reduced(self) -> list[Float[np.ndarray, "_"]]:
        """The sums over documents, then each long one as a series of sums over equal pieces."""
        return [self._sums.sums_G, *(series.sums_P for series in self._series)]


class _Series:
    """A long document as sums over its pieces."""

    def __init__(self, start: int, size: int) -> None:
        self._start = start
        self._length = piece_length(size)
        # The last, incomplete piece is missing from the series, not from the mean.
        self._complete = size // self._length * self._length
        self.sums_P = np.zeros(size // self._length)

    def add(self, values_m: Float[np.ndarray, "m"], row: int) -> None:
        """The values of the tokens from `row` of the text on."""
        begin = max(row - self._start, 0)
        end = min(row + len(values_m) - self._start, self._complete)
        if begin >= end:
            return
        length, offset = self._length, self._start - row
        # Pieces that another part began, or ends, are summed apart.
        whole_begin, whole_end = -(-begin // length) * length, end // length * length
        if whole_begin > whole_end:
            self.sums_P[begin // length] += values_m[begin + offset : end + offset].sum()
            return
        if begin < whole_begin:
            self.sums_P[begin // length] += values_m[begin + offset : whole_begin + offset].sum()
        whole_m = values_m[whole_begin + offset : whole_end + offset]
        pieces = slice(whole_begin // length, whole_end // length)
        self.sums_P[pieces] += whole_m.reshape(-1, length).sum(axis=1)
        if whole_end < end:
            self.sums_P[whole_end // length] += values_m[whole_end + offset : end + offset].sum()
