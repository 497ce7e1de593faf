"""KL both ways and Jensen-Shannon from the sums over blocks, once the normalisers are known.

The sums are those of :mod:`kullback.scoring.log_ratio_sums`, taken over d = log p - log q with
estimated normalisers; here they are shifted to l = d - ε.

Axes: B rows, R some of them, W columns of a block, N blocks, K moments, S sums of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "DEGREE",
    "NEAR",
    "Shift",
    "Terms",
    "block_jensen_shannon",
    "excluded_terms",
    "far_terms",
    "near_terms",
]

# Up to here the relative errors of the polynomials are 5e-8 for f, 5e-7 for e^(-l) f(-l) and 2e-8
# for j; shifted by SMALL_SHIFT they are ten times as large.
NEAR = 0.5
SMALL_SHIFT = 0.25
DEGREE = 8
# j(l) = l²/8 - l³/16 + l⁴/64 - ..., and the error of the polynomial, per |l|⁹.
JS_SERIES = (0, 0, 1 / 8, -1 / 16, 1 / 64, -1 / 384, 1 / 2304, -1 / 11520, 1 / 92160)
JS_SERIES_REMAINDER = 3e-7
# The largest fifth derivative of s, over 5!.
TAYLOR_REMAINDER = 1.1e-3


@dataclass(frozen=True, eq=False)
class Shift:
    """The factors from a block's own scale to the final one; N may be some of the blocks."""

    epsilon_NB: Float[Tensor, "N B"]
    p_NB: Float[Tensor, "N B"]
    """p = p_NB e^(x-m)."""
    q_NB: Float[Tensor, "N B"]
    """q = q_NB e^(y-m)."""
    q_of_p_NB: Float[Tensor, "N B"]
    """p_NB e^ε: q = q_of_p_NB e^(x-m) e^(-d)."""
    p_of_q_NB: Float[Tensor, "N B"]
    """q_NB e^(-ε): p = p_of_q_NB e^(y-m) e^d."""

    @classmethod
    def of(cls, epsilon_NB: Tensor, log_p_NB: Tensor, log_q_NB: Tensor) -> Shift:
        """The factors from ε, and from m - log Σ e^x of both models."""
        logs = (log_p_NB, log_q_NB, log_p_NB + epsilon_NB, log_q_NB - epsilon_NB)
        return cls(epsilon_NB, *(log_NB.exp() for log_NB in logs))

    def __getitem__(self, blocks: list[int] | slice) -> Shift:
        return Shift(*(getattr(self, name)[blocks] for name in self.__dataclass_fields__))


class Terms(NamedTuple):
    """The terms of N blocks in the divergences of B rows."""

    kl_NB: Float[Tensor, "N B"]
    reverse_kl_NB: Float[Tensor, "N B"]
    jensen_shannon_NB: Float[Tensor, "N B"]
    remainder_NB: Float[Tensor, "N B"]
    """A bound of the error of the Jensen-Shannon terms."""


def near_terms(moments_KNB: Float[Tensor, "K N B"], shift: Shift) -> Terms:
    """The terms of near tokens, from the moments of their d."""
    p, d, epsilon = moments_KNB[0], moments_KNB[1], shift.epsilon_NB
    # At ε = 0: Σ p f(d), and with q = p e^(-d), Σ q f(-d) and Σ q d.
    f = sum((-1) ** k / math.factorial(k) * moments_KNB[k] for k in range(2, DEGREE + 1))
    back_f = sum(
        (-1) ** k * (k - 1) / math.factorial(k) * moments_KNB[k] for k in range(2, DEGREE + 1)
    )
    q_d = sum(
        (-1) ** (k - 1) / math.factorial(k - 1) * moments_KNB[k] for k in range(1, DEGREE + 1)
    )
    q = p + f - d
    # f(d - ε) = e^ε f(d) + f(-ε) - (e^ε - 1) d, and likewise in reverse: no term of size ε remains.
    e = epsilon.clamp(-1, 1)
    grown = torch.expm1(e)
    small_kl = shift.p_NB * (f + grown * (f - d) + (grown - e) * p)
    small_reverse = shift.p_NB * (back_f - grown * q_d + (grown * (e - 1) + e) * q)
    # The same for large ε, where e^ε may overflow.
    large_kl = shift.q_of_p_NB * q - shift.p_NB * (p + epsilon * p - d)
    large_reverse = shift.p_NB * p - shift.q_of_p_NB * (q - epsilon * q + q_d)
    is_small = epsilon.abs() < 1
    kl = torch.where(is_small, small_kl, large_kl)
    reverse = torch.where(is_small, small_reverse, large_reverse)
    js = torch.zeros_like(p)
    powers = _powers(-e, DEGREE)
    for i in range(DEGREE + 1):
        # Σ_k c_k C(k, i) (-e)^(k - i): the binomial theorem, by moments.
        factor = torch.zeros_like(p)
        for k in range(max(i, 2), DEGREE + 1):
            factor.add_(powers[k - i], alpha=JS_SERIES[k] * math.comb(k, i))
        js.addcmul_(factor, moments_KNB[i])
    js *= shift.p_NB
    distance = epsilon.abs()
    remainder = shift.p_NB * p * JS_SERIES_REMAINDER * _powers(NEAR + e.abs(), 9)[9]
    remainder = torch.where(distance < 1, remainder, shift.p_NB * p + shift.q_of_p_NB * q)
    return Terms(kl, reverse, js, torch.where(distance < SMALL_SHIFT, 0, remainder))


def far_terms(sums_SNB: Float[Tensor, "S N B"], shift: Shift) -> Terms:
    """The terms of far tokens, from their sums."""
    p, q, p_d, q_d, p_s, q_s, v1, v2, v3, v4 = sums_SNB
    epsilon = shift.epsilon_NB
    in_p, in_q, back = shift.p_NB, shift.q_NB, shift.p_of_q_NB
    kl = in_q * q - in_p * (p - p_d + epsilon * p)
    reverse = in_p * p - in_q * (q + q_d - epsilon * q)
    # The derivatives of s(l) weighted by p, in terms of q; and those of s(-l) weighted by q.
    of_p = (q - v1, -q + 2 * v1 - v2, q - 4 * v1 + 5 * v2 - 2 * v3,
            -q + 8 * v1 - 19 * v2 + 18 * v3 - 6 * v4)  # fmt: skip
    of_q = (v1 - q, -v1 + v2, v1 - 3 * v2 + 2 * v3, -v1 + 7 * v2 - 12 * v3 + 6 * v4)
    e = epsilon.clamp(-1, 1)
    js = in_p * p_s + in_q * q_s
    powers = _powers(-e, 5)
    for k in range(1, 5):
        js += powers[k] / math.factorial(k) * (back * of_p[k - 1] + in_q * of_q[k - 1])
    mass = in_p * p + in_q * q
    remainder = torch.where(epsilon.abs() < 1, TAYLOR_REMAINDER * powers[5].abs(), 2) * mass
    return Terms(kl, reverse, js / 2, remainder / 2)


def _powers(x: Tensor, degree: int) -> list[Tensor]:
    """x^0 to x^degree; `x ** k` takes many times as long."""
    powers = [torch.ones_like(x)]
    for _ in range(degree):
        powers.append(powers[-1] * x)
    return powers


def excluded_terms(sums_SNB: Float[Tensor, "S N B"], shift: Shift) -> Terms:
    """The terms of tokens that one of the models excludes: the limits for q -> 0 and p -> 0."""
    only_p, only_q, is_without_q, is_without_p = sums_SNB
    only_p, only_q = shift.p_NB * only_p, shift.q_NB * only_q
    infinite = torch.full_like(only_p, torch.inf)
    kl = torch.where(is_without_q > 0, infinite, only_q)
    reverse = torch.where(is_without_p > 0, infinite, only_p)
    return Terms(kl, reverse, (only_p + only_q) * (math.log(2) / 2), torch.zeros_like(only_p))


def block_jensen_shannon(
    log_p_RW: Float[Tensor, "R W"], log_q_RW: Float[Tensor, "R W"]
) -> Float[Tensor, "R"]:
    """The term of a block in JS, by its definition; to be called in float64.

    >>> logs = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()
    >>> round(float(block_jensen_shannon(logs[:1], logs[1:])[0]), 4)
    0.1017
    """
    log_m_RW = torch.logaddexp(log_p_RW, log_q_RW) - math.log(2)
    terms = [log_RW.exp() * (log_RW - log_m_RW) for log_RW in (log_p_RW, log_q_RW)]
    # 0 × (-inf - ...) where a model excludes a token.
    sums = [term.nan_to_num_(nan=0.0).sum(dim=1) for term in terms]
    return (sums[0] + sums[1]) / 2
