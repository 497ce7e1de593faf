"""Block lengths against `arch`, and the long-run variance of series where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from arch.bootstrap import optimal_block_length as arch_block_length
from scipy.signal import lfilter

from kullback.uncertainty.long_run_variance import cosine_coefficients, memory, optimal_block_length


def test_block_length_is_that_of_arch() -> None:
    """The automatic block length equals that of the `arch` package on 97 of 100 series."""
    rng = np.random.default_rng(15)
    equal = 0
    for _ in range(100):
        noise = rng.standard_normal(int(rng.integers(50, 3000)))
        series = lfilter([1], [1, -rng.uniform(-0.5, 0.97)], noise)
        theirs = arch_block_length(series).iloc[0]
        ours = optimal_block_length(series)
        # Near a threshold theirs differs: its autocorrelations are divided by another variance.
        equal += np.allclose(ours, [theirs.stationary, theirs.circular], rtol=1e-9)
    assert equal >= 97


def test_memory_sees_a_weak_long_regime() -> None:
    """A regime too weak for any single autocorrelation shows in sums over neighbours."""
    rng = np.random.default_rng(16)
    sign = 2 * (np.cumsum(rng.random(30_000) < 1 / 300) % 2) - 1
    series = 0.15 * sign + rng.standard_normal(30_000)
    assert optimal_block_length(series).circular < 150
    assert memory(series) > 300


def test_cosines_estimate_the_long_run_variance() -> None:
    """The mean square of the lowest cosine coefficients of AR(1) noise is 1 / (1 − ρ)²."""
    noise = np.random.default_rng(17).standard_normal((400, 5000))
    series = lfilter([1], [1, -0.7], noise, axis=1)
    squares = [np.mean(cosine_coefficients(row, 20) ** 2) for row in series]
    assert np.mean(squares) == pytest.approx(1 / 0.3**2, rel=0.04)
