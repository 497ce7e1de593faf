"""The training and validation splits of a text, written token by token.

Axes: n tokens of a piece.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from kullback.runtime.temporary import TemporaryBytes
from kullback.text.encoded_corpus import EncodedPiece
from kullback.text.tokenizer import TextTokenizer
from kullback.training.text_shards import ShardWriter

__all__ = ["FEW_DOCUMENTS", "VALIDATION_BYTES", "SplitWriter", "held_out_share", "is_held_out"]

#: With fewer, the last tenth of the tokens is held out, not a tenth of the documents.
FEW_DOCUMENTS = 20
#: Of text that is held out at most, about; every cross-entropy of it has an interval far below 1 %.
VALIDATION_BYTES = 10_000_000
# Bytes of the sizes of training tokens that are in memory; more are in a temporary file.
IN_MEMORY = 1 << 20


def held_out_share(size: int) -> float:
    """The share of a text of `size` bytes that is held out."""
    return min(0.1, VALIDATION_BYTES / max(size, 1))


def is_held_out(document: int, share: float) -> bool:
    """Whether a document is in the validation split: by a hash of its number.

    So the split does not depend on the seed, on the lengths or on an order that repeats.
    """
    digest = hashlib.blake2b(str(document).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


class SplitWriter:
    """Writes pieces to the files of `kullback.training.text_shards`.

    `files` are the training tokens, the held-out tokens, the bytes of these, and where their
    documents end.  `byte_sizes` are those of the vocabulary's entries, or None where each piece has
    those of its tokens; then those of the training tokens are in a temporary file until it is known
    which are held out.
    """

    def __init__(
        self,
        files: Sequence[ShardWriter],
        tokenizer: TextTokenizer,
        byte_sizes: np.ndarray | None,
        progress: Callable[[int], None],
    ) -> None:
        self.training, self.held_out, self.sizes, self.ends = files
        self._byte_sizes, self._progress = byte_sizes, progress
        self._training_sizes = TemporaryBytes(IN_MEMORY) if byte_sizes is None else None
        begins = tokenizer.adds_bos and tokenizer.bos_id is not None
        self._begin = [tokenizer.bos_id] if begins else []
        self._between = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
        self._done = 0
        self.documents = [0, 0]
        """Of training and of validation."""
        self.too_short = 0
        """Documents that are held out and alone too short for a window; the tail is added."""

    @property
    def has_separator(self) -> bool:
        """Whether a token is between two documents."""
        return bool(self._begin or self._between)

    def write(self, pieces: Iterable[EncodedPiece], is_held_out: Callable[[int], bool]) -> None:
        """Write all pieces of a corpus, each document to one of the splits."""
        before, held = -1, False
        for piece in pieces:
            if piece.document != before:
                before, held = piece.document, is_held_out(piece.document)
                self._start(held)
            if held:
                self._hold_out(piece.ids, piece.byte_sizes)
            else:
                self._train(piece.ids, piece.byte_sizes)
            self._done += piece.text_bytes
            self._progress(self._done)

    def finish(self, fewest: int, share: float) -> bool:
        """End the last document; True where the validation split is the end of the training split.

        That is so where no document, or fewer than `fewest` tokens, were held out.
        """
        tail = self.held_out.length < fewest
        if tail:
            # Rounded first: a tenth is no binary fraction.
            kept = self.training.length - math.ceil(round(self.training.length * share, 6))
            sizes = self._sizes_from(kept)
            if self.held_out.length:  # a document, which ends before the tail
                self._hold_out(*_special(self._between))
                self._end()
            self._hold_out(self.training.cut(kept), sizes)
            self.too_short, self.documents[1] = self.documents[1], 1
        self._end()
        return tail

    def _start(self, held: bool) -> None:
        """The tokens before a document."""
        first = self.documents[held] == 0
        self.documents[held] += 1
        add = self._hold_out if held else self._train
        if not first:
            # EOS is a token of the document that it ends, which it is predicted from.
            add(*_special(self._between))
            if held:
                self._end()
        add(*_special(self._begin))

    def _train(self, ids: np.ndarray, sizes: np.ndarray | None) -> None:
        self.training.append(ids)
        if self._training_sizes is not None:
            assert sizes is not None
            self._training_sizes.append(sizes.astype(np.uint32).tobytes())

    def _sizes_from(self, token: int) -> np.ndarray | None:
        """The sizes of the training tokens from this one on; None where the table has them."""
        stored = self._training_sizes
        if stored is None:
            return None
        return np.frombuffer(stored.read(4 * token, len(stored)), np.uint32)

    def _hold_out(self, ids: np.ndarray, sizes: np.ndarray | None) -> None:
        if sizes is None:
            assert self._byte_sizes is not None
            sizes = self._byte_sizes[ids]
        self.held_out.append(ids)
        self.sizes.append(sizes)

    def _end(self) -> None:
        self.ends.append(np.array([self.held_out.length]))


def _special(ids: Sequence[int | None]) -> tuple[np.ndarray, np.ndarray]:
    """Special tokens, and the bytes of text of each: none."""
    return np.array(ids, np.int64), np.zeros(len(ids), np.int64)
