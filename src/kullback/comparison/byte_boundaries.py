"""Surprisals of two models with different tokenizers, summed between common token boundaries.

Tokens of two tokenizers are not about the same bytes, so nothing can be compared token by token.
But by the chain rule the surprisals of a run of tokens sum to that of its bytes, whatever the
tokens: so the text is cut at the bytes at which *both* tokenizers have a boundary, and between two
cuts the sums are compared.  (A tokenizer leaves a string's other spellings out of its sum, so that
its surprisal of the bytes is an upper bound; see Cao and Rimell 2021, EMNLP, "You should evaluate
your language model on marginal likelihood over tokenisations".)

Differences are candidate minus reference, in nats: above 0 the candidate predicts worse.  A segment
in which either model has an unscored token is not scored and counts nowhere.

Axes: M tokens of a model in text order, G documents, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kullback.errors import InvalidValueError
from kullback.results.measurement import Measurement
from kullback.scoring.divergence import nll_differences
from kullback.uncertainty.intervals import mean_with_interval

__all__ = ["ByteComparison", "ScoredBytes", "compare_at_shared_boundaries"]


@dataclass(frozen=True, eq=False)
class ScoredBytes:
    """One model's tokens on a text: the spans of a document's tokens partition its bytes."""

    byte_spans_M2: Int[np.ndarray, "M 2"]
    """Start and end of each token in its document, in order; both the same where it has no byte."""
    nll_M: Float[np.ndarray, "M"]
    """-log q in nats; NaN where the token is not scored."""
    document_M: Int[np.ndarray, "M"]
    """The document, from 0, never falling."""

    def __len__(self) -> int:
        return len(self.nll_M)

    @classmethod
    def of_scored(
        cls,
        byte_spans_M2: Int[np.ndarray, "M 2"],
        nll_M: Float[np.ndarray, "M"],
        document_M: Int[np.ndarray, "M"],
        document_bytes_G: Int[np.ndarray, "G"],
    ) -> ScoredBytes:
        """From the scored tokens alone: bytes that none of them covers get an unscored one.

        `document_bytes_G` are the documents' lengths.  Raises `InvalidValueError` where tokens
        overlap or end beyond their document.

        >>> scored = ScoredBytes.of_scored(
        ...     np.array([[2, 3], [3, 7]]), np.array([0.5, 1.5]), np.zeros(2, int), np.array([9])
        ... )
        >>> scored.byte_spans_M2.tolist(), scored.nll_M.tolist()
        ([[0, 2], [2, 3], [3, 7], [7, 9]], [nan, 0.5, 1.5, nan])
        """
        given = cls(byte_spans_M2, nll_M, document_M)
        offset_G = np.concatenate([[0], np.cumsum(document_bytes_G)]).astype(np.int64)
        given._check_shapes("the tokens", len(document_bytes_G))
        start_M, end_M = (offset_G[document_M] + byte_spans_M2[:, i] for i in (0, 1))
        # Between tokens; `_cut` sees to the borders of documents.
        edge = np.concatenate([[0], np.stack([start_M, end_M], axis=1).ravel(), offset_G[-1:]])
        wrong_M = (end_M < start_M) | (start_M < edge[0:-2:2]) | (byte_spans_M2[:, 0] < 0)
        wrong_M |= end_M > offset_G[document_M + 1]
        if wrong_M.any():
            token = int(np.flatnonzero(wrong_M)[0])
            raise InvalidValueError(
                f"token {token} has bytes {byte_spans_M2[token].tolist()} of document "
                f"{document_M[token]}: it begins before the end of the token before, or ends "
                "beyond its document; give tokens in the order of the text"
            )
        gap_start, gap_end = edge[0::2], edge[1::2]
        filled = _cut(gap_start, gap_end, offset_G)
        start = np.concatenate([start_M, filled[:, 0]])
        end = np.concatenate([end_M, filled[:, 1]])
        document = np.concatenate(
            [document_M, np.searchsorted(offset_G, filled[:, 0], side="right") - 1]
        )
        nll = np.concatenate([nll_M, np.full(len(filled), np.nan)])
        # Stable, and by the end first: a token without bytes keeps its place after the one before.
        order = np.lexsort((start, end, document))
        spans = np.stack([start, end], axis=1)[order] - offset_G[document[order], None]
        return cls(spans, nll[order], document[order])

    def document_bytes(self, name: str) -> Int[np.ndarray, "G"]:
        """The documents' lengths; `InvalidValueError` where the spans are no partition."""
        self._check_shapes(name, None)
        start_M, end_M = self.byte_spans_M2.T
        first_M = np.diff(self.document_M, prepend=-1) > 0
        before_M = np.where(first_M, 0, np.roll(end_M, 1))
        wrong_M = (start_M != before_M) | (end_M < start_M)
        if wrong_M.any():
            token = int(np.flatnonzero(wrong_M)[0])
            raise InvalidValueError(
                f"token {token} of {name} has bytes {self.byte_spans_M2[token].tolist()} of "
                f"document {self.document_M[token]} and must begin at {before_M[token]}: spans "
                "must partition each document; ScoredBytes.of_scored fills gaps"
            )
        length_G = np.zeros(int(self.document_M[-1]) + 1, dtype=np.int64)
        length_G[self.document_M] = end_M  # the last one stays
        empty = self.document_M[length_G[self.document_M] == 0]
        if len(empty):
            raise InvalidValueError(
                f"document {empty[0]} has tokens and no bytes: leave it out, there is nothing to "
                "compare"
            )
        return length_G

    def _check_shapes(self, name: str, documents: int | None) -> None:
        M = len(self.nll_M)
        if self.byte_spans_M2.shape != (M, 2) or self.document_M.shape != (M,) or M == 0:
            raise InvalidValueError(
                f"{name} have {M} surprisals, spans of shape {self.byte_spans_M2.shape} and "
                f"documents of shape {self.document_M.shape}: give (M,), (M, 2) and (M,), M > 0"
            )
        last = int(self.document_M[-1])
        if (np.diff(self.document_M) < 0).any() or self.document_M[0] < 0:
            raise InvalidValueError(f"{name} must come document by document, numbered from 0")
        if documents is not None and last >= documents:
            raise InvalidValueError(f"{name} are of document {last}, and there are {documents}")


@dataclass(frozen=True, eq=False)
class ByteComparison:
    """Two models' surprisals of the same bytes, in the scored segments between shared cuts."""

    document_S: Int[np.ndarray, "S"]
    byte_spans_S2: Int[np.ndarray, "S 2"]
    """In its document."""
    reference_nll_S: Float[np.ndarray, "S"]
    candidate_nll_S: Float[np.ndarray, "S"]
    tokens_S2: Int[np.ndarray, "S 2"]
    """How many tokens the reference and the candidate have there."""
    unscored_bytes: int
    """Bytes of segments that were left out."""

    def __len__(self) -> int:
        return len(self.document_S)

    @property
    def lengths(self) -> Int[np.ndarray, "S"]:
        """The bytes of each segment."""
        lengths: Int[np.ndarray, "S"] = self.byte_spans_S2[:, 1] - self.byte_spans_S2[:, 0]
        return lengths

    @property
    def difference(self) -> Float[np.ndarray, "S"]:
        """Candidate minus reference; 0 where both exclude what is there (inf − inf)."""
        return nll_differences(self.reference_nll_S, self.candidate_nll_S)

    @property
    def per_byte(self) -> Measurement:
        """ΔCE in nats/byte, with the interval of documents, or of one long text."""
        return mean_with_interval(self.difference, self.document_S, "nats/byte", self.lengths)

    @property
    def per_document(self) -> Measurement:
        """The mean of the documents' differences, each counting as one, in nats/document."""
        _, difference_G, _ = self.by_document()
        return mean_with_interval(difference_G, np.arange(len(difference_G)), "nats/document")

    def by_document(
        self,
    ) -> tuple[Int[np.ndarray, "G"], Float[np.ndarray, "G"], Int[np.ndarray, "G"]]:
        """The documents with a scored segment, the difference of each in nats, and its bytes."""
        start_G = np.flatnonzero(np.diff(self.document_S, prepend=-1))
        difference_G = np.add.reduceat(self.difference, start_G)
        return self.document_S[start_G], difference_G, np.add.reduceat(self.lengths, start_G)

    def of_document(self, document: int) -> Measurement:
        """ΔCE of one document in nats/byte, with an interval for more text like it."""
        first, last = np.searchsorted(self.document_S, [document, document + 1])
        if first == last:
            raise InvalidValueError(f"document {document} has no scored segment")
        rows = slice(first, last)
        return mean_with_interval(self.difference[rows], None, "nats/byte", self.lengths[rows])

    def largest(self, count: int) -> Int[np.ndarray, "count"]:
        """The segments that differ most either way, the largest first; among equals the earlier."""
        size_S = np.abs(self.difference)
        count = min(count, len(self))
        if count == 0:
            return np.empty(0, dtype=np.int64)
        # Sort only what can be among them.
        least = np.partition(size_S, len(self) - count)[len(self) - count]
        some = np.flatnonzero(size_S >= least)
        order: Int[np.ndarray, "count"] = some[np.argsort(-size_S[some], kind="stable")[:count]]
        return order


def compare_at_shared_boundaries(reference: ScoredBytes, candidate: ScoredBytes) -> ByteComparison:
    """Cut a text where both tokenizers do, and sum each model's surprisals between the cuts.

    A token without bytes (one of several that share a character) goes with the token before it, at
    the beginning of a document with the one after.  Both models must have read the same bytes:
    raises `InvalidValueError` where spans are no partition of the documents, where these differ in
    length, and where no segment is scored.

    >>> reference = ScoredBytes(np.array([[0, 2], [2, 6]]), np.array([1.0, 2.0]), np.zeros(2, int))
    >>> spans, nll = np.array([[0, 1], [1, 2], [2, 3], [3, 6]]), np.array([1.0, 0.5, 1.0, 0.25])
    >>> candidate = ScoredBytes(spans, nll, np.zeros(4, int))
    >>> compared = compare_at_shared_boundaries(reference, candidate)
    >>> compared.byte_spans_S2.tolist(), compared.difference.tolist(), compared.per_byte.value
    ([[0, 2], [2, 6]], [0.5, -0.75], -0.041666666666666664)
    """
    lengths = [
        scored.document_bytes(name)
        for name, scored in (("the reference", reference), ("the candidate", candidate))
    ]
    documents = max(map(len, lengths))
    length_G, theirs_G = (np.pad(length, (0, documents - len(length))) for length in lengths)
    if (length_G != theirs_G).any():
        g = int(np.flatnonzero(length_G != theirs_G)[0])
        raise InvalidValueError(
            f"document {g} has {length_G[g]} bytes in the reference and {theirs_G[g]} in the "
            "candidate: evaluate both on the same text"
        )
    offset_G = np.concatenate([[0], np.cumsum(length_G)])
    cut_S = np.flatnonzero(_ends(reference, offset_G) & _ends(candidate, offset_G))
    start_S = np.concatenate([[0], cut_S[:-1]])
    document_S = np.searchsorted(offset_G, start_S, side="right") - 1
    sums, counts = zip(
        *(_sums(scored, offset_G, cut_S, document_S) for scored in (reference, candidate)),
        strict=True,
    )
    scored_S: Bool[np.ndarray, "S"] = ~(np.isnan(sums[0]) | np.isnan(sums[1]))
    if not scored_S.any():
        raise InvalidValueError(
            "no segment is scored by both models: every stretch between shared boundaries has an "
            "unscored token of one of them"
        )
    spans_S2 = np.stack([start_S, cut_S], axis=1) - offset_G[document_S, None]
    return ByteComparison(
        document_S[scored_S],
        spans_S2[scored_S],
        sums[0][scored_S],
        sums[1][scored_S],
        np.stack(counts, axis=1)[scored_S],
        int((cut_S - start_S)[~scored_S].sum()),
    )


def _ends(tokens: ScoredBytes, offset_G: Int[np.ndarray, "G"]) -> Bool[np.ndarray, "bytes"]:
    """For each byte of all documents and the one after, whether a token ends before it."""
    mark = np.zeros(int(offset_G[-1]) + 1, dtype=bool)
    mark[offset_G[tokens.document_M] + tokens.byte_spans_M2[:, 1]] = True
    mark[0] = False  # where a token without bytes begins the text
    return mark


def _sums(
    tokens: ScoredBytes,
    offset_G: Int[np.ndarray, "G"],
    cut_S: Int[np.ndarray, "S"],
    document_S: Int[np.ndarray, "S"],
) -> tuple[Float[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """Each segment's surprisal (NaN with an unscored token) and number of tokens."""
    end_M = offset_G[tokens.document_M] + tokens.byte_spans_M2[:, 1]
    segment_M = np.searchsorted(cut_S, end_M)
    # A token without bytes at the beginning of a document ends where the one before it ends.
    first_G = np.searchsorted(document_S, np.arange(len(offset_G) - 1))
    np.maximum(segment_M, first_G[tokens.document_M], out=segment_M)
    total_S = np.bincount(segment_M, weights=tokens.nll_M, minlength=len(cut_S))
    return total_S, np.bincount(segment_M, minlength=len(cut_S))


def _cut(
    start: Int[np.ndarray, "gaps"], end: Int[np.ndarray, "gaps"], at: Int[np.ndarray, "G"]
) -> Int[np.ndarray, "pieces 2"]:
    """The gaps that have bytes, cut at the borders of documents."""
    start, end = start[end > start], end[end > start]
    inside = at[np.searchsorted(start, at, side="left") > 0]
    gap = np.searchsorted(start, inside, side="left") - 1
    inside = inside[inside < end[gap]] if len(start) else inside[:0]
    begins = np.unique(np.concatenate([start, inside]))
    ends = np.unique(np.concatenate([end, inside]))
    return np.stack([begins, ends], axis=1)
