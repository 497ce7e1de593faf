"""Documents of a text, however their tokens are arranged."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty.documents import Documents, DocumentSums, documents_of
from kullback.uncertainty.intervals import mean_with_interval
from kullback.uncertainty.sweeps import compute


def test_interleaved_documents_are_put_together() -> None:
    """Interleaved documents give what the same documents give one after the other."""
    values = np.random.default_rng(11).standard_normal((20, 50))
    ids = np.arange(1000).reshape(20, 50) // 50
    after = mean_with_interval(values.reshape(-1), ids.reshape(-1), "")
    between = mean_with_interval(values.T.reshape(-1), ids.T.reshape(-1), "")
    assert between.interval == pytest.approx(after.interval, rel=1e-12)


def test_documents_of_parts_are_those_of_the_whole() -> None:
    """Documents that go on in the next part, or begin with it, are counted once."""
    ids = np.repeat([4, 2, 9, 7], [3, 5, 1, 6])
    whole = Documents.of(ids, len(ids))
    for cuts in ([3], [4, 5, 6], [0, 8, 8, 9, 14, 15]):
        parts = np.split(ids, cuts)
        documents = compute(documents_of(lambda part: (part, len(part))), lambda parts=parts: parts)
        assert documents.start_G.tolist() == whole.start_G.tolist() == [0, 3, 8, 9]
        assert documents.size_G.tolist() == whole.size_G.tolist() == [3, 5, 1, 6]
        sums = DocumentSums(documents)
        for part in np.split(np.ones(len(ids)), cuts):
            sums.add(part)
        assert sums.sums_G.tolist() == [3, 5, 1, 6]
