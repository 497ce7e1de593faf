"""Means with intervals: what they report, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.results.measurement import Measurement
from kullback.uncertainty.intervals import (
    mean_with_interval,
    perplexity,
    simultaneous_means,
    within_unit_interval,
)


def test_design_effect_and_effective_size() -> None:
    """Tokens repeated k times have a design effect of k and are worth n / k."""
    values = np.repeat(np.random.default_rng(10).standard_normal(2000), 5)
    measured = mean_with_interval(values, np.arange(10_000) // 5, "")
    assert measured.design_effect == pytest.approx(5, rel=0.01)
    assert measured.effective_n == pytest.approx(2000, rel=0.01)
    assert measured.n == 10_000


def test_equal_values_and_equal_models_have_no_error() -> None:
    """A constant has error 0, as has the difference of a model from itself."""
    measured = mean_with_interval(np.zeros(1000), np.arange(1000) // 10, "nats/token")
    assert measured.interval == (0.0, 0.0)
    assert measured.design_effect == 1.0
    assert str(measured) == "0.000000 nats/token"


def test_perplexity_keeps_the_interval() -> None:
    """Perplexity is the exponential of the mean, and its bounds those of the mean's bounds."""
    measured = mean_with_interval(np.random.default_rng(14).random(5000), None, "nats/token")
    ppl = perplexity(measured)
    assert ppl.value == math.exp(measured.value)
    assert ppl.interval == tuple(map(math.exp, measured.interval))
    assert ppl.design_effect == pytest.approx(measured.design_effect)
    assert perplexity(Measurement(1e4, "nats/token", 0.0, 1, 0, "exact")).value == math.inf


def test_infinite_surprisal_is_an_answer() -> None:
    """One token of probability 0 makes the mean infinite, without an interval."""
    measured = mean_with_interval(np.array([1.0, math.inf]), None, "nats/token")
    assert measured.value == math.inf
    assert "infinite" in measured.note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, ""), "at least one token"),
        (([1.0, math.nan], None, ""), r"values\[0, 1\] is NaN"),
        (([1.0, 2.0], np.zeros(3, int), ""), "document has shape"),
        (([1.0, 2.0], None, "", np.array([1.0, -1.0])), r"denominator\[1\] is -1.0"),
        (([1.0, 2.0], None, "", np.zeros(2)), "denominator is 0 everywhere"),
        (([1.0, 2.0], None, "", None, 95.0), "level is 95.0"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    """Each wrong argument is refused by name, with its value."""
    with pytest.raises(InvalidValueError, match=message):
        mean_with_interval(np.array(arguments[0]), *arguments[1:])


def test_the_interval_of_a_share_is_of_shares() -> None:
    """Near 0 and 1 it is that of the logit, elsewhere as it is."""
    rng = np.random.default_rng(0)
    document_M = np.arange(2000) // 20
    for share in (0.001, 0.999):
        mean = mean_with_interval(rng.random(2000) < share, document_M, "")
        assert not 0 <= mean.interval[0] <= mean.interval[1] <= 1
        low, high = within_unit_interval(mean).interval
        assert 0 < low < mean.value < high < 1
    middle = mean_with_interval(rng.random(2000) < 0.5, document_M, "")
    assert within_unit_interval(middle) == middle
    exact = Measurement(1.0, "", 0.0, 9, 0, "")
    assert within_unit_interval(exact) == exact


def test_a_share_of_equal_values_has_a_finite_interval() -> None:
    """All 0 or all 1 in 100 documents: within 3 % of it; every number is finite, and 100 counts."""
    document_M = np.arange(2000) // 20
    certain = within_unit_interval(mean_with_interval(np.ones(2000), document_M, ""))
    none = within_unit_interval(mean_with_interval(np.zeros(2000), document_M, ""))
    assert certain.interval == pytest.approx((0.05**0.01, 1.0))
    assert none.interval == pytest.approx((0.0, 1 - 0.05**0.01))
    assert 0 < none.standard_error < 0.03
    assert none.effective_n == pytest.approx(100)
    assert "0 at all 2,000 tokens" in none.how
    assert "1 at all 2,000 tokens" in certain.how
    many = within_unit_interval(mean_with_interval(np.ones(2000), np.arange(2000), ""))
    assert "2,000 independent pieces" in many.how
    others = np.random.default_rng(0).random((2, 2000)) < 0.5
    joint = simultaneous_means(np.array([np.ones(2000), *others]), document_M, "")
    assert within_unit_interval(joint[0]).interval[0] < certain.interval[0] - 1e-3
    few = within_unit_interval(mean_with_interval(np.ones(50), None, ""))
    assert not few.has_interval
    assert "no interval: one document of 50 tokens" in few.how


def test_the_interval_of_a_rare_event_covers_it() -> None:
    """Of 400 samples the interval holds the true share about as often as it says."""
    rng = np.random.default_rng(1)
    covered, document_M = 0, np.arange(600)
    for _ in range(400):
        events_M = rng.random(600) < 0.01
        low, high = within_unit_interval(mean_with_interval(events_M, document_M, "")).interval
        covered += low <= 0.01 <= high
    assert covered >= 0.9 * 400
