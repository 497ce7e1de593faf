"""Statistics against known true distributions, by a float64 brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import DensePredictions
from kullback.scoring.source_statistics import TrueDistributions, row_statistics

ROWS, V = 50, 70


def logits(seed: int) -> Tensor:
    """Logits of standard deviation 2, always the same, with one token excluded."""
    values = 2 * torch.randn(ROWS, V, generator=torch.Generator().manual_seed(seed))
    values[:, 5] = -torch.inf
    return values


def truth() -> TrueDistributions:
    """Two tokens a row."""
    row = np.repeat(np.arange(ROWS), 2)
    return TrueDistributions(row, np.arange(2 * ROWS) % V, np.tile([0.25, 0.75], ROWS))


@pytest.mark.parametrize("block_bytes", [1, 4 * V * 7, 1 << 20])
def test_statistics_equal_a_float64_softmax(block_bytes: int) -> None:
    """Every statistic equals the brute force, whatever the size of a block."""
    q, p = logits(1), logits(2)
    statistics = row_statistics(
        DensePredictions(q), truth(), DensePredictions(p), block_bytes=block_bytes
    )
    log_q, log_p = (x.double().log_softmax(dim=1).numpy() for x in (q, p))
    row, token = truth().row_K, truth().token_K
    np.testing.assert_allclose(statistics.log_q_K, log_q[row, token], 1e-5)
    above_K = (log_q[row] > log_q[row, token][:, None]).sum(axis=1)
    np.testing.assert_array_equal(statistics.in_top5_K, above_K < 5)
    np.testing.assert_array_equal(statistics.top1, log_q.argmax(axis=1))
    np.testing.assert_allclose(statistics.top1_probability, np.exp(log_q.max(axis=1)), 1e-5)
    np.testing.assert_allclose(statistics.sum_of_squares, np.exp(2 * log_q).sum(axis=1), 1e-5)
    finite_q = np.where(np.isfinite(log_q), log_q, 0.0)
    np.testing.assert_allclose(statistics.entropy, -(np.exp(log_q) * finite_q).sum(axis=1), 1e-5)
    ratio = np.where(np.isfinite(log_p), log_p - np.where(np.isfinite(log_q), log_q, 0.0), 0.0)
    assert statistics.kl_from_reference is not None
    np.testing.assert_allclose(
        statistics.kl_from_reference, (np.exp(log_p) * ratio).sum(axis=1), 1e-5
    )
    assert statistics.reference_top1 is not None
    np.testing.assert_array_equal(statistics.reference_top1, log_p.argmax(axis=1))


def test_equal_models_have_exactly_no_divergence() -> None:
    """The KL of a model from itself is zero, and inf where it excludes a token of the reference."""
    q = logits(1)
    statistics = row_statistics(DensePredictions(q), truth(), DensePredictions(q.clone()))
    np.testing.assert_array_equal(statistics.kl_from_reference, np.zeros(ROWS))
    excluding = q.clone()
    excluding[:, 9] = -torch.inf
    statistics = row_statistics(DensePredictions(excluding), truth(), DensePredictions(q))
    assert np.isposinf(statistics.kl_from_reference).all()


def test_damaged_rows_and_other_shapes_are_named() -> None:
    """A NaN is placed in its row, and a reference of another shape is refused."""
    bad = logits(1)
    bad[13, 4] = torch.nan
    with pytest.raises(InvalidValueError, match=r"row 13 .*NaN"):
        row_statistics(DensePredictions(bad), truth(), block_bytes=4 * V * 5)
    with pytest.raises(InvalidValueError, match=rf"{ROWS - 1} rows .*{ROWS} over {V}"):
        row_statistics(DensePredictions(logits(1)), truth(), DensePredictions(logits(2)[1:]))
