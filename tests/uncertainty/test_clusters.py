"""Means over independent documents, against the textbook and the matrix formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kullback.uncertainty.clusters import cluster_spread
from kullback.uncertainty.intervals import mean_with_interval, ratio_of_sums


def test_equal_clusters_are_the_textbook() -> None:
    """For equal clusters the interval is Student's, of G means, with G − 1 degrees of freedom."""
    values = np.random.default_rng(8).standard_normal((12, 30))
    measured = mean_with_interval(values.reshape(-1), np.arange(360) // 30, "nats/token")
    means = values.mean(axis=1)
    expected = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert measured.interval == pytest.approx(expected, rel=1e-9)
    sums = ratio_of_sums(values.sum(axis=1), np.full(12, 30.0), "nats/token", 360)
    assert sums.interval == pytest.approx(expected, rel=1e-9)


def test_cluster_degrees_are_those_of_the_matrix_formula() -> None:
    """Contributions and Satterthwaite's degrees of freedom equal the G × G matrix computation."""
    rng = np.random.default_rng(9)
    x = rng.uniform(1, 20, 15)
    residual = rng.standard_normal(15) * x
    residual -= residual.sum() * x / x.sum()
    contribution, degrees = cluster_spread(residual, x)
    w = x / x.sum()
    z, design = residual**2 / w, np.stack([np.ones(15), w], axis=1)
    alpha, beta = np.linalg.lstsq(design, z, rcond=None)[0]
    if alpha < 0:
        alpha, beta = 0.0, 1.0
    if beta < 0:
        alpha, beta = 1.0, 0.0
    d = alpha * w + beta * w**2
    projection = np.eye(15) - np.outer(w, np.ones(15))
    covariance = projection @ np.diag(d) @ projection.T
    a = np.diag(d / np.diag(covariance))
    product = a @ covariance
    assert contribution @ contribution == pytest.approx(residual @ a @ residual, rel=1e-9)
    assert degrees == pytest.approx(np.trace(product) ** 2 / np.trace(product @ product), rel=1e-9)
