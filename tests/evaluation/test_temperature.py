"""The best temperature, against SciPy's minimum and on logits of a known one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_softmax, logsumexp

from kullback.errors import InvalidValueError
from kullback.evaluation.temperature import fit_temperature


def test_temperature_is_the_minimum_of_nll() -> None:
    """The temperature is SciPy's minimum of the mean nll, within 1e-4, and undoes a known one."""
    rng = np.random.default_rng(7)
    honest = rng.standard_normal((4000, 20)) * 2
    target = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)
    logits = honest * 1.7  # too sure by a temperature of 1.7

    def nll(temperatures: np.ndarray) -> np.ndarray:
        scaled = logits / temperatures[:, None, None]
        return logsumexp(scaled, axis=2) - scaled[:, np.arange(4000), target]

    best_fit = fit_temperature(nll, np.arange(4000) // 40)
    best = optimize.minimize_scalar(
        lambda log_T: nll(np.exp([log_T])).mean(), bounds=(-1, 1), options={"xatol": 1e-8}
    )
    assert best_fit.temperature == pytest.approx(math.exp(best.x), abs=1e-4)
    assert best_fit.temperature == pytest.approx(1.7, abs=0.1)
    assert best_fit.saved.value == pytest.approx(float(nll(np.ones(1)).mean()) - best.fun, abs=1e-8)
    assert best_fit.saved.interval[0] > 0
    assert not best_fit.at_limit
    assert best_fit.calls <= 6
    expected = -log_softmax(logits, axis=1)[np.arange(4000), target]
    assert nll(np.ones(1))[0] == pytest.approx(expected)


def test_temperature_beyond_the_range_is_named() -> None:
    """A model that is always right wants temperature 0: the lower end is returned and marked."""
    best_fit = fit_temperature(lambda T: np.log1p(np.exp(-np.ones((1, 200)) / T[:, None])), None)
    assert best_fit.at_limit
    assert best_fit.temperature == pytest.approx(0.25)


def test_bad_temperatures_are_refused() -> None:
    """A range without 1, and a target of probability 0, are refused with a reason."""
    with pytest.raises(InvalidValueError, match="low < 1 < high"):
        fit_temperature(lambda T: np.ones((len(T), 5)), None, low=2.0)
    with pytest.raises(InvalidValueError, match="probability 0"):
        fit_temperature(lambda T: np.full((len(T), 5), math.inf), None)
