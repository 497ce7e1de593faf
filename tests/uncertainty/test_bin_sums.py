"""The noise of bins, from sums in memory or from two passes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from kullback.uncertainty.bin_sums import (
    BinnedResiduals,
    BinSums,
    ManyDocumentSums,
    bin_sums,
)
from kullback.uncertainty.calibration_noise import NoisePieces
from kullback.uncertainty.documents import Documents


@pytest.mark.parametrize("parts", [1, 30])
def test_two_passes_give_the_covariance_of_the_sums(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of any size, in any parts, have the covariance and degrees of freedom of both."""
    monkeypatch.setattr("kullback.uncertainty.bin_sums.BLOCK", 16)
    rng = np.random.default_rng(0)
    size = rng.integers(1, 80, 300)
    documents = Documents(np.cumsum(size) - size, size)
    tokens = int(size.sum())
    index = rng.integers(0, 5, tokens)  # of six bins, the last is empty
    residual = rng.standard_normal(tokens) + np.repeat(rng.standard_normal(300), size)
    pieces = NoisePieces(documents)
    whole, passes = BinSums(pieces, 6), ManyDocumentSums(documents, 6)
    whole.add(BinnedResiduals(pieces.of(0, tokens), index, residual))
    edges = np.linspace(0, tokens, parts + 1).astype(int)
    for _ in range(2):
        for first, last in pairwise(edges):
            rows = slice(first, last)
            passes.add(BinnedResiduals(pieces.of(first, last), index[rows], residual[rows]))
        again = passes.again()
    assert not again
    for kept in (None, np.arange(5)):
        a, b = whole.noise(kept), passes.noise(kept)
        assert b.covariance == pytest.approx(a.covariance, rel=1e-10, abs=1e-18)
        assert b.degrees_of_freedom == pytest.approx(a.degrees_of_freedom)
        assert (b.method, b.clusters, b.too_few) == (a.method, a.clusters, a.too_few)
    assert passes.residual_B == pytest.approx(whole.residual_B)


def test_sums_that_would_need_much_memory_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many documents are read twice, few once; those of a long text always in memory."""
    size = np.full(50, 10)
    few = NoisePieces(Documents(np.cumsum(size) - size, size))
    assert isinstance(bin_sums(few, 8), BinSums)
    monkeypatch.setattr("kullback.uncertainty.bin_sums.MANY_DOCUMENTS", 20)
    assert isinstance(bin_sums(few, 8), ManyDocumentSums)
    size[0] = 100_000
    assert isinstance(bin_sums(NoisePieces(Documents(np.cumsum(size) - size, size)), 8), BinSums)
