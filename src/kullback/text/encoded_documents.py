"""The tokens of documents, encoded in pieces.

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
from functools import partial
from types import TracebackType
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.runtime.background import in_background
from kullback.runtime.columns import Column
from kullback.runtime.threads import map_ahead, workers
from kullback.runtime.workers import own_cores
from kullback.text.documents import Document
from kullback.text.special_spellings import Spelled
from kullback.text.stored_encodings import StoredEncodings, StoredTokens
from kullback.text.tokenizer import Encoding, TextTokenizer

__all__ = ["EncodedAhead", "encode_documents"]

#: `TextTokenizer.encode` with the reading of special tokens set.
Encode: TypeAlias = Callable[..., Encoding]

# Bytes of a piece, and of its overlap with each neighbour.
PIECE = 1 << 18
OVERLAP = 1 << 13
# Equal tokens in a row that two pieces must have in their overlap.
AGREEMENT = 32


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
        self._has_ended = self._has_failed = self._is_stopped = False
        self._has_encoded_all = False
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
        """What is not encoded yet never is; what is begun is waited for, except after Ctrl-C.

        The end of the process would wait for it, too, but no longer answer signals.
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

    @property
    def has_failed(self) -> bool:
        """Whether `all` will raise, as far as is known."""
        return self._has_failed

    def all(self) -> StoredEncodings:
        """All documents; waits for them, and raises as `encode_documents` does."""
        encodings = self._result()
        assert self._has_encoded_all, "it was left before"
        return encodings

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
                else:
                    self._has_encoded_all = True
        except BaseException:
            self._has_failed = True
            raise
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
        self._tokens = StoredTokens(Column(np.int32), Column(np.int64))
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
        end = size if is_last else _after_space(document, (i + 1) * PIECE + OVERLAP)
        yield _Piece(document, begin, end, is_last)


def _after_space(document: Document, place: int) -> int:
    """A byte shortly after `place` that follows whitespace, where there is one.

    So that no piece begins or ends within a word, of which a tokenizer may not know a part.
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
    kept, end, digest = 0, 0, hashlib.blake2b()
    for _ in pieces[1:]:
        after = next(encoded)
        cut = None if disagree else _cut(before, after)
        if cut is None:
            disagree = True  # the other pieces are still to be taken from `encoded`
            continue
        joined = before.ids[first : cut[0]], before.byte_spans[first : cut[0], 1]
        yield joined
        digest.update(_content(*joined))
        kept, end = kept + cut[0] - first, int(before.byte_spans[cut[0] - 1, 1])
        before, first = after, cut[1]
    if not disagree:
        yield before.ids[first:], before.byte_spans[first:, 1]
        return
    encoding = encode(document.text)
    whole = encoding.ids[:kept], encoding.byte_spans[:kept, 1]
    if hashlib.blake2b(_content(*whole)).digest() != digest.digest():
        raise InvalidValueError(
            f"the tokenizer reads {document.name} as other tokens when it reads a part of it "
            f"(before byte {end}): split the text into several documents"
        )
    yield encoding.ids[kept:], encoding.byte_spans[kept:, 1]


def _content(ids_n: Int[np.ndarray, "n"], ends_n: Int[np.ndarray, "n"]) -> bytes:
    """Token by token."""
    return np.stack([ids_n, ends_n], axis=1, dtype=np.int64).tobytes()


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
