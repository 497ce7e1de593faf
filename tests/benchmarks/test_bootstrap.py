"""The bootstraps that benchmarks compare intervals with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bootstrap import bootstrap_over_blocks, bootstrap_over_documents
from kullback.errors import InvalidValueError
from kullback.uncertainty.intervals import ratio_of_sums
from kullback.uncertainty.long_run_variance import optimal_block_length


def test_document_bootstrap_agrees_where_documents_are_many() -> None:
    """With 6,000 documents the percentile-t bootstrap gives the interval of the formula."""
    rng = np.random.default_rng(18)
    size = rng.integers(5, 50, 6000).astype(float)
    sums = size * rng.standard_normal(6000)
    resampled = bootstrap_over_documents(sums, size, "", int(size.sum()))
    formula = ratio_of_sums(sums, size, "", int(size.sum()))
    width = formula.interval[1] - formula.interval[0]
    assert resampled.interval == pytest.approx(formula.interval, abs=0.05 * width)


def test_block_bootstrap_is_scipys_for_blocks_of_one() -> None:
    """With blocks of one token the interval is that of an ordinary bootstrap."""
    values = np.random.default_rng(19).standard_exponential(500)
    blocks = bootstrap_over_blocks(values, "", block_length=1, resamples=5000)
    ordinary = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = ordinary.high - ordinary.low
    assert blocks.interval == pytest.approx((ordinary.low, ordinary.high), abs=0.05 * width)


def test_a_text_without_memory_is_resampled_token_by_token() -> None:
    """Where the automatic block length falls below one token, a block is one token."""
    lengths = {
        bootstrap_over_blocks(np.random.default_rng(seed).standard_normal(400), "").method
        for seed in range(20)
    }
    shortest = min(
        optimal_block_length(np.random.default_rng(seed).standard_normal(400)).circular
        for seed in range(20)
    )
    assert shortest < 1
    assert any("blocks of 1 tokens" in method for method in lengths)


def test_bootstraps_refuse_what_they_cannot_resample() -> None:
    """One document, no token and a block below one token are refused."""
    with pytest.raises(InvalidValueError, match="at least two"):
        bootstrap_over_documents(np.ones(1), np.ones(1), "", 1)
    with pytest.raises(InvalidValueError, match="empty"):
        bootstrap_over_blocks(np.ones(0), "")
    with pytest.raises(InvalidValueError, match="block_length is 0"):
        bootstrap_over_blocks(np.ones(5), "", block_length=0)
