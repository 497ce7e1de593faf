"""The tokens of a corpus, piece by piece and in order, encoded by several threads or processes.

Axes: n tokens.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, TypeAlias, cast

import msgspec
import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.temporary import TemporaryBytes
from kullback.runtime.threads import cores, map_ahead, workers
from kullback.text.corpus import Corpus, Piece
from kullback.text.documents import IN_MEMORY, Document
from kullback.text.encoded_documents import encode_documents
from kullback.text.encoding_worker import read_frame, write_frame
from kullback.text.piece_encoders import piece_encoder, table_encoder
from kullback.text.tokenizer import TextTokenizer

__all__ = ["EncodedPiece", "encode_corpus"]

#: The ids of texts, as arrays' bytes.
Encode: TypeAlias = Callable[[Sequence[str]], list[bytes]]

# Characters that are encoded at a time, and documents.
BATCH = 1 << 18
BATCH_DOCUMENTS = 1 << 14
# Below it, no process has begun, and nothing is compiled, before the text is encoded.
SMALL_CORPUS = 32 << 20
# Bytes of documents whose tokens are found with their bytes.
SLOW_BATCH = 8 << 20


@dataclass(frozen=True)
class EncodedPiece:
    """Tokens of a document; the next piece may have more of it."""

    document: int
    ids: Int[np.ndarray, "n"]
    byte_sizes: Int[np.ndarray, "n"] | None
    """The bytes of text that each token covers; None where they are those of its entry."""
    text_bytes: int
    """Of the piece."""


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, text_tokenizer: TextTokenizer, dtype: str
) -> Iterator[EncodedPiece]:
    """The tokens of every document, in order; no special token is added.

    Raises `InvalidValueError` for a text that cannot be read or that the tokenizer cannot spell.
    """
    encoder = piece_encoder(tokenizer, dtype)
    if encoder is None:
        yield from _with_spans(corpus, text_tokenizer)
    elif corpus.estimated_bytes < SMALL_CORPUS:
        for batch in _batches(corpus.pieces()):
            yield from _of_batch(batch, encoder.encode(_texts(batch)), dtype)
    else:
        with _encoders(tokenizer, dtype) as encode, workers(cores()) as pool:
            encoded = map_ahead(
                pool,
                lambda batch: (batch, encode(_texts(batch))),
                _batches(corpus.pieces()),
                cores() + 1,
            )
            for batch, ids in encoded:
                yield from _of_batch(batch, ids, dtype)


def _texts(batch: Sequence[Piece]) -> list[str]:
    return [piece.text for piece in batch]


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _of_batch(
    batch: Sequence[Piece], encoded: Sequence[bytes], dtype: str
) -> Iterator[EncodedPiece]:
    for piece, ids in zip(batch, encoded, strict=True):
        yield EncodedPiece(
            piece.document, np.frombuffer(ids, dtype), None, len(piece.text.encode())
        )


@contextmanager
def _encoders(tokenizer: Tokenizer, dtype: str) -> Iterator[Encode]:
    """A function that threads call: in C, or else in processes, which share no lock."""
    encoder = table_encoder(tokenizer, dtype)
    if encoder is not None:
        yield encoder.encode
        return
    with _processes(tokenizer, dtype, cores()) as encode:
        yield encode


@contextmanager
def _processes(tokenizer: Tokenizer, dtype: str, count: int) -> Iterator[Encode]:
    """A function that threads call; each call is answered by one of `count` processes."""
    # One that is not installed is imported from where this one was.
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "TOKENIZERS_PARALLELISM": "false",
    }
    processes: list[subprocess.Popen[bytes]] = []
    free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    try:
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-m", "kullback.text.encoding_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
            processes.append(process)
            _send(process, (tokenizer.to_str(), dtype))
            free.put(process)

        def encode(texts: Sequence[str]) -> list[bytes]:
            process = free.get()
            try:
                _send(process, list(texts))
                frame = read_frame(_stream(process.stdout))
            finally:
                free.put(process)
            if frame is None:
                raise _ended(process)
            answer = msgspec.msgpack.decode(frame, type=list[bytes] | str)
            if isinstance(answer, str):
                raise InvalidValueError(answer)
            return answer

        yield encode
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _send(process: subprocess.Popen[bytes], value: object) -> None:
    try:
        write_frame(_stream(process.stdin), value)
    except BrokenPipeError:
        raise _ended(process) from None


def _stream(stream: object) -> BinaryIO:
    return cast("BinaryIO", stream)  # of a process that was started with pipes


def _ended(process: subprocess.Popen[bytes]) -> RunError:
    return RunError(
        f"process {process.pid}, which encoded the text, has ended with {process.wait()}: perhaps "
        "memory is short; run the command again with less else running"
    )


def _with_spans(corpus: Corpus, tokenizer: TextTokenizer) -> Iterator[EncodedPiece]:
    """By whole documents, in an encoder that checks that each token's bytes are known."""
    for documents in _documents(corpus):
        encodings = encode_documents(tokenizer, [document for _, document in documents])
        for (number, document), encoding in zip(documents, encodings, strict=True):
            for begin in range(0, len(encoding), BATCH):
                end = min(begin + BATCH, len(encoding))
                spans = encoding.spans(begin, end)
                sizes = spans[:, 1] - spans[:, 0]
                size = int(spans[-1, 1]) - (int(spans[0, 0]) if begin else 0)
                yield EncodedPiece(number, encoding.ids[begin:end], sizes, size)
            if not len(encoding) and document.n_bytes:
                raise InvalidValueError(
                    f"the tokenizer has no token for the text {document.name}: choose another"
                )


def _documents(corpus: Corpus) -> Iterator[list[tuple[int, Document]]]:
    """Documents that have `SLOW_BATCH` bytes together, or one that has more."""
    stored, ends = TemporaryBytes(IN_MEMORY), [0]
    numbers: list[int] = []

    def read() -> list[tuple[int, Document]]:
        return [
            (number, Document.of_bytes(f"document {number}", stored, begin, end))
            for number, begin, end in zip(numbers, ends, ends[1:], strict=False)
        ]

    for piece in corpus.pieces():
        if not numbers or piece.document != numbers[-1]:
            if len(stored) >= SLOW_BATCH:
                yield read()
                stored, ends, numbers = TemporaryBytes(IN_MEMORY), [0], []
            numbers.append(piece.document)
            ends.append(len(stored))
        stored.append(piece.text.encode())
        ends[-1] = len(stored)
    if numbers:
        yield read()
