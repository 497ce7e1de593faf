"""Sums over documents and over pieces of long ones."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty import piece_sums
from kullback.uncertainty.documents import Documents
from kullback.uncertainty.piece_sums import PieceSums


def test_parts_that_cut_pieces_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the tokens are divided, each piece is the sum of its own; the rest is left out."""
    monkeypatch.setattr(piece_sums, "FINEST", 20)
    rng = np.random.default_rng(0)
    values = rng.standard_normal(5 + 173 + 40 + 61)
    documents = Documents(np.array([0, 5, 178, 218]), np.array([5, 173, 40, 61]))
    for count in (0, 1, 3, 50, 250):
        cuts = np.sort(rng.integers(0, len(values), count))
        sums = PieceSums(documents, [1, 3])
        for part in np.split(values, cuts):
            sums.add(part)
        of_documents, second, last = sums.reduced
        assert of_documents == pytest.approx(np.add.reduceat(values, [0, 5, 178, 218]))
        assert second == pytest.approx(values[5 : 5 + 171].reshape(-1, 9).sum(axis=1))
        assert last == pytest.approx(values[218 : 218 + 60].reshape(-1, 4).sum(axis=1))
