"""The training and validation splits of a text, written token by token.

Axes: n tokens of a piece.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from kullback.text.encoded_corpus import EncodedPiece
from kullback.text.tokenizer import TextTokenizer
from kullback.training.text_shards import ShardWriter

__all__ = ["FEW_DOCUMENTS", "VALIDATION_BYTES", "SplitWriter", "held_out_share", "is_held_out"]

#: With fewer, the last tenth of the tokens is held out, not a tenth of the documents.
FEW_DOCUMENTS = 20
#: Of text that is held out at most, about; every cross-entropy of it has an interval far below 1 %.
VALIDATION_BYTES = 10_000_000


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
    documents end.
    """

    def __init__(
        self,
        files: Sequence[ShardWriter],
        tokenizer: TextTokenizer,
        byte_sizes: np.ndarray,
        progress: Callable[[int], None],
    ) -> None:
        self.training, self.held_out, self.sizes, self.ends = files
        self._byte_sizes, self._progress = byte_sizes, progress
        begins = tokenizer.adds_bos and tokenizer.bos_id is not None
        self._begin = [tokenizer.bos_id] if begins else []
        self._between = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
        self._done = 0
        self.documents = [0, 0]
        """Of training and of validation."""

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
                self.training.append(piece.ids)
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
            self._hold_out(self.training.cut(kept), None)
            self.documents[1] = 1
        self._end()
        return tail

    def _start(self, held: bool) -> None:
        """The tokens before a document."""
        first = self.documents[held] == 0
        self.documents[held] += 1
        before = np.array(self._begin if first else [*self._between, *self._begin], np.int64)
        if not held:
            self.training.append(before)
            return
        if not first:
            self._end()
        self._hold_out(before, np.zeros(len(before), np.int64))

    def _hold_out(self, ids: np.ndarray, sizes: np.ndarray | None) -> None:
        self.held_out.append(ids)
        self.sizes.append(self._byte_sizes[ids] if sizes is None else sizes)

    def _end(self) -> None:
        self.ends.append(np.array([self.held_out.length]))
