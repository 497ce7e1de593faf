"""The tokens of documents, one after the other in columns, on disk where they are many.

Axes: G documents, M tokens of some ranges, W ranges, m tokens of a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, overload

import numpy as np
from jaxtyping import Int

from kullback.runtime.columns import PART_ROWS, Column
from kullback.runtime.temporary import SharedFile
from kullback.text.windows import Tokens

__all__ = ["StoredEncoding", "StoredEncodings", "StoredTokens", "equal_tokens"]

#: Of W ranges of tokens the document, the first, and one after the last.
TokenRanges: TypeAlias = tuple[Int[np.ndarray, "W"], Int[np.ndarray, "W"], Int[np.ndarray, "W"]]


@dataclass(frozen=True)
class StoredTokens:
    """All documents' tokens, one after the other."""

    ids: Column
    ends: Column
    """The byte after each token, in its document."""


@dataclass(frozen=True)
class _Ids:
    """The ids of one document."""

    column: Column
    begin: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, tokens: slice) -> Int[np.ndarray, "m"]:
        begin, end, _ = tokens.indices(self.size)
        ids: Int[np.ndarray, "m"] = self.column[self.begin + begin : self.begin + end]
        return ids.astype(np.int64)


@dataclass(frozen=True)
class StoredEncoding:
    """The tokens of a document among those of others; read as an `Encoding`."""

    tokens: StoredTokens
    begin: int
    size: int

    def __len__(self) -> int:
        return self.size

    @property
    def ids(self) -> _Ids:
        """The tokens, in slices."""
        return _Ids(self.tokens.ids, self.begin, self.size)

    def spans(self, begin: int, end: int) -> Int[np.ndarray, "m 2"]:
        """The first byte of each of these tokens, and the one after its last."""
        before = min(begin, 1)
        first = self.begin + begin
        ends = self.tokens.ends[first - before : self.begin + end]
        starts = ends[:-1] if before else np.concatenate([[0], ends[:-1]])
        return np.stack([starts, ends[before:]], axis=1) if end > begin else np.empty((0, 2), int)

    def ends_of(self, tokens: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
        """The byte after each of these tokens, whose numbers increase; 0 for token -1."""
        known = tokens >= 0
        ends = np.zeros(len(tokens), np.int64)
        ends[known] = self.tokens.ends.take(self.begin + tokens[known])
        return ends


class StoredEncodings(Sequence[StoredEncoding]):
    """The tokens of G documents; those of many windows are read at once."""

    def __init__(self, tokens: StoredTokens, sizes: Sequence[int]) -> None:
        self._tokens = tokens
        self._size_G = np.array(sizes, np.int64)
        self._begin_G = np.cumsum(self._size_G) - self._size_G
        self._sizes: Column | None = None

    @classmethod
    def opened(cls, files: Sequence[SharedFile]) -> StoredEncodings:
        """Those of another process of this machine, in its files; raises `RunError` as they do."""
        ids, ends, sizes = map(Column.opened, files, (np.int32, np.int64, np.int64))
        return cls(StoredTokens(ids, ends), sizes[:].tolist())

    def shared(self) -> list[SharedFile]:
        """The files for `opened` in other processes, as long as these encodings are here."""
        if self._sizes is None:
            self._sizes = Column.of(self._size_G)
        return [column.shared() for column in (self._tokens.ids, self._tokens.ends, self._sizes)]

    def __len__(self) -> int:
        return len(self._size_G)

    @overload
    def __getitem__(self, index: int) -> StoredEncoding: ...

    @overload
    def __getitem__(self, index: slice) -> list[StoredEncoding]: ...

    def __getitem__(self, index: int | slice) -> StoredEncoding | list[StoredEncoding]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return StoredEncoding(self._tokens, int(self._begin_G[index]), int(self._size_G[index]))

    @cached_property
    def digest(self) -> str:
        """A hash of the tokens and of the sizes of the documents."""
        digest = hashlib.blake2b(self._size_G.tobytes(), digest_size=16)
        for ids_m in self._tokens.ids.parts():
            digest.update(ids_m.tobytes())
        return digest.hexdigest()

    def spans_of(self, parts: TokenRanges) -> Int[np.ndarray, "M 2"]:
        """The bytes of the tokens of some ranges, in the order of the text; none for token -1."""
        begin_M, token_M = self._places(parts)
        ends_M2 = np.zeros((len(token_M), 2), np.int64)
        for column, shift in ((0, 1), (1, 0)):
            before_M = token_M - shift
            ends_M = self._tokens.ends.take(begin_M + np.maximum(before_M, 0))
            ends_M2[:, column] = np.where(before_M < 0, 0, ends_M)
        return ends_M2

    def ids_of(self, parts: TokenRanges) -> Int[np.ndarray, "M"]:
        """The ids of the tokens of some ranges, in the order of the text; -1 for token -1."""
        begin_M, token_M = self._places(parts)
        ids_M = self._tokens.ids.take(begin_M + np.maximum(token_M, 0))
        return np.where(token_M < 0, -1, ids_M).astype(np.int64)

    def _places(self, parts: TokenRanges) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "M"]]:
        """The place of each token's document in the columns, and its number there."""
        document_W, first_W, last_W = parts
        size_W = last_W - first_W
        shift_W = first_W - (np.cumsum(size_W) - size_W)
        token_M = np.arange(int(size_W.sum())) + np.repeat(shift_W, size_W)
        return np.repeat(self._begin_G[document_W], size_W), token_M


def equal_tokens(first: Tokens, second: Tokens) -> bool:
    """Whether two encodings have the same tokens."""
    return len(first) == len(second) and all(
        np.array_equal(first.ids[begin : begin + PART_ROWS], second.ids[begin : begin + PART_ROWS])
        for begin in range(0, len(first), PART_ROWS)
    )
