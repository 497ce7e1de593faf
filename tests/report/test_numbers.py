"""How numbers with intervals are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from text_samples import measured

from kullback.report.numbers import MEASURES, Measure, measure, write, write_number

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read(text: str) -> float:
    """The number that a text says."""
    mantissa, _, power = text.replace("−", "-").partition(" × 10")
    return float(mantissa) * 10.0 ** int(power.translate(SUPERSCRIPTS) or 0)


@given(
    st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-12),
    st.floats(1e-9, 1e9),
)
def test_what_is_written_is_within_a_tenth_of_the_interval(value, half):
    """Rounding costs at most a twentieth of the half interval, or the ninth decimal."""
    assume(half > 1e-6 * abs(value))  # below, float64 has hardly an interval left
    written = write(measured(value, half))
    size = 10.0 ** math.floor(math.log10(max(abs(value), half)))
    resolution = 1e-9 * (1.0 if 1e-3 <= max(abs(value), half) < 1e6 else size)
    tolerance = max(0.05 * half, 0.5 if half >= 100 else 0.0, resolution)
    assert read(written.value) == pytest.approx(value, rel=1e-12, abs=1.01 * tolerance)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_a_number_alone_has_four_digits(value):
    """Four significant digits are within half of the fourth."""
    assert read(write_number(value)) == pytest.approx(value, rel=5.01e-4, abs=1e-320)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_has_no_interval(value):
    """None and NaN are a dash, infinity is ∞; neither has an interval."""
    written = write({**measured(), "value": value, "interval": (1.0, 2.0)})
    assert written.both == written.value
    assert written.value == {"inf": "∞", "-inf": "−∞"}.get(str(value), "–")
    assert written.interval == ""


def test_an_interval_without_end_is_none():
    """Where an end of the interval is infinite the value stands alone."""
    written = write({**measured(2.0), "interval": (-math.inf, math.inf)})
    assert (written.both, written.interval) == ("2", "")


def test_no_width_is_said():
    """A number whose interval has no width is ± 0."""
    assert str(write(measured(0.0, 0.0))) == "0 ± 0 nats/token"
    assert str(write(measured(1.0, 0.0, ""), Measure("", share=True))) == "100 ± 0 %"


def test_changes_have_a_sign_and_zero_has_none():
    """+ and − stand before changes; a change that rounds to zero has no minus."""
    how = measure("delta_cross_entropy")
    assert write(measured(0.5, 0.1), how).both == "+0.50 ± 0.10"
    assert write(measured(-0.5, 0.1), how).both == "−0.50 ± 0.10"
    assert write(measured(-0.0001, 0.1), how).both == "0.00 ± 0.10"


def test_shares_are_percentages():
    """Accuracies and agreements are in per cent, entropies never."""
    shares = {name for name, how in MEASURES.items() if how.share}
    assert {"top1_accuracy", "top1_agreement", "ece"} <= shares
    assert shares.isdisjoint({"cross_entropy", "kl", "perplexity", "brier"})
    assert str(write(measured(0.955, 0.012, ""), measure("top1_agreement"))) == "95.5 ± 1.2 %"
