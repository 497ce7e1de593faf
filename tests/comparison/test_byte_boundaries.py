"""Two tokenizers on one text, compared where both cut it, against a loop over segments."""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kullback.comparison.byte_boundaries import (
    ByteComparison,
    ScoredBytes,
    compare_at_shared_boundaries,
)
from kullback.errors import InvalidValueError
from kullback.uncertainty.intervals import mean_with_interval


def tokenized(
    rng: np.random.Generator, lengths: list[int], cut: float, unscored: float, empty: float
) -> ScoredBytes:
    """Random tokens of documents, some of them without bytes and some unscored.

    Surprisals are multiples of 1/8, so that all sums are exact.
    """
    spans, documents = [], []
    for document, length in enumerate(lengths):
        inner = np.flatnonzero(rng.random(length - 1) < cut) + 1
        again = inner[rng.random(len(inner)) < empty]
        first = [0] * int(rng.random() < empty)
        last = [length] * int(rng.random() < empty)
        edges = np.sort(np.concatenate([[0], inner, again, [length], first, last])).astype(int)
        spans.append(np.stack([edges[:-1], edges[1:]], axis=1))
        documents.append(np.full(len(edges) - 1, document))
    spans_M2 = np.concatenate(spans)
    nll = rng.integers(0, 80, len(spans_M2)) / 8
    nll[rng.random(len(nll)) < unscored] = np.nan
    return ScoredBytes(spans_M2, nll, np.concatenate(documents))


def by_hand(one: ScoredBytes, other: ScoredBytes, lengths: list[int]) -> list[tuple[float, ...]]:
    """(document, start, end, reference, candidate) of each segment, scored or not."""
    found = []
    for document, length in enumerate(lengths):
        sides = [
            [
                (int(end), float(nll))
                for (_, end), nll, d in zip(
                    each.byte_spans_M2, each.nll_M, each.document_M, strict=True
                )
                if d == document
            ]
            for each in (one, other)
        ]
        cuts = sorted({end for end, _ in sides[0]} & {end for end, _ in sides[1]} - {0})
        assert cuts[-1] == length
        start = 0
        for end in cuts:
            # Tokens that end at 0 have no bytes, and go with the first segment.
            sums = [sum(x for e, x in side if start < max(e, 1) <= end) for side in sides]
            found.append((document, start, end, *sums))
            start = end
    return found


def rows(found: ByteComparison) -> list[tuple[float, ...]]:
    """The same of a comparison."""
    columns = (
        found.document_S, *found.byte_spans_S2.T, found.reference_nll_S, found.candidate_nll_S
    )  # fmt: skip
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    cuts=st.tuples(st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.sampled_from([0.0, 0.3, 1.0])),
    unscored=st.sampled_from([0.0, 0.1]),
    empty=st.sampled_from([0.0, 0.3]),
)
def test_segments_are_those_of_a_loop(
    seed: int, lengths: list[int], cuts: tuple[float, float], unscored: float, empty: float
) -> None:
    """Every segment, its sums and what is left out are those found one by one, exactly."""
    rng = np.random.default_rng(seed)
    one, other = (tokenized(rng, lengths, cut, unscored, empty) for cut in cuts)
    segments = by_hand(one, other, lengths)
    scored = [each for each in segments if not (math.isnan(each[3]) or math.isnan(each[4]))]
    if not scored:
        with pytest.raises(InvalidValueError, match="no segment is scored"):
            compare_at_shared_boundaries(one, other)
        return
    found = compare_at_shared_boundaries(one, other)
    assert rows(found) == scored
    assert found.unscored_bytes == sum(lengths) - sum(each[2] - each[1] for each in scored)
    if unscored == 0.0:
        assert found.reference_nll_S.sum() == one.nll_M.sum()
        assert found.candidate_nll_S.sum() == other.nll_M.sum()
        assert found.tokens_S2.sum(axis=0).tolist() == [len(one), len(other)]
        assert found.unscored_bytes == 0


def test_one_token_for_all_leaves_one_segment_a_document() -> None:
    """A tokenizer without inner boundaries shares only the ends of documents."""
    rng = np.random.default_rng(0)
    one = tokenized(rng, [50, 30], 0.0, 0.0, 0.0)
    other = tokenized(rng, [50, 30], 0.5, 0.0, 0.0)
    found = compare_at_shared_boundaries(one, other)
    assert found.byte_spans_S2.tolist() == [[0, 50], [0, 30]]
    assert found.reference_nll_S.tolist() == one.nll_M.tolist()


def test_one_tokenization_is_compared_token_by_token() -> None:
    """Equal tokenizers have their tokens for segments, and a model no distance from itself."""
    one = tokenized(np.random.default_rng(0), [200, 100], 0.4, 0.0, 0.0)
    worse = ScoredBytes(one.byte_spans_M2, one.nll_M + 0.25, one.document_M)
    found = compare_at_shared_boundaries(one, worse)
    assert len(found) == len(one)
    assert (found.difference == 0.25).all()
    itself = compare_at_shared_boundaries(one, one)
    assert itself.per_byte.value == 0.0
    assert not itself.difference.any()


def test_differences_per_byte_and_document_have_intervals_of_documents() -> None:
    """ΔCE is the difference of all surprisals over all bytes; its clusters are documents."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(100, 300, 20).tolist()
    one, other = (tokenized(rng, lengths, cut, 0.0, 0.0) for cut in (0.2, 0.4))
    found = compare_at_shared_boundaries(one, other)
    delta = other.nll_M.sum() - one.nll_M.sum()
    assert found.per_byte.value == pytest.approx(delta / sum(lengths), rel=1e-14)
    assert found.per_byte.unit == "nats/byte"
    sums = [
        other.nll_M[other.document_M == g].sum() - one.nll_M[one.document_M == g].sum()
        for g in range(20)
    ]
    documents, difference, n_bytes = found.by_document()
    assert documents.tolist() == list(range(20))
    assert difference.tolist() == sums
    assert n_bytes.tolist() == lengths
    assert found.per_document.value == pytest.approx(np.mean(sums))
    direct = mean_with_interval(np.array(sums), np.arange(20), "", np.array(lengths))
    assert found.per_byte.interval == pytest.approx(direct.interval, rel=1e-9)
    assert found.of_document(3).value == pytest.approx(sums[3] / lengths[3])
    with pytest.raises(InvalidValueError, match="document 20 has no scored segment"):
        found.of_document(20)


def test_the_largest_differences_come_first() -> None:
    """Segments are ranked by how far apart the models are, whoever is better there."""
    spans = np.stack([np.arange(6), np.arange(1, 7)], axis=1)
    zeros = np.zeros(6, dtype=int)
    one = ScoredBytes(spans, np.array([1.0, 5.0, 2.0, 3.0, 0.0, 1.0]), zeros)
    other = ScoredBytes(spans, np.array([1.5, 1.0, 2.0, 7.0, 0.5, 9.0]), zeros)
    found = compare_at_shared_boundaries(one, other)
    assert found.largest(4).tolist() == [5, 1, 3, 0]
    assert found.largest(99).tolist() == [5, 1, 3, 0, 4, 2]
    assert found.largest(0).tolist() == []


def test_impossible_bytes_are_infinitely_far_or_not_at_all() -> None:
    """What one model excludes is inf; what both exclude is no difference."""
    spans, zeros = np.array([[0, 1], [1, 2], [2, 3]]), np.zeros(3, dtype=int)
    one = ScoredBytes(spans, np.array([1.0, np.inf, 1.0]), zeros)
    other = ScoredBytes(spans, np.array([2.0, np.inf, np.inf]), zeros)
    found = compare_at_shared_boundaries(one, other)
    assert found.difference.tolist() == [1.0, 0.0, np.inf]
    assert found.per_byte.value == np.inf


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    share=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_gaps_between_scored_tokens_become_unscored_ones(
    seed: int, lengths: list[int], share: float
) -> None:
    """Dropping the unscored tokens and filling the gaps gives the same scored segments."""
    rng = np.random.default_rng(seed)
    assume(any(lengths))
    used = [g for g, length in enumerate(lengths) if length]
    some = [lengths[g] for g in used]
    whole = tokenized(rng, some, 0.5, 0.0, 0.2)
    whole = ScoredBytes(whole.byte_spans_M2, whole.nll_M, np.array(used)[whole.document_M])
    kept = rng.random(len(whole)) < share
    kept[0] = True
    filled = ScoredBytes.of_scored(
        whole.byte_spans_M2[kept], whole.nll_M[kept], whole.document_M[kept], np.array(lengths)
    )
    assert np.nansum(filled.nll_M) == whole.nll_M[kept].sum()
    assert filled.document_bytes("x").tolist() == lengths[: used[-1] + 1]
    # A token without bytes that was dropped leaves no gap: compare where there are none.
    has_bytes = whole.byte_spans_M2[:, 1] > whole.byte_spans_M2[:, 0]
    if has_bytes.all():
        scored = [
            (d, *span)
            for d, span, x in zip(
                filled.document_M.tolist(), filled.byte_spans_M2.tolist(), filled.nll_M, strict=True
            )
            if not math.isnan(x)
        ]
        expected = zip(
            whole.document_M[kept].tolist(), whole.byte_spans_M2[kept].tolist(), strict=True
        )
        assert scored == [(d, *span) for d, span in expected]


@pytest.mark.parametrize(
    ("spans", "documents", "message"),
    [
        ([[0, 3], [3, 8]], [0, 0], "document 0 has 6 bytes in the reference and 8"),
        ([[0, 6], [0, 2]], [0, 1], "document 1 has 0 bytes in the reference and 2"),
        ([[0, 3], [4, 6]], [0, 0], r"token 1 of the candidate has bytes \[4, 6\].*begin at 3"),
        ([[1, 3], [3, 6]], [0, 0], "must begin at 0"),
        ([[0, 3], [3, 2]], [0, 0], "token 1"),
        ([[0, 3], [0, 6]], [1, 0], "document by document"),
        ([[0, 6], [0, 0]], [0, 1], "document 1 has tokens and no bytes"),
        ([[0, 6]], [0, 0], "give "),
    ],
)
def test_texts_that_differ_are_refused(
    spans: list[list[int]], documents: list[int], message: str
) -> None:
    """Other lengths, gaps, disorder and wrong shapes are each named."""
    one = ScoredBytes(np.array([[0, 6]]), np.array([1.0]), np.array([0]))
    other = ScoredBytes(np.array(spans), np.ones(2), np.array(documents))
    with pytest.raises(InvalidValueError, match=message):
        compare_at_shared_boundaries(one, other)


@pytest.mark.parametrize("span", [[1, 3], [3, 7], [4, 3], [-1, 2]])
def test_scored_tokens_that_overlap_are_refused(span: list[int]) -> None:
    """A token that begins too early or ends beyond its document has no place."""
    with pytest.raises(InvalidValueError, match="token 1 has bytes"):
        ScoredBytes.of_scored(
            np.array([[0, 2], span, [0, 1]]), np.ones(3), np.array([0, 0, 1]), np.array([6, 1])
        )


def lines_of_python(n_bytes: int) -> int:
    """How many lines of Python the comparison of two texts of that size runs."""
    rng = np.random.default_rng(0)
    one, other = (tokenized(rng, [n_bytes], cut, 0.0, 0.0) for cut in (0.25, 0.2))
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = compare_at_shared_boundaries(one, other)
    finally:
        sys.settrace(before)
    assert result.candidate_nll_S.sum() == other.nll_M.sum()
    return lines


def test_nothing_is_done_token_by_token() -> None:
    """Sixteen times the tokens run the same lines of Python, once first calls are over."""
    lines_of_python(10_000)
    few, many = lines_of_python(10_000), lines_of_python(160_000)
    assert few > 10
    # The garbage collector may run lines of its own; a line a token would be 150,000 more.
    assert abs(many - few) < 1_000
