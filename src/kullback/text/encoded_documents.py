"""The tokens of documents: encoded in pieces, and stored on disk where they are many.

A tokenizer takes about 250 bytes of memory a byte of text, and no progress is seen while it works,
so a long text is encoded in pieces that overlap.  Two neighbouring pieces are joined in the middle
of the longest run of tokens that both have in their overlap: tokens and bytes.  Where no run is
long enough (a tokenizer whose choices reach across thousands of bytes, such as one word without
end) the document is encoded in one piece, so that the tokens are always those of the whole text.
Short documents are encoded several at a time.

Axes: n tokens.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from types import TracebackType
from typing import TypeAlias, overload

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.runtime.background import in_background
from kullback.runtime.columns import PART_ROWS, Column
from kullback.runtime.temporary import SharedFile
from kullback.runtime.threads import map_ahead, workers
from kullback.runtime.workers import own_cores
from kullback.text.documents import Document
from kullback.text.special_spellings import Spelled
from kullback.text.tokenizer import Encoding, TextTokenizer
from kullback.text.windows import Tokens

__all__ = [
    "EncodedAhead",
    "StoredEncoding",
    "StoredEncodings",
    "encode_documents",
    "equal_tokens",
]

#: Of W ranges of tokens the document, the first, and one after the last.
TokenRanges: TypeAlias = tuple[Int[np.ndarray, "W"], Int[np.ndarray, "W"], Int[np.ndarray, "W"]]
#: `TextTokenizer.encode` with the reading of special tokens set.
Encode: TypeAlias = Callable[..., Encoding]

# Bytes of a piece, and of its overlap with each neighbour.
PIECE = 1 << 18
OVERLAP = 1 << 13
# Equal tokens in a row that two pieces must have in their overlap.
AGREEMENT = 32


@dataclass(frozen=True)
class _Tokens:
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

    tokens: _Tokens
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

    def __init__(self, tokens: _Tokens, sizes: Sequence[int]) -> None:
        self._tokens = tokens
        self._size_G = np.array(sizes, np.int64)
        self._begin_G = np.cumsum(self._size_G) - self._size_G
        self._sizes: Column | None = None

    @classmethod
    def opened(cls, files: Sequence[SharedFile]) -> StoredEncodings:
        """Those of another process of this machine, in its files; raises `RunError` as they do."""
        ids, ends, sizes = map(Column.opened, files, (np.int32, np.int64, np.int64))
        return cls(_Tokens(ids, ends), sizes[:].tolist())

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


def encode_documents(
    tokenizer: TextTokenizer,
    documents: Sequence[Document],
    progress: Callable[[int, int], None] = lambda done, total: None,
    special_tokens: Spelled = "text",
    threads: int | None = None,
) -> StoredEncodings:
    """The tokens of each document; `progress` is told of bytes done and in all.

    `special_tokens` says how the spelling of a special token is read.  `threads` encode, by default
    one on each core of this process's part.

    Raises `InvalidValueError` as `TextTokenizer.encode` does, `RunError` where the tokens do not
    fit on the disk.
    """
    encoder = _Encoder(partial(tokenizer.encode, special_tokens=special_tokens), documents)
    threads, total = threads or own_cores(), sum(document.n_bytes for document in documents)
    with workers(threads) as pool, closing(encoder.run(pool, threads)) as steps:
        for _ in steps:
            progress(encoder.done.bytes, total)
    return encoder.encodings()


class EncodedAhead:
    """Documents that a thread encodes while others read what is there.  A context manager."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        documents: Sequence[Document],
        special_tokens: Spelled = "text",
    ) -> None:
        encode = partial(tokenizer.encode, special_tokens=special_tokens)
        self._encoder = _Encoder(encode, documents)
        self._has_ended = self._is_stopped = False
        self._changed = threading.Condition()
        self._result = in_background(self._run)

    def __enter__(self) -> EncodedAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """What is not encoded yet never is; what is being encoded is waited for, but after Ctrl-C.

        Else the end of the process would wait for it, when signals are no longer answered.
        """
        self._is_stopped = True
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            with self._changed:
                self._changed.wait_for(lambda: self._has_ended)

    def known(self, enough: int) -> tuple[StoredEncodings, int] | None:
        """The documents so far, of the last one perhaps a part, and their bytes: at least `enough`.

        Waits for these.  None where all are encoded, or cannot be.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._encoder.done.bytes >= enough)
        if self._has_ended:
            return None
        done = self._encoder.done
        return self._encoder.encodings(done), done.bytes

    def all(self) -> StoredEncodings:
        """All documents; waits for them, and raises as `encode_documents` does."""
        return self._result()

    def _run(self) -> StoredEncodings:
        threads = own_cores()
        try:
            # Without `workers`: the settings of torch are those of the pass that runs beside it.
            with (
                ThreadPoolExecutor(threads) as pool,
                closing(self._encoder.run(pool, threads)) as steps,
            ):
                for _ in steps:
                    with self._changed:
                        self._changed.notify_all()
                    if self._is_stopped:
                        break
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()
        return self._encoder.encodings()


@dataclass(frozen=True)
class _Done:
    """How far documents are encoded."""

    documents: int = 0
    tokens: int = 0
    """Of the next document."""
    bytes: int = 0


class _Encoder:
    """Encodes documents in order; what is done can be read while it goes on."""

    def __init__(self, encode: Encode, documents: Sequence[Document]) -> None:
        self._encode, self._documents = encode, documents
        self._tokens = _Tokens(Column(np.int32), Column(np.int64))
        self._sizes: list[int] = []
        self.done = _Done()

    def encodings(self, done: _Done | None = None) -> StoredEncodings:
        """What is done, or was when `done` was that."""
        done = done or self.done
        more = [done.tokens] if done.tokens else []
        return StoredEncodings(self._tokens, self._sizes[: done.documents] + more)

    def run(self, pool: ThreadPoolExecutor, threads: int) -> Generator[None, None, None]:
        """Encode all, in `threads` of the pool; stops after each step."""
        parts = (part for documents in _together(self._documents) for part in _parts(documents))
        encoded = map_ahead(pool, lambda part: part.encode(self._encode), parts, 2 * threads)
        n_bytes = 0
        with closing(encoded):
            for documents in _together(self._documents):
                size = 0
                for ids, ends, sizes in _encodings_of(documents, encoded, self._encode):
                    self._tokens.ids.append(ids)
                    self._tokens.ends.append(ends)
                    self._sizes += sizes
                    size += len(ids)
                    if not sizes and len(ends):  # a part of a long document
                        self.done = _Done(len(self._sizes), size, n_bytes + int(ends[-1]))
                        yield
                if len(documents) == 1:
                    self._sizes.append(size)
                n_bytes += sum(document.n_bytes for document in documents)
                self.done = _Done(len(self._sizes), 0, n_bytes)
                yield


def equal_tokens(first: Tokens, second: Tokens) -> bool:
    """Whether two encodings have the same tokens."""
    return len(first) == len(second) and all(
        np.array_equal(first.ids[begin : begin + PART_ROWS], second.ids[begin : begin + PART_ROWS])
        for begin in range(0, len(first), PART_ROWS)
    )


@dataclass(frozen=True)
class _Piece:
    """A part of a document with the overlaps around it."""

    document: Document
    begin: int
    """The first byte that is encoded."""
    end: int
    is_last: bool

    def encode(self, encode: Encode) -> Encoding:
        """Its tokens, with their bytes in the document."""
        text = self.document.content(self.begin, self.end).decode()
        encoding = encode(text, first_byte=self.begin)
        return Encoding(encoding.ids, encoding.byte_spans + self.begin)


@dataclass(frozen=True)
class _Several:
    """Short documents, which are encoded one after the other."""

    documents: Sequence[Document]

    def encode(self, encode: Encode) -> _Encodings:
        """The tokens of all, with their bytes in their documents."""
        encodings = [encode(document.text) for document in self.documents]
        return _Encodings(
            np.concatenate([encoding.ids for encoding in encodings]),
            np.concatenate([encoding.byte_spans for encoding in encodings]),
            [len(encoding) for encoding in encodings],
        )


@dataclass(frozen=True, eq=False)
class _Encodings(Encoding):
    """The tokens of several documents, one after the other."""

    sizes: list[int]


def _together(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """The documents in order: several short ones of about a piece in all, or one."""
    several: list[Document] = []
    size = 0
    for document in documents:
        if several and size + document.n_bytes > PIECE:
            yield several
            several, size = [], 0
        several.append(document)
        size += document.n_bytes
    if several:
        yield several


def _parts(documents: list[Document]) -> Iterator[_Piece | _Several]:
    """What is encoded at a time of documents that are encoded together."""
    if len(documents) > 1:
        yield _Several(documents)
    else:
        yield from _pieces(documents[0])


def _encodings_of(
    documents: list[Document], encoded: Iterator[Encoding], encode: Encode
) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"], list[int]]]:
    """Ids and ends of documents that are encoded together; sizes of several, none of one."""
    if len(documents) == 1:
        for ids, ends in _joined(documents[0], encoded, encode):
            yield ids, ends, []
        return
    encodings = next(encoded)
    assert isinstance(encodings, _Encodings)
    yield encodings.ids, encodings.byte_spans[:, 1], encodings.sizes


def _pieces(document: Document) -> Iterator[_Piece]:
    """The document in one piece where it is short, else in pieces of about `PIECE` bytes."""
    size = document.n_bytes
    count = max(1, round(size / PIECE))
    for i in range(count):
        begin = _after_space(document, i * PIECE - OVERLAP) if i else 0
        is_last = i == count - 1
        end = size if is_last else document.boundary((i + 1) * PIECE + OVERLAP)
        yield _Piece(document, begin, end, is_last)


def _after_space(document: Document, place: int) -> int:
    """A byte shortly after `place` that follows whitespace, where there is one.

    So that no piece begins within a word, which a tokenizer may not know.
    """
    begin = document.boundary(place)
    around = document.content(begin, begin + OVERLAP // 8)
    places = [around.find(space) for space in (b" ", b"\n")]
    after = min((at + 1 for at in places if at >= 0), default=0)
    return begin + after


def _joined(
    document: Document, encoded: Iterator[Encoding], encode: Encode
) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]]:
    """Ids and ends of all tokens of `document`, whose pieces are the next in `encoded`."""
    pieces = list(_pieces(document)) if document.n_bytes > PIECE else []
    if len(pieces) < 2:
        encoding = next(encoded)
        yield encoding.ids, encoding.byte_spans[:, 1]
        return
    before, first, disagree = next(encoded), 0, False
    kept = end = 0
    for _ in pieces[1:]:
        after = next(encoded)
        cut = None if disagree else _cut(before, after)
        if cut is None:
            disagree = True  # the other pieces are still to be taken from `encoded`
            continue
        yield before.ids[first : cut[0]], before.byte_spans[first : cut[0], 1]
        kept, end = kept + cut[0] - first, int(before.byte_spans[cut[0] - 1, 1])
        before, first = after, cut[1]
    if not disagree:
        yield before.ids[first:], before.byte_spans[first:, 1]
        return
    # The joined tokens so far are the first ones of the whole, too.
    encoding = encode(document.text)
    if kept and encoding.byte_spans[kept - 1, 1] != end:
        raise InvalidValueError(
            f"the tokenizer reads {document.name} as other tokens when it reads a part of it "
            f"(before byte {end}): split the text into several documents"
        )
    yield encoding.ids[kept:], encoding.byte_spans[kept:, 1]


def _cut(before: Encoding, after: Encoding) -> tuple[int, int] | None:
    """Where two pieces are joined: how many tokens of the first, and from which of the second on.

    None where the overlap has no `AGREEMENT` tokens in a row that are the same in both.
    """
    a = int(np.searchsorted(before.byte_spans[:, 0], after.byte_spans[0, 0]))
    begins, other = before.byte_spans[a:, 0], after.byte_spans
    b = np.searchsorted(other[:, 0], begins)
    inside = b < len(other)
    a_K, b_K = a + np.flatnonzero(inside), b[inside]
    same = (before.byte_spans[a_K] == other[b_K]).all(axis=1) & (before.ids[a_K] == after.ids[b_K])
    # Consecutive in both: the difference of their numbers is constant.
    a_K, b_K = a_K[same], b_K[same]
    if not len(a_K):
        return None
    breaks = np.flatnonzero((np.diff(a_K) != 1) | (np.diff(b_K) != 1)) + 1
    edges = np.concatenate([[0], breaks, [len(a_K)]])
    longest = int(np.argmax(np.diff(edges)))
    start, stop = int(edges[longest]), int(edges[longest + 1])
    if stop - start < AGREEMENT:
        return None
    middle = (start + stop) // 2
    return int(a_K[middle]), int(b_K[middle])
