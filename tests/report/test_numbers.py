"""How numbers with intervals are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kullback.report.labels import Measure, measure
from kullback.report.numbers import nats, percent, stacked, ticks, write, write_number
from kullback.results.measurement import Measurement


def measured(
    value: float,
    half: float | tuple[float, float],
    unit: str = "nats/token",
    clusters: int = 20,
) -> Measurement:
    """value ± half, or within a pair of bounds; 250 of 1000 tokens are independent."""
    bounds = half if isinstance(half, tuple) else (value - half, value + half)
    error = (bounds[1] - bounds[0]) / 4
    return Measurement(
        value,
        unit,
        error,
        1000,
        clusters,
        "20 documents",
        bounds=bounds,
        independent_error=error / 2,
    )


SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read(text: str) -> float:
    """The number that a text says."""
    mantissa, _, power = text.replace("−", "-").replace(",", "").partition(" × 10")
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_has_no_interval(value):
    """NaN is a dash, infinity is ∞; neither has an interval."""
    written = write(measured(value, (1.0, 2.0)))
    assert written.both == written.value
    assert written.value == {"inf": "∞", "-inf": "−∞"}.get(str(value), "–")
    assert written.interval == ""


def test_an_interval_without_end_is_none():
    """Where an end of the interval is infinite the value stands alone."""
    written = write(measured(2.0, math.inf))
    assert (written.both, written.interval) == ("2", "")


def test_no_width_is_said():
    """A number whose interval has no width is ± 0."""
    assert str(write(measured(0.0, 0.0))) == "0 ± 0 nats/token"
    assert str(write(measured(1.0, 0.0, ""), Measure("", share=True))) == "100 ± 0 %"


def test_an_exact_number_has_no_interval():
    """A sum over all prefixes is its value alone."""
    assert str(write(measured(0.6931, 0.0, clusters=0))) == "0.6931 nats/token"


def test_a_measurement_says_what_its_tokens_are_worth():
    """Design effect and effective n, and a dash for each that is unknown."""
    written = write(measured(2.5, 0.25))
    assert (written.design_effect, written.effective_n) == ("4", "250")
    unknown = write(Measurement(2.5, "", math.inf, 1000, 1, "one document"))
    assert (unknown.design_effect, unknown.effective_n) == ("–", "–")


def test_changes_have_a_sign_and_zero_has_none():
    """+ and − stand before changes; a change that rounds to zero has no minus."""
    how = measure("delta_cross_entropy")
    assert write(measured(0.5, 0.1), how).both == "+0.50 ± 0.10"
    assert write(measured(-0.5, 0.1), how).both == "−0.50 ± 0.10"
    assert write(measured(-0.0001, 0.1), how).both == "0.00 ± 0.10"


def test_each_number_of_a_share_has_its_percent_sign():
    """A symmetric interval shares the sign with its value, an asymmetric one has it at each end."""
    how = measure("top1_agreement")
    assert str(write(measured(0.955, 0.012, ""), how)) == "95.5 ± 1.2 %"
    written = write(measured(0.5, (0.4, 0.7), ""), how)
    assert written.both == "50 % [40 %, 70 %]"
    assert (written.value, written.interval, written.unit) == ("50 %", "40 to 70 %", "")


def test_thousands_are_grouped_everywhere():
    """Values with and without an interval, and integers, have commas."""
    assert str(write(measured(12345.6, 250.0, ""))) == "12,346 ± 250"
    assert write_number(12345.6) == write_number(12346) == nats(12346.4, 0) == "12,346"
    assert ticks([5e4, 1e5]) == ["50,000", "100,000"]


@given(st.floats(0.0, 1.0))
def test_a_percentage_is_zero_or_everything_only_where_it_is_that(share):
    """No rounding turns a share into 0 % or 100 %."""
    assert (percent(share) == "100 %") == (share == 1.0)
    assert (percent(share) == "0 %") == (share == 0.0)


def test_an_axis_has_one_style_of_numbers():
    """One number that needs a power of ten gives a power to all."""
    assert ticks([0.001, 1.0]) == ["0.001", "1"]
    assert ticks([0.00001, 0.001, 1.0]) == ["10⁻⁵", "10⁻³", "10⁰"]


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon"])
def test_a_divergence_below_rounding_is_only_bounded(name: str):
    """A divergence of exactly 0 is 0, and a difference of nlls has its digits."""
    tiny = Measurement(1.17e-31, "nats/token", 1e-32, 9, 9, "")
    assert str(write(tiny, measure(name))) == "< 10⁻¹³ nats/token"
    assert stacked(write(tiny, measure(name))) == ("< 10⁻¹³", "")
    zero = Measurement(0.0, "nats/token", 0.0, 9, 9, "")
    assert str(write(zero, measure(name))).startswith("0")
    assert "10⁻³¹" in str(write(tiny, measure("delta_cross_entropy")))
