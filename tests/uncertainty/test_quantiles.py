"""Quantiles of values that come in parts."""

from __future__ import annotations

import numpy as np
import pytest

from kullback.uncertainty.quantiles import quantiles
from kullback.uncertainty.sweeps import compute

RNG = np.random.default_rng(0)
VALUES = {
    "32 bits": RNG.beta(0.5, 1.0, 20_000).astype(np.float32),
    "64 bits": RNG.beta(0.5, 1.0, 20_000),
    "equal but for the last bit": 0.3 + np.arange(999) % 3 * 2.0**-54,
    "ties": np.round(RNG.random(5000), 1),
    "all equal": np.full(7, 0.7),
    "negative, zero of both signs, and infinite": np.array([-np.inf, -2.0, -0.0, 0.0, 1e-320, 5.0]),
    "a single one": np.array([0.25]),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("parts", [1, 7])
def test_quantiles_are_those_of_numpy(values: np.ndarray, parts: int) -> None:
    """Every quantile is the very value that sorting gives, in one part or seven."""
    shares = np.concatenate([[0.0], np.arange(1, 15) / 15, [1.0]])
    expected = np.quantile(values.astype(np.float64), shares, method="inverted_cdf")
    computation = quantiles(lambda part: part, shares)
    assert compute(computation, lambda: np.array_split(values, parts)).tolist() == expected.tolist()


def test_ranks_are_those_of_numpy_at_every_length() -> None:
    """Shares times lengths round as in numpy."""
    shares = np.arange(1, 15) / 15
    for length in range(1, 100):
        values = RNG.random(length)
        expected = np.quantile(values, shares, method="inverted_cdf")
        computed = compute(quantiles(lambda part: part, shares), lambda values=values: [values])
        assert computed.tolist() == expected.tolist()
