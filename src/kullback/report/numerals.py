"""How is a number written, so that it can be read and never says more than it knows?

Nats get four decimals; a smaller number that four decimals would turn into 0.0000 is written with
a power of ten, because "almost nothing" and "nothing" differ.  In the same way a share below one is
never rounded up to 100 %.  Minus is −, thousands are separated by a narrow space that does not
break, infinity is ∞ and a number that does not exist is a dash.
"""

from __future__ import annotations

import math

__all__ = [
    "balanced_identity",
    "bytes_",
    "count",
    "nats",
    "percent",
    "probability",
    "seconds",
    "tick",
]

_NARROW_SPACE = "\u202f"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DECIMALS = 6  # of the identity: beyond, the eye no longer adds up


def nats(value: float | None, decimals: int = 4) -> str:
    """A number of nats, or any other real number.

    >>> [nats(x) for x in (0.69314, -0.01, 8.31e-5, 0.0, float("inf"), None)]
    ['0.6931', '−0.0100', '8.3 × 10⁻⁵', '0.0000', '∞', '–']
    """
    special = _special(value)
    if special is not None:
        return special
    assert value is not None
    if value != 0 and abs(value) < 10.0 ** (1 - decimals):
        return _scientific(value)
    return f"{value:.{decimals}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """A share as a percentage; 100 % is said only of the whole, and 0 % only of nothing.

    The space is narrow and does not break.

    >>> [percent(x)[:-2] for x in (0.984, 1.0, 0.99961, 0.0, 0.0001, 0.999999999)]
    ['98.4', '100', '99.96', '0', '0.01', '> 99.999']
    """
    special = _special(share)
    if special is not None:
        return special
    assert share is not None
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", f"{_NARROW_SPACE}%")
    for decimals in (1, 2, 3):
        text = f"{100 * share:.{decimals}f}"
        if float(text) not in (0.0, 100.0):
            return f"{text.replace('-', '−')}{_NARROW_SPACE}%"
    bound = "> 99.999" if share > 0.5 else "< 0.001"
    return f"{bound}{_NARROW_SPACE}%"


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
    ['512', '2\u202f412\u202f345', '3.2 × 10¹⁸', '∞']
    """
    special = _special(value)
    if special is not None:
        return special
    if abs(value) >= 1e15:
        return _scientific(value)
    return f"{value:,.0f}".replace(",", _NARROW_SPACE).replace("-", "−")


def bytes_(value: float) -> str:
    """A size in bytes, kB (1000 bytes) or MB.

    >>> [bytes_(x) for x in (512, 213_400, 1_048_576)]
    ['512\u202fB', '213\u202fkB', '1.05\u202fMB']
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f}{_NARROW_SPACE}{unit}"
    return f"{value:.0f}{_NARROW_SPACE}B"


def seconds(value: float) -> str:
    """A duration.

    >>> [seconds(x) for x in (41.23, 119.97, 192.0)]
    ['41.2\u202fs', '2\u202fmin 0\u202fs', '3\u202fmin 12\u202fs']
    """
    if round(value, 1) < 100:
        return f"{value:.1f}{_NARROW_SPACE}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}{_NARROW_SPACE}min {rest}{_NARROW_SPACE}s"


def tick(value: float) -> str:
    """A number beside an axis: no trailing zeros, and small or large ones as powers of ten.

    >>> [tick(x) for x in (0.0, 0.25, -1.0, 1e-5, 2e-6, 1e7)]
    ['0', '0.25', '−1', '10⁻⁵', '2 × 10⁻⁶', '10⁷']
    """
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:g}".replace("-", "−")
    mantissa, exponent = f"{value:.3e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    factor = f"{float(mantissa):g}".replace("-", "−")
    return power if factor == "1" else f"{factor} × {power}"


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
        for candidate in range(4, _MOST_DECIMALS + 1):
            whole, *parts = (round(term * 10**candidate) for term in terms)
            if whole == sum(parts):
                decimals = candidate
                break
    first, second, third = (_special(x) or f"{x:.{decimals}f}".replace("-", "−") for x in terms)
    return first, second, third


def _special(value: float | None) -> str | None:
    """The sign for what is no finite number; None for a finite one."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return None


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".replace("-", "−", value < 0).split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
