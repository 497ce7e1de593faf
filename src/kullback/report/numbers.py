"""Numbers as text: for tables, figures and HTML reports alike.

A measurement with an interval has as many decimals as two significant digits of its half interval
need; one without has four significant digits.  Nats have four decimals; a smaller number that four
decimals would turn into 0.0000 is written with a power of ten, because "almost zero" and "zero"
differ.  A share below one is never rounded up to 100 %.

Thousands are separated by commas, minus is −, a power of ten is 10⁻⁷, infinity is ∞ and a number
that does not exist is a dash.  A unit and the percent sign follow a space beside their value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kullback.report.labels import ROUNDING, Measure
from kullback.results.measurement import Measurement

__all__ = [
    "NO_NUMBER",
    "Written",
    "balanced_identity",
    "below_rounding",
    "byte_size",
    "count",
    "nats",
    "percent",
    "percent_change",
    "power_of_ten",
    "probability",
    "seconds",
    "stacked",
    "ticks",
    "write",
    "write_number",
]

#: In place of a number that does not exist.
NO_NUMBER = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DECIMALS = 9  # of a measurement: further ones are rounding in float32
_MOST_IDENTITY_DECIMALS = 6  # of the identity: with more, a reader cannot add them up
# An interval whose halves differ by less than this part of them prints alike at two digits.
_SYMMETRIC = 0.05


@dataclass(frozen=True)
class Written:
    """A measurement as text; `interval` is empty where there is none."""

    value: str
    interval: str
    """``low to high``."""
    both: str
    """``value ± half``, or ``value [low, high]`` where the value is not in the middle."""
    unit: str
    """Empty for a share, whose texts have their percent signs."""
    effective_n: str
    design_effect: str

    def __str__(self) -> str:
        """Value, interval and unit in one line."""
        return f"{self.both} {self.unit}".rstrip()


def write(measured: Measurement, how: Measure | None = None) -> Written:
    """A measurement with the digits that its interval warrants.

    >>> def nll(value, low, high, unit="nats/token"):
    ...     return Measurement(value, unit, 0.1, 900, 30, "30 documents", bounds=(low, high))
    >>> print(write(nll(3.14159, 3.1, 3.18318)))
    3.142 ± 0.042 nats/token
    >>> print(write(nll(3.2e-6, 2.8e-6, 3.6e-6)))
    (3.20 ± 0.40) × 10⁻⁶ nats/token
    >>> share = Measure("accuracy", share=True)
    >>> print(write(nll(0.964, 0.961, 0.967), share))
    96.40 ± 0.30 %
    >>> print(write(nll(0.5, 0.4, 0.7), share))
    50 % [40 %, 70 %]
    >>> print(write(nll(2e10, 3e8, 1.4e12, "")))
    2.0 × 10¹⁰ [3.0 × 10⁸, 1.4 × 10¹²]
    """
    how = how or Measure("")
    if how.rounded and 0 < measured.value < ROUNDING:
        return below_rounding(measured.unit)
    value, interval = measured.value, _interval(measured)
    effect, effective = _finite(measured.design_effect), _finite(measured.effective_n)
    if not math.isfinite(value):
        texts = _Texts(write_number(value), "", write_number(value))
    else:
        factor = 100.0 if how.share else 1.0
        ends = None if interval is None else (factor * interval[0], factor * interval[1])
        texts = _with_interval(factor * value, ends, how)
    return Written(
        *texts,
        unit="" if how.share else measured.unit,
        effective_n=NO_NUMBER if effective is None else count(effective),
        design_effect=write_number(effect, 2 if effect is not None and effect < 10 else 3),
    )


def below_rounding(unit: str) -> Written:
    """A divergence that is nothing but rounding, as an upper bound.

    >>> print(below_rounding("nats/token"))
    < 10⁻¹³ nats/token
    """
    text = f"< {power_of_ten(round(math.log10(ROUNDING)))}"
    return Written(text, "", text, unit, NO_NUMBER, NO_NUMBER)


def _interval(measured: Measurement) -> tuple[float, float] | None:
    """The interval where it is finite, and the number is not exact."""
    return measured.interval if measured.has_interval and not measured.is_exact else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def stacked(written: Written) -> tuple[str, str]:
    """A value and its interval, each with its power of ten, to be written below each other.

    >>> half = Measurement(5e-7, "", 1e-7, 9, 9, "", bounds=(4e-7, 6e-7))
    >>> stacked(write(half)), stacked(write(Measurement(2.0, "", 0.0, 9, 0, "")))
    (('5.0 × 10⁻⁷', '± 1.0 × 10⁻⁷'), ('2', ''))
    """
    body, power = written.both, ""
    if body.startswith("("):
        body, _, power = body.removeprefix("(").rpartition(")")
    for sign in (" ± ", " ["):
        value, interval, rest = body.partition(sign)
        if interval:
            return value + power, sign.lstrip() + rest + power
    return written.both, ""


class _Texts(NamedTuple):
    """The first three fields of `Written`."""

    value: str
    interval: str
    both: str


def _with_interval(value: float, ends: tuple[float, float] | None, how: Measure) -> _Texts:
    """A finite value, in per cent for a share, and its finite interval."""
    sign = " %" if how.share else ""
    alone = _signed(write_number(value), value, how)
    if ends is None:
        return _Texts(f"{alone}{sign}", "", f"{alone}{sign}")
    low, high = ends
    half = max(high - value, value - low)
    if half <= 0:
        return _Texts(f"{alone}{sign}", f"{alone} to {alone}{sign}", f"{alone} ± 0{sign}")
    largest = max(abs(value), half)
    power = 0 if 1e-3 <= largest < 1e6 else max(-300, math.floor(math.log10(largest)))
    value, low, high, half = (x / 10.0**power for x in (value, low, high, half))
    decimals = min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half))))
    middle, first, last = (_signed(_fixed(x, decimals), x, how) for x in (value, low, high))
    symmetric = abs((high - value) - (value - low)) <= _SYMMETRIC * half
    if not symmetric and 0 < low < 10.0**-decimals:
        # So wide, above the value, that the digits of the half would leave nothing of the others.
        middle, first, last = (write_number(x * 10.0**power, 2) for x in (value, low, high))
        power = 0
    scale = f" × {power_of_ten(power)}" if power else ""
    open_, close = ("(", ")") if power else ("", "")
    if symmetric:
        both = f"{open_}{middle} ± {_fixed(half, decimals)}{close}{scale}{sign}"
    elif power:
        both = f"({middle} [{first}, {last}]){scale}{sign}"
    else:
        both = f"{middle}{sign} [{first}{sign}, {last}{sign}]"
    return _Texts(f"{middle}{scale}{sign}", f"{open_}{first} to {last}{close}{scale}{sign}", both)


def write_number(value: float | None, digits: int = 4) -> str:
    """A number with significant `digits`, and all digits of an integer below a million.

    >>> [write_number(x) for x in (3.14159, 123456.7, 3.14e-7, 0.0, 1.0, float("inf"), None)]
    ['3.142', '123,457', '3.140 × 10⁻⁷', '0', '1', '∞', '–']
    """
    special = _special(value)
    if special is not None:
        return special
    assert value is not None
    if value == int(value) and abs(value) < 1e6:
        return _fixed(value, 0)
    power = math.floor(math.log10(abs(value)))
    if -4 <= power < 6:
        return _fixed(value, max(0, digits - 1 - power))
    return _scientific(value, digits)


def nats(value: float | None, decimals: int = 4) -> str:
    """A number of nats, or any other real number, with so many decimals.

    >>> [nats(x) for x in (0.69314, -0.01, 8.31e-5, 0.0, float("inf"), None)]
    ['0.6931', '−0.0100', '8.3 × 10⁻⁵', '0.0000', '∞', '–']
    """
    special = _special(value)
    if special is not None:
        return special
    assert value is not None
    if value != 0 and abs(value) < 10.0 ** (1 - decimals):
        return _scientific(value, 2)
    return _fixed(value, decimals)


def percent(share: float | None) -> str:
    """A share as a percentage; only 1 is 100 %, and only 0 is 0 %.

    >>> [percent(x) for x in (0.984, 1.0, 0.99961, 0.0, 0.0001, 0.999999999, -1e-9)]
    ['98.4 %', '100 %', '99.96 %', '0 %', '0.01 %', '> 99.999 %', '> −0.001 %']
    """
    special = _special(share)
    if special is not None:
        return special
    assert share is not None
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    for decimals in (1, 2, 3):
        text = f"{100 * share:.{decimals}f}"
        if float(text) not in (0.0, 100.0):
            return f"{_fixed(100 * share, decimals)} %"
    if share < 0:
        return "> −0.001 %"
    return "> 99.999 %" if share > 0.5 else "< 0.001 %"


def percent_change(share: float) -> str:
    """A relative change as a percentage, with + where it is above zero.

    >>> [percent_change(x) for x in (0.0089, -0.03, 0.0, 1e-9)]
    ['+0.9 %', '−3.0 %', '0 %', '< +0.001 %']
    """
    text = percent(share)
    if share > 0 and not text.startswith("∞"):
        return text.replace("< ", "< +") if text.startswith("< ") else f"+{text}"
    return text


def probability(value: float) -> str:
    """A probability with three decimals.

    >>> [probability(x) for x in (0.6667, 1.0, 0.9999, 0.0, 0.0002)]
    ['0.667', '1', '> 0.999', '0', '< 0.001']
    """
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    text = f"{value:.3f}"
    return {"1.000": "> 0.999", "0.000": "< 0.001"}.get(text, text)


def count(value: float) -> str:
    """A number of things.

    >>> [count(x) for x in (512, 2_412_345, 3.2e18, float("inf"))]
    ['512', '2,412,345', '3.2 × 10¹⁸', '∞']
    """
    if isinstance(value, int) and abs(value) >= 10**300:  # more than float64 holds
        exponent = math.floor(math.log10(abs(value)))
        return f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    special = _special(value)
    if special is not None:
        return special
    return _scientific(value, 2) if abs(value) >= 1e15 else _fixed(value, 0)


def byte_size(value: float) -> str:
    """A size in bytes, kB (1000 bytes), MB or GB.

    >>> [byte_size(x) for x in (512, 213_400, 1_048_576)]
    ['512 B', '213 kB', '1.05 MB']
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            scaled = value / size
            return f"{_fixed(scaled, max(0, 2 - int(math.log10(scaled))))} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """A duration.

    >>> [seconds(x) for x in (41.23, 119.97, 192.0)]
    ['41.2 s', '2 min 0 s', '3 min 12 s']
    """
    if round(value, 1) < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest} s"


def ticks(values: Sequence[float]) -> list[str]:
    """The numbers of one axis in one style: all as decimals, or all as powers of ten.

    >>> ticks([0.0, 0.25, -1.0]), ticks([1e-5, 2e-3, 1.0])
    (['0', '0.25', '−1'], ['10⁻⁵', '2 × 10⁻³', '10⁰'])
    """
    powers = not all(value == 0 or 1e-4 <= abs(value) < 1e6 for value in values)
    return [_tick(value, powers) for value in values]


def _tick(value: float, as_power: bool) -> str:
    if value == 0:
        return "0"
    if not as_power:
        return f"{value:,.6g}".replace("-", "−")
    mantissa, exponent = f"{value:.3e}".split("e")
    factor = f"{float(mantissa):g}".replace("-", "−")
    power = power_of_ten(int(exponent))
    return power if factor == "1" else f"{factor} × {power}"


def power_of_ten(exponent: int) -> str:
    """Ten with its exponent raised.

    >>> power_of_ten(-7)
    '10⁻⁷'
    """
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def balanced_identity(cross_entropy: float, entropy: float, kl: float) -> tuple[str, str, str]:
    """The three terms with the fewest decimals, from four, at which the printed numbers add up.

    Rounded numbers need not: 0.70124 = 0.69286 + 0.00838 would print as 0.7012 = 0.6929 + 0.0084.
    Where six decimals do not add up either, four are given.

    >>> balanced_identity(0.7012, 0.6929, 0.0083)
    ('0.7012', '0.6929', '0.0083')
    >>> balanced_identity(0.70124, 0.69286, 0.00838)
    ('0.70124', '0.69286', '0.00838')
    """
    terms = (cross_entropy, entropy, kl)
    decimals = 4
    if all(math.isfinite(term) for term in terms):
        for candidate in range(4, _MOST_IDENTITY_DECIMALS + 1):
            total, *parts = (round(term * 10**candidate) for term in terms)
            if total == sum(parts):
                decimals = candidate
                break
    first, second, third = (_special(x) or _fixed(x, decimals) for x in terms)
    return first, second, third


def _special(value: float | None) -> str | None:
    """The sign of what is not a finite number; None for a finite one."""
    if value is None or math.isnan(value):
        return NO_NUMBER
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return None


def _fixed(value: float, decimals: int) -> str:
    """With so many decimals, and never a minus before zero."""
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "" if not text.strip("-0.,") else "−")


def _scientific(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.replace('-', '−')} × {power_of_ten(int(exponent))}"


def _signed(text: str, value: float, how: Measure) -> str:
    return f"+{text}" if how.signed and value > 0 else text
