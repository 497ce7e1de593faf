"""Kernels of the information measures for log-probabilities: one number per row of a block.

``out`` has shape (rows,); ``lp`` = log p, ``lq`` = log q and ``delta`` = log(q/p), to its last
digits, have shape (rows, outcomes).  Distributions have been validated before.  Nats.
"""

from __future__ import annotations

import math

import numpy as np

from kullback.theory._probability_kernels import TINY, jensen_shannon_terms
from kullback.theory._types import FloatArray

__all__ = [
    "cross_entropy_log_rows", "jensen_shannon_log_rows", "kl_log_rows", "log_softmax_rows",
    "logit_difference", "total_variation_log_rows",
]  # fmt: skip


def cross_entropy_log_rows(out: FloatArray, lp: FloatArray, *lq_and_delta: FloatArray) -> None:
    """-Σ p log q of each row; without ``lq`` the entropy of p."""
    p = np.maximum(np.exp(lp), TINY)  # for q = 0, a p that underflows still gives inf
    lq = lq_and_delta[0] if lq_and_delta else lp
    np.negative(np.where(lp == -np.inf, 0.0, p * lq).sum(axis=-1), out=out)


def kl_log_rows(out: FloatArray, lp: FloatArray, lq: FloatArray, delta: FloatArray) -> None:
    """Σ p (exp δ - 1 - δ): by its series where |δ| ≤ 1, and as q - p (1 + δ) elsewhere."""
    p, q, x = np.maximum(np.exp(lp), TINY), np.exp(lq), np.clip(delta, -1, 1)
    series = np.zeros_like(x)
    for n in range(20, 1, -1):  # 1/21! is below the last bit
        series = series * x + 1 / math.factorial(n)
    far = np.where(lp == -np.inf, q, q - p * (1 + delta))
    np.where(np.abs(delta) <= 1, p * x * x * series, far).sum(axis=-1, out=out)


def jensen_shannon_log_rows(
    out: FloatArray, lp: FloatArray, lq: FloatArray, delta: FloatArray
) -> None:
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, of each row."""
    s = np.where(np.isnan(delta), 0.0, np.tanh(delta / 2))
    jensen_shannon_terms(np.exp(lp), np.exp(lq), s).sum(axis=-1, out=out)


def total_variation_log_rows(
    out: FloatArray, lp: FloatArray, lq: FloatArray, delta: FloatArray
) -> None:
    """½ Σ |p - q| of each row, with q - p = p (exp δ - 1) where |δ| ≤ 1.

    Σ (q - p)⁺ and Σ (p - q)⁺ are equal; weighted by the mass of the other's outcomes, a rounding
    error of the probabilities, which is that of the largest, has no effect of first order.  What
    rounds to no change is with those of the smaller sum.
    """
    p, q = np.exp(lp), np.exp(lq)
    near = p * np.expm1(np.clip(delta, -1, 1))
    change = np.where(np.abs(delta) <= 1, near, q - p)
    grown, shrunk = np.maximum(change, 0).sum(axis=-1), np.maximum(-change, 0).sum(axis=-1)
    of_grown = np.where(change > 0, q, 0).sum(axis=-1)
    of_shrunk = np.where(change < 0, q, 0).sum(axis=-1)
    of_others = np.where(change == 0, q, 0).sum(axis=-1)
    of_grown += np.where(grown < shrunk, of_others, 0)
    of_shrunk += np.where(grown < shrunk, 0, of_others)
    np.divide(grown * of_shrunk + shrunk * of_grown, of_grown + of_shrunk, out=out)


def log_softmax_rows(logits: FloatArray) -> FloatArray:
    """The log-softmax of each row, with the largest outcome kept out of the sum."""
    rows = np.ascontiguousarray(logits)
    top = rows.argmax(axis=-1)[..., None]
    rows = rows - np.take_along_axis(rows, top, axis=-1)
    others = np.exp(rows)
    np.put_along_axis(others, top, 0.0, axis=-1)
    rows -= np.log1p(others.sum(axis=-1, keepdims=True))
    return rows


def logit_difference(a: FloatArray, b: FloatArray, lp: FloatArray, lq: FloatArray) -> FloatArray:
    """log q - log p of two softmaxes, from b - a instead of from two rounded logarithms.

    δ = d - c with d = b - a and, for each row, the constant c for which Σ p exp δ = 1.  The
    difference of the normalisers is c up to rounding, and a Newton step removes the rounding.
    """
    d = b - a
    back = d - b
    lost = (b - (d - back)) - (a + back)  # the rounding error of d (Knuth, 1998, §4.2.2)
    normaliser_q = b.max(axis=-1, keepdims=True) - lq.max(axis=-1, keepdims=True)
    normaliser_p = a.max(axis=-1, keepdims=True) - lp.max(axis=-1, keepdims=True)
    d -= normaliser_q - normaliser_p
    d += np.where(np.isfinite(lost), lost, 0.0)
    p = np.exp(lp)
    excess = np.where(d < 700, p * np.expm1(d), np.exp(lq) - p)  # e⁷⁰⁰ is still finite
    d -= np.log1p(excess.sum(axis=-1, keepdims=True))
    return d
