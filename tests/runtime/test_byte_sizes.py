"""Sizes in bytes, as users write them."""

from __future__ import annotations

import pytest

from kullback.errors import InvalidValueError
from kullback.runtime.byte_sizes import parse_byte_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("90MB", 90_000_000),
        ("1.5GiB", 3 * 2**29),
        ("12 kB", 12_000),
        ("1KB", 1000),
        ("7", 7),
        (" 2TB ", 2 * 10**12),
        (".5 MiB", 2**19),
        (4096, 4096),
    ],
)
def test_units_are_powers_of_1000_or_1024(text: str | int, size: int) -> None:
    """kB, MB, GB and TB are decimal, KiB, MiB, GiB and TiB binary; without a unit, bytes."""
    assert parse_byte_size("budget", text) == size


@pytest.mark.parametrize(
    "text",
    ["", "MB", "-3MB", "0", "0.0001", "1e9", "90 megabytes", "9" * 30, "nan", True, "9PB", "٣"],
)
def test_what_is_no_size_is_named(text: str) -> None:
    """The value and two examples are in the message."""
    with pytest.raises(InvalidValueError, match=r"budget is .*90MB or 1\.5GiB"):
        parse_byte_size("budget", text)
