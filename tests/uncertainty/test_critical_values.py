"""The critical value of simultaneous intervals."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty.intervals import mean_with_interval, simultaneous_means


def test_copies_of_a_candidate_cost_nothing() -> None:
    """A family of identical candidates has the interval of a single one."""
    values = np.random.default_rng(7).standard_normal(1000)
    ids = np.arange(1000) // 20
    family = simultaneous_means(np.stack([values] * 5), ids, "")
    single = mean_with_interval(values, ids, "")
    width = single.interval[1] - single.interval[0]
    assert family[0].interval == pytest.approx(single.interval, abs=0.01 * width)
