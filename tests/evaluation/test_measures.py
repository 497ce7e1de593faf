"""Means over tokens, weighted as the protocol counts them."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.evaluation.measures import Places, means_by, weighted_mean


def places(weight_M: np.ndarray) -> Places:
    """Tokens of ten documents with these weights."""
    rows = len(weight_M)
    ones = np.ones(rows)
    return Places(np.arange(rows) * 10 // rows, np.arange(rows), ones.astype(int), ones, weight_M)


def test_curves_and_means_are_weighted_alike():
    """Each bin is a weighted mean of its rows, and so is the whole."""
    rng = np.random.default_rng(0)
    values, by, weights = rng.random(500), rng.random(500), rng.uniform(0.5, 1.0, 500)
    edges = np.array([0.0, 0.3, 0.7, 1.0])
    curve = means_by(values, by, edges, places(weights))
    for i, mean in enumerate(curve.means):
        rows = (by >= edges[i]) & (by < edges[i + 1])
        assert mean.value == pytest.approx(np.average(values[rows], weights=weights[rows]))
        assert mean.n == rows.sum()
    whole = weighted_mean(values, places(weights))
    assert whole.value == pytest.approx(np.average(values, weights=weights))
