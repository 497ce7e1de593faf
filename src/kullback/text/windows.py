"""Windows: which tokens a model reads together, and which of its predictions are scored.

A window is an interval of a *stream* (the tokens of a document, after BOS where a preset counts
that as one of them), perhaps with a leading token, and the part of it that is scored.  The
prediction after reading token k is of token k + 1, so a window reads up to the token before its
last target and no further.

Axes: T tokens that the model reads, M of its predictions that are scored.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol as Interface
from typing import overload

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Coverage", "Ids", "Stream", "Tokens", "Window", "Windows", "coverage"]


class Ids(Interface):
    """Tokens that are read in slices: an array, or a stored one."""

    def __len__(self) -> int: ...

    def __getitem__(self, tokens: slice, /) -> Int[np.ndarray, "m"]: ...


class Tokens(Interface):
    """The tokens of a document: an `Encoding`, or a stored one."""

    @property
    def ids(self) -> Ids:
        """The tokens."""

    def __len__(self) -> int: ...

    def spans(self, begin: int, end: int) -> Int[np.ndarray, "m 2"]:
        """The first byte of each token from `begin` to before `end`, and one after its last."""

    def ends_of(self, tokens: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
        """The byte after each of these tokens, whose numbers increase; 0 for token -1."""


@dataclass(frozen=True, eq=False)
class Stream:
    """All tokens of a document, after BOS where that is one of them."""

    ids: Ids
    bos: int | None = None

    @property
    def n_leading(self) -> int:
        """How many tokens are not the document's: 1 where the stream begins with BOS."""
        return int(self.bos is not None)

    def __len__(self) -> int:
        return len(self.ids) + self.n_leading

    def __getitem__(self, tokens: slice) -> Int[np.ndarray, "m"]:
        begin, end, _ = tokens.indices(len(self))
        ids = self.ids[max(begin - self.n_leading, 0) : max(end - self.n_leading, 0)]
        return np.concatenate([[self.bos], ids]) if self.n_leading and begin == 0 < end else ids


@dataclass(frozen=True, eq=False)
class Window:
    """The tokens that a model reads at once, and which of them are scored."""

    document: int
    """The index of the document."""
    stream: Stream
    """All tokens of the document, shared by its windows."""
    leading: int | None
    """A token that is read before those of the stream, or None."""
    begin: int
    """The first token of the stream that is read."""
    first: int
    """The first token of the stream that is scored."""
    last: int
    """One after the last."""
    weight: float = 1.0
    """The weight of each of its tokens in a mean."""

    def __len__(self) -> int:
        """M."""
        return self.last - self.first

    @property
    def inputs(self) -> Int[np.ndarray, "T"]:
        """The tokens that the model reads."""
        read = self.stream[self.begin : self.last - 1]
        return read if self.leading is None else np.concatenate([[self.leading], read])

    @property
    def n_inputs(self) -> int:
        """T."""
        return self.last - 1 - self.begin + (self.leading is not None)

    @property
    def rows(self) -> slice:
        """The M of the T predictions that are scored: the last ones."""
        return slice(self.n_inputs - len(self), self.n_inputs)

    @property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The target tokens."""
        return self.stream[self.first : self.last]

    @property
    def tokens(self) -> Int[np.ndarray, "M"]:
        """The indices of the targets in the document; -1 is a BOS that a preset scores."""
        return np.arange(self.first, self.last) - self.stream.n_leading

    @property
    def positions(self) -> Int[np.ndarray, "M"]:
        """How many tokens the model has read before each target, with the leading one."""
        return np.arange(self.rows.start, self.rows.stop) + 1

    def byte_spans(self, encoding: Tokens) -> Int[np.ndarray, "M 2"]:
        """The bytes of the targets in the document; a BOS has none."""
        first, last = (max(token - self.stream.n_leading, 0) for token in (self.first, self.last))
        spans_m2 = encoding.spans(first, last)
        bos = np.zeros((len(self) - len(spans_m2), 2), spans_m2.dtype)
        return np.concatenate([bos, spans_m2])

    @property
    def key(self) -> tuple[int, int, int]:
        """Document, first token that is read, and first that is scored: no two windows share it."""
        return self.document, self.begin, self.first


class Windows(Sequence[Window]):
    """The windows of a text, W of them, in 40 bytes each."""

    def __init__(self, streams: Mapping[int, Stream], columns: np.ndarray) -> None:
        self._streams = streams
        self._columns = columns
        self.document_W: Int[np.ndarray, "W"] = columns["document"]
        """The index of each window's document."""
        self.first_W: Int[np.ndarray, "W"] = columns["first"]
        """The first token of the stream that is scored."""
        self.last_W: Int[np.ndarray, "W"] = columns["last"]
        """One after the last."""
        self.weight_W: Float[np.ndarray, "W"] = columns["weight"]
        """The weight of each window's tokens."""

    @classmethod
    def of(cls, windows: Iterable[Window]) -> Windows:
        """The windows in a compact form."""
        streams: dict[int, Stream] = {}
        rows = bytearray()
        for window in windows:
            streams[window.document] = window.stream
            leading = NO_TOKEN if window.leading is None else window.leading
            rows += _ROW.pack(
                window.document, leading, window.begin, window.first, window.last, window.weight
            )
        return cls(streams, np.frombuffer(rows, _ROW_TYPE))

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, index: int) -> Window: ...

    @overload
    def __getitem__(self, index: slice) -> Windows: ...

    def __getitem__(self, index: int | slice) -> Window | Windows:
        if isinstance(index, slice):
            return Windows(self._streams, self._columns[index])
        document, leading, begin, first, last, weight = self._columns[index].item()
        return Window(
            document,
            self._streams[document],
            None if leading == NO_TOKEN else leading,
            begin,
            first,
            last,
            weight,
        )

    def digest(self) -> str:
        """A hash of all that is known of the windows beside the tokens of the documents."""
        begins_with = sorted({-1 if s.bos is None else s.bos for s in self._streams.values()})
        digest = hashlib.blake2b(repr(begins_with).encode(), digest_size=16)
        digest.update(self._columns.tobytes())
        return digest.hexdigest()

    def scored(self) -> Int[np.ndarray, "W"]:
        """M of each window."""
        sizes: Int[np.ndarray, "W"] = self.last_W - self.first_W
        return sizes

    def read(self) -> Int[np.ndarray, "W"]:
        """T of each window."""
        leading_W = self._columns["leading"] != NO_TOKEN
        lengths: Int[np.ndarray, "W"] = self.last_W - 1 - self._columns["begin"] + leading_W
        return lengths

    def targets(self) -> tuple[Int[np.ndarray, "W"], Int[np.ndarray, "W"], Int[np.ndarray, "W"]]:
        """Of each window the document, the first token that is scored, and one after the last.

        Token -1 is a BOS that a preset scores.
        """
        documents: list[int] = self.document_W.tolist()
        leading_W = np.array([self.n_leading(document) for document in documents], np.int64)
        return self.document_W, self.first_W - leading_W, self.last_W - leading_W

    def n_leading(self, document: int) -> int:
        """How many tokens of this document's stream are not the document's."""
        return self._streams[document].n_leading


NO_TOKEN = -1
_ROW = struct.Struct("=iiqqqd")
_ROW_TYPE = np.dtype(
    {
        "names": ["document", "leading", "begin", "first", "last", "weight"],
        "formats": ["<i4", "<i4", "<i8", "<i8", "<i8", "<f8"],
    }
)


@dataclass(frozen=True, eq=False)
class Coverage:
    """How many tokens and bytes of the documents are scored."""

    tokens: int
    scored_tokens: int
    bytes: int
    scored_bytes: int
    scored_bytes_G: Int[np.ndarray, "G"]
    """Of each document."""

    @property
    def complete(self) -> bool:
        """Whether every byte is scored."""
        return self.scored_bytes == self.bytes


def coverage(encodings: Sequence[Tokens], windows: Windows) -> Coverage:
    """How many of the tokens and bytes the windows score."""
    scored_tokens_G, scored_bytes_G = np.zeros((2, len(encodings)), np.int64)
    total_bytes = 0
    document_W = windows.document_W
    edges = np.flatnonzero(np.diff(document_W, prepend=-1, append=len(encodings)))
    for begin, end in pairwise(edges.tolist()):
        document = int(document_W[begin])
        part, leading = windows[begin:end], windows.n_leading(document)
        first_W, last_W = (np.maximum(edge - leading, 0) for edge in (part.first_W, part.last_W))
        scored_tokens_G[document] = (last_W - first_W).sum()
        encoding = encodings[document]
        ends_W, starts_W = (encoding.ends_of(edge - 1) for edge in (last_W, first_W))
        scored_bytes_G[document] = (ends_W - starts_W).sum()
    for encoding in encodings:
        if len(encoding):
            total_bytes += int(encoding.ends_of(np.array([len(encoding) - 1]))[0])
    return Coverage(
        tokens=sum(map(len, encodings)),
        scored_tokens=int(scored_tokens_G.sum()),
        bytes=total_bytes,
        scored_bytes=int(scored_bytes_G.sum()),
        scored_bytes_G=scored_bytes_G,
    )
