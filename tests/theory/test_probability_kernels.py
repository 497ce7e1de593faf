"""The polynomial of the KL kernel against 40-digit arithmetic."""

from __future__ import annotations

import mpmath

from kullback.theory import _probability_kernels


def test_the_polynomial_of_the_kl_kernel() -> None:
    """Its error weighs less than 3.1e-17 of a KL term over all of |s| ≤ 1/3."""
    with mpmath.workdps(40):
        for i in range(1, 201):
            s = mpmath.mpf(i) / 600
            tail = (mpmath.atanh(s) - s) / s**3
            fitted = mpmath.polyval(
                [mpmath.mpf(c) for c in _probability_kernels._ATANH_TAIL[::-1]], s * s
            )
            assert abs(fitted - tail) * s * (1 + s) <= 3.1e-17
