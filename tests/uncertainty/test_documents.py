"""Documents of a text, however their tokens are arranged."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty.intervals import mean_with_interval


def test_interleaved_documents_are_put_together() -> None:
    """Interleaved documents give what the same documents give one after the other."""
    values = np.random.default_rng(11).standard_normal((20, 50))
    ids = np.arange(1000).reshape(20, 50) // 50
    after = mean_with_interval(values.reshape(-1), ids.reshape(-1), "")
    between = mean_with_interval(values.T.reshape(-1), ids.T.reshape(-1), "")
    assert between.interval == pytest.approx(after.interval, rel=1e-12)
