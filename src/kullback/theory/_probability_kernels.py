"""Kernels of the information measures for probabilities: one number per row of a block.

``out`` has shape (rows,), ``p`` and ``q`` have shape (rows, outcomes).  Distributions
have been validated before.  Nats.
"""

from __future__ import annotations

import math

import numpy as np

from kullback.theory._types import FloatArray

__all__ = [
    "TINY", "cross_entropy_rows", "jensen_shannon_rows", "jensen_shannon_terms", "kl_rows",
    "total_variation_rows",
]  # fmt: skip

TINY = 5e-324  # the smallest positive float64

# Multiplied by 2⁶⁰⁰ every probability is a normal number; the divergences are homogeneous, so that
# the factor divides out.
_SCALE = 2.0**600


def cross_entropy_rows(out: FloatArray, p: FloatArray, q: FloatArray | None = None) -> None:
    """-Σ p log q of each row; without ``q`` the entropy of p."""
    q = p if q is None else q  # the entropy
    terms = np.log(q, order="C")
    terms *= p
    if q.min() == 0:
        terms[(p == 0) & (q == 0)] = 0
    np.negative(terms.sum(axis=-1), out=out)


def kl_rows(out: FloatArray, p: FloatArray, q: FloatArray) -> None:
    """Σ [p log(p/q) - p + q] of each row."""
    terms = _divergence_terms(_scaled(p), _scaled(q))
    np.divide(terms.sum(axis=-1), _SCALE, out=out)


def jensen_shannon_rows(out: FloatArray, p: FloatArray, q: FloatArray) -> None:
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, of each row."""
    p, q = _scaled(p), _scaled(q)
    s = (q - p) / np.maximum(q + p, TINY)
    np.divide(jensen_shannon_terms(p, q, s).sum(axis=-1), _SCALE, out=out)


def total_variation_rows(out: FloatArray, p: FloatArray, q: FloatArray) -> None:
    """½ Σ |p - q| of each row."""
    np.multiply(np.abs(p - q).sum(axis=-1), 0.5, out=out)


def _scaled(p: FloatArray) -> FloatArray:
    return np.multiply(p, _SCALE, order="C")


# (atanh s - s)/s³ as a polynomial in s² ≤ 1/9: interpolated at Chebyshev nodes in 60 digits, so
# that the relative error of a KL term is below 3e-17.  The Taylor series, 1/3 + s²/5 + .., needs 16
# terms.
_ATANH_TAIL = (
    0.3333333333333333, 0.20000000000007292, 0.1428571428355438, 0.11111111358713932,
    0.09090894718066429, 0.07692785032479312, 0.06657072104827468, 0.06000536404795356,
    0.04400369243072337, 0.08082022805971766,
)  # fmt: skip
_ONE_EXPONENT = 1 << 52  # a step of a float64's exponent, in its bits as an integer


def _divergence_terms(p: FloatArray, r: FloatArray) -> FloatArray:
    """φ(p, q) = p log(p/q) - p + q to 3 units in the last place; p and r = q are overwritten.

    Let k be log2(p/q) rounded towards zero, and r = 2ᵏ q, which is between q and p and within a
    factor 2 of p.  Then e = r - p is exact (Sterbenz, 1974), and there are three terms, all ≥ 0::

        φ(p, q) = φ(p, r)  +  p (k log 2 - 1 + 2⁻ᵏ)  +  (2⁻ᵏ - 1) e
        φ(p, r) = s e [1 - (1 - s) s G(s²)],   s = e / (p + r),   G(s²) = (atanh s - s) / s³

    since log(r/p) = 2 atanh s, with |s| ≤ 1/3.  Nothing cancels, and there is neither a branch
    nor a ``log``: a few dozen passes over buffers in cache, faster than SciPy's ``rel_entr``.
    """
    if zeros := bool(min(p.min(), r.min()) == 0):
        p += 0.0  # -0.0 has a sign bit, which the integers below would see
        r += 0.0
        impossible = (r == 0) & (p > 0)
    terms: FloatArray = np.empty(p.shape)
    stretch, e, s, k_floats = np.empty((4, *p.shape))
    k, k_small = k_floats.view(np.int64), stretch.view(np.int64)  # in units of _ONE_EXPONENT
    p_bits, r_bits = p.view(np.int64), r.view(np.int64)

    # The bits of a positive float, as an integer, are log2 of it, linear between powers of two.
    np.subtract(p_bits, r_bits, out=k)
    np.right_shift(k, 63, out=k_small)
    k_small &= _ONE_EXPONENT - 1
    k += k_small  # so that removing the fraction rounds towards zero
    k &= -_ONE_EXPONENT
    # Below -62, φ = q to the last bit whatever k is; above 62, 2⁻ᵏ - 1 = -1 likewise.
    np.maximum(k, -62 * _ONE_EXPONENT, out=k)
    r_bits += k
    np.minimum(k, 62 * _ONE_EXPONENT, out=k_small)
    np.subtract(1023 * _ONE_EXPONENT, k_small, out=k_small)  # the bits of 2⁻ᵏ
    stretch -= 1
    np.multiply(k, math.log(2) / _ONE_EXPONENT, out=terms)
    terms += stretch
    terms *= p
    np.subtract(r, p, out=e)
    stretch *= e
    terms += stretch

    r += p
    np.maximum(r, TINY, out=r)  # no 0/0 where p = q = 0
    np.divide(e, r, out=s)
    e *= s
    terms += e
    z, tail = np.multiply(s, s, out=r), stretch
    np.multiply(z, _ATANH_TAIL[-1], out=tail)
    for coefficient in _ATANH_TAIL[-2:0:-1]:
        tail += coefficient
        tail *= z
    tail += _ATANH_TAIL[0]
    s -= z
    tail *= s
    tail *= e
    terms -= tail
    if zeros:
        terms[impossible] = np.inf
    return terms


def jensen_shannon_terms(p: FloatArray, q: FloatArray, s: FloatArray) -> FloatArray:
    """½ [p log(2p/σ) + q log(2q/σ)], σ = p + q, given s = (q - p)/σ to its last digits.

    This is σ/4 [(1-s) log(1-s) + (1+s) log(1+s)] = σ/4 Σₙ s²ⁿ/(n (2n-1)), and for large s also
    ¼ [φ(2p, σ) + φ(2q, σ)], which is stationary in σ, so that the rounding of p + q is harmless.
    """
    total, z = p + q, np.minimum(s * s, 0.25)
    series = np.zeros_like(z)
    for n in range(26, 0, -1):  # 4⁻²⁶ is below the last bit
        series = series * z + 1 / (n * (2 * n - 1))
    far = _divergence_terms(2 * p, total.copy()) + _divergence_terms(2 * q, total.copy())
    terms: FloatArray = np.where(np.abs(s) <= 0.5, total * s * s * series, far) / 4
    return terms
