"""The critical value of simultaneous intervals."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty.intervals import mean_with_interval, simultaneous_means


def test_copies_of_a_candidate_cost_nothing() -> None:
    """A family of identical candidates has the interval of one."""
    values = np.random.default_rng(7).standard_normal(1000)
    ids = np.arange(1000) // 20
    family = simultaneous_means(np.stack([values] * 5), ids, "")
    one = mean_with_interval(values, ids, "")
    width = one.interval[1] - one.interval[0]
    assert family[0].interval == pytest.approx(one.interval, abs=0.01 * width)
