"""Sizes in bytes, as users write and read them."""

from __future__ import annotations

import re

from kullback.errors import InvalidValueError

__all__ = ["parse_byte_size", "shown_bytes"]

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}) ?([kmgt]i?b|b|)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
#: 2^60: no file system holds more.
_MOST = 1 << 60


def parse_byte_size(name: str, value: int | str) -> int:
    """The bytes of a number, or of a text with a unit: kB, MB, GB, TB, or KiB, MiB, GiB, TiB.

    Raises `InvalidValueError` with `name` for any other text, and where it is not above 0.

    >>> parse_byte_size("budget", "90MB"), parse_byte_size("budget", "1.5GiB")
    (90000000, 1610612736)
    """
    size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        unit = match[2].lower().removesuffix("b")
        base = 1024 if unit.endswith("i") else 1000
        size = int(float(match[1]) * base ** _POWERS[unit.removesuffix("i")])
    if not 0 < size <= _MOST:
        raise InvalidValueError(
            f"{name} is {str(value)[:40]!r}: it must be a size above 0 in bytes, such as 90MB or "
            "1.5GiB"
        )
    return size


def shown_bytes(size: float) -> str:
    """In kilobytes, megabytes or gigabytes.

    >>> shown_bytes(6_000_000_000), shown_bytes(345_678_901), shown_bytes(20_000)
    ('6.0 GB', '346 MB', '20 kB')
    """
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
