"""KL both ways and Jensen-Shannon from one pass over the vocabulary, each block used once.

With p the reference, q the candidate and l = log p - log q at each of V words, in nats,

    KL(p‖q) = Σ p f(l)     KL(q‖p) = Σ q f(-l)     f(l) = e^(-l) - 1 + l
    JS      = Σ p j(l)     2 j(l) = s(l) + e^(-l) s(-l)     s(l) = log(2 / (1 + e^(-l)))

The textbook's Σ p l adds and subtracts numbers of size |l| to get one of size l²: in float32
nothing is left of a KL of 1e-6.  The terms above sum to the same (since Σ p = Σ q = 1), each is at
least zero, and an error e of the normalisers enters as e², not e.

l needs the normalisers over all words, which are known when the last block has gone by.  So a block
is measured by d = log p - log q by estimates of them, and leaves sums from which those at l = d - ε
follow as soon as ε is known:

* near words, |d| <= 1/2: the moments M_k = Σ p d^k, k <= 8.  There f and j are polynomials to
  float32, so the divergences are linear in the moments, and a shift is the binomial theorem;
* far words: both KLs follow from Σ p, Σ q, Σ p d and Σ q d at any ε.  For JS the derivatives of s
  are summed up to the fourth (they are polynomials in v = q / (p + q), and p v = q (1 - v)), for
  Taylor's theorem in ε.  Where that is too coarse, which needs a bad estimate, the sums say so.

Axes: B rows, W words of a block, N blocks, K moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kullback.scoring.compiled import RatioRoom
from kullback.scoring.logit_blocks import wide

__all__ = ["Divergences", "LogRatioSums", "block_jensen_shannon"]

# Up to here the polynomials miss f by 5e-8 of it, e^(-l) f(-l) by 5e-7 and j by 2e-8; with another
# SMALL_SHIFT by ten times as much.
NEAR = 0.5
SMALL_SHIFT = 0.25
DEGREE = 8
# How many sums there are of far words, and of excluded ones.
FAR, EXCLUDED = 10, 4
# j(l) = l²/8 - l³/16 + l⁴/64 - ..., and how far from j the polynomial is, per |l|⁹.
JS_SERIES = (0, 0, 1 / 8, -1 / 16, 1 / 64, -1 / 384, 1 / 2304, -1 / 11520, 1 / 92160)
JS_SERIES_REMAINDER = 3e-7
# The largest fifth derivative of s, over 5!.
TAYLOR_REMAINDER = 1.1e-3
# What the expansions may add to JS, relative to it.
TOLERANCE = 1e-6
# Beyond, s(d) and s(-d) are at their limits to the last digit of float32.
FARTHEST = 80.0
# Blocks whose sums are widened to float64 at a time.
TOGETHER = 32


@dataclass(frozen=True, eq=False)
class Divergences:
    """What the sums say, in float64."""

    kl_B: Float[Tensor, "B"]
    reverse_kl_B: Float[Tensor, "B"]
    jensen_shannon_NB: Float[Tensor, "N B"]
    """What each block adds to JS."""
    is_coarse_NB: Bool[Tensor, "N B"]
    """Where that is not exact enough, and `block_jensen_shannon` must be asked."""


@dataclass(frozen=True, eq=False)
class _Shift:
    """From a block's own scale to the final one; N may be some of the blocks."""

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
    def of(cls, epsilon_NB: Tensor, log_p_NB: Tensor, log_q_NB: Tensor) -> _Shift:
        logs = (log_p_NB, log_q_NB, log_p_NB + epsilon_NB, log_q_NB - epsilon_NB)
        return cls(epsilon_NB, *(log_NB.exp() for log_NB in logs))

    def __getitem__(self, blocks: list[int] | slice) -> _Shift:
        return _Shift(*(getattr(self, name)[blocks] for name in self.__dataclass_fields__))


# KL, reverse KL, JS, and how far the latter may be off.
_Parts = tuple[Tensor, Tensor, Tensor, Tensor]


class LogRatioSums:
    """The sums of one chunk of rows, block by block, and what follows from them."""

    def __init__(self, like_B: Float[Tensor, "B"], count: int) -> None:
        # Room for all blocks at once, as in `BlockSums`.
        shapes = [(count, rows, len(like_B)) for rows in (DEGREE + 1, FAR, EXCLUDED)]
        self.moments_NKB, self.far_NSB, self.excluded_NSB = map(like_B.new_empty, shapes)
        self.added = 0
        # The blocks that have far words, and words that one of the models excludes; what the
        # others' room holds means nothing.
        self.with_far: list[int] = []
        self.with_excluded: list[int] = []
        self.scratch: list[Float[Tensor, "B W"]] = []

    def add(
        self,
        p_BW: Float[Tensor, "B W"],
        q_BW: Float[Tensor, "B W"],
        d_BW: Float[Tensor, "B W"],
    ) -> None:
        """Add a block: e^(x-m) of both models, and d; all of them are overwritten.

        x are the logits, m is the largest of each row and block.
        """
        # Memory that was used just before is in the cache; fresh memory doubles the time.
        if not self.scratch or self.scratch[0].shape != p_BW.shape:
            self.scratch = [torch.empty_like(p_BW) for _ in range(3)]
        room = self.room()
        smallest, largest = (extreme.item() for extreme in d_BW.aminmax())
        has_excluded = not (math.isfinite(smallest) and math.isfinite(largest))
        has_far = not (smallest >= -NEAR and largest <= NEAR)
        if has_excluded:
            self._set_aside_excluded(p_BW, q_BW, d_BW, room.excluded_SB)
        if has_far:
            is_far_BW, p_far_BW, v_BW = self.scratch
            torch.gt(torch.abs(d_BW, out=is_far_BW), NEAR, out=is_far_BW)
            torch.mul(p_BW, is_far_BW, out=p_far_BW)
            p_BW.sub_(p_far_BW)
            room.far_SB.copy_(_far_sums(p_far_BW, q_BW.mul_(is_far_BW), d_BW, v_BW))
            d_BW.clamp_(-NEAR, NEAR)
        room.moments_KB.copy_(_moments(p_BW, d_BW, self.scratch))
        self.take(has_far, has_excluded)

    def room(self) -> RatioRoom:
        """Where the sums of the next block are to be written."""
        n = self.added
        return RatioRoom(self.moments_NKB[n], self.far_NSB[n], self.excluded_NSB[n])

    def take(self, has_far: bool, has_excluded: bool) -> None:
        """Take what was written into the last `room`: moments, and the rest where there is any."""
        if has_far:
            self.with_far.append(self.added)
        if has_excluded:
            self.with_excluded.append(self.added)
        self.added += 1

    def _set_aside_excluded(
        self, p_BW: Tensor, q_BW: Tensor, d_BW: Tensor, excluded_SB: Float[Tensor, "S B"]
    ) -> None:
        """Account for words that a model excludes, and take them out of the block."""
        no_q_BW, no_p_BW = d_BW == torch.inf, d_BW == -torch.inf
        only_p_B, only_q_B = (p_BW * no_q_BW).sum(dim=1), (q_BW * no_p_BW).sum(dim=1)
        is_excluded = (no_q_BW.any(dim=1).to(p_BW), no_p_BW.any(dim=1).to(p_BW))
        excluded_SB.copy_(torch.stack([only_p_B, only_q_B, *is_excluded]))
        excluded_BW = ~torch.isfinite(d_BW)
        for values_BW in (p_BW, q_BW, d_BW):
            values_BW.masked_fill_(excluded_BW, 0)

    def divergences(
        self,
        epsilon_NB: Float[Tensor, "N B"],
        log_p_NB: Float[Tensor, "N B"],
        log_q_NB: Float[Tensor, "N B"],
    ) -> Divergences:
        """All divergences, now that the normalisers are known; everything given is float64.

        `epsilon_NB` is ε, by how much each block's d is larger than l; `log_p_NB` and `log_q_NB`
        are m - log Σ e^x of both models.
        """
        N = self.added
        shift = _Shift.of(epsilon_NB, log_p_NB, log_q_NB)
        totals = [torch.zeros_like(epsilon_NB[0]) for _ in range(2)]
        js_NB, remainder_NB = torch.zeros_like(epsilon_NB), torch.zeros_like(epsilon_NB)
        mass_NB = torch.zeros_like(epsilon_NB)

        def account(blocks: list[int], parts: _Parts) -> None:
            for total_B, part_NB in zip(totals, parts, strict=False):
                total_B += part_NB.sum(dim=0)
            js_NB[blocks] += parts[2]
            remainder_NB[blocks] += parts[3]

        for numbers, found_NSB, parts_of in (
            (list(range(N)), self.moments_NKB, _near_parts),
            (self.with_far, self.far_NSB, _far_parts),
            (self.with_excluded, self.excluded_NSB, _excluded_parts),
        ):
            for start in range(0, len(numbers), TOGETHER):
                blocks = numbers[start : start + TOGETHER]
                sums_SNB = wide(found_NSB[blocks]).transpose(0, 1)
                account(blocks, parts_of(sums_SNB, shift[blocks]))
                mass_NB[blocks] += sums_SNB[0] * shift.p_NB[blocks]
        allowed_NB = TOLERANCE * js_NB.sum(dim=0) * mass_NB.clamp_min(1 / N)
        # Rounding may leave what is nothing a little below it.
        kl_B, reverse_kl_B = (total_B.clamp_min_(0) for total_B in totals)
        return Divergences(kl_B, reverse_kl_B, js_NB, ~(remainder_NB <= allowed_NB))


def _moments(
    p_BW: Float[Tensor, "B W"], d_BW: Float[Tensor, "B W"], scratch: list[Tensor]
) -> Float[Tensor, "K B"]:
    """Σ p d^k for k up to 8; `p_BW` is overwritten."""
    dot = torch.linalg.vecdot
    d2_BW, d3_BW, d4_BW = scratch
    torch.mul(d_BW, d_BW, out=d2_BW)
    torch.mul(d2_BW, d_BW, out=d3_BW)
    torch.mul(d2_BW, d2_BW, out=d4_BW)
    powers = (d_BW, d2_BW, d3_BW, d4_BW)
    low = [p_BW.sum(dim=1), *(dot(p_BW, power_BW) for power_BW in powers)]
    p_BW.mul_(d4_BW)
    return torch.stack([*low, *(dot(p_BW, power_BW) for power_BW in powers)])


def _near_parts(moments_KNB: Float[Tensor, "K N B"], shift: _Shift) -> _Parts:
    """What near words add, from the moments of their d."""
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
    # f(d - ε) = e^ε f(d) + f(-ε) - (e^ε - 1) d, and likewise back: nothing of size ε remains.
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
    for k in range(2, DEGREE + 1):
        js += JS_SERIES[k] * sum(
            math.comb(k, i) * (-e) ** (k - i) * moments_KNB[i] for i in range(k + 1)
        )
    js *= shift.p_NB
    distance = epsilon.abs()
    remainder = shift.p_NB * p * JS_SERIES_REMAINDER * (NEAR + e.abs()) ** 9
    remainder = torch.where(distance < 1, remainder, shift.p_NB * p + shift.q_of_p_NB * q)
    return kl, reverse, js, torch.where(distance < SMALL_SHIFT, 0, remainder)


def _far_sums(
    p_BW: Float[Tensor, "B W"], q_BW: Float[Tensor, "B W"], d_BW: Float[Tensor, "B W"], v_BW: Tensor
) -> Float[Tensor, "S B"]:
    """Σ p, Σ q, Σ p d, Σ q d, Σ p s(d), Σ q s(-d), and Σ q v^k for k up to 4.

    `q_BW` and `v_BW` are overwritten.
    """
    dot = torch.linalg.vecdot
    masses = [p_BW.sum(dim=1), q_BW.sum(dim=1), dot(p_BW, d_BW), dot(q_BW, d_BW)]
    near_BW = d_BW.clamp(-FARTHEST, FARTHEST)
    torch.neg(near_BW, out=v_BW).sigmoid_()
    # s(-d) = log 2v, and s(d) = s(-d) + d.
    s_BW = torch.mul(v_BW, 2).log_()
    q_s_B = dot(q_BW, s_BW)
    p_s_B = dot(p_BW, s_BW.add_(near_BW))
    powers = [q_BW.mul_(v_BW).sum(dim=1) for _ in range(4)]
    return torch.stack([*masses, p_s_B, q_s_B, *powers])


def _far_parts(sums_SNB: Float[Tensor, "S N B"], shift: _Shift) -> _Parts:
    """What far words add, from their sums."""
    p, q, p_d, q_d, p_s, q_s, v1, v2, v3, v4 = sums_SNB
    epsilon = shift.epsilon_NB
    in_p, in_q, back = shift.p_NB, shift.q_NB, shift.p_of_q_NB
    kl = in_q * q - in_p * (p - p_d + epsilon * p)
    reverse = in_p * p - in_q * (q + q_d - epsilon * q)
    # The derivatives of s(l) weighted with p, in terms of q; and those of s(-l) weighted with q.
    of_p = (q - v1, -q + 2 * v1 - v2, q - 4 * v1 + 5 * v2 - 2 * v3,
            -q + 8 * v1 - 19 * v2 + 18 * v3 - 6 * v4)  # fmt: skip
    of_q = (v1 - q, -v1 + v2, v1 - 3 * v2 + 2 * v3, -v1 + 7 * v2 - 12 * v3 + 6 * v4)
    e = epsilon.clamp(-1, 1)
    js = in_p * p_s + in_q * q_s
    for k in range(1, 5):
        js += (-e) ** k / math.factorial(k) * (back * of_p[k - 1] + in_q * of_q[k - 1])
    mass = in_p * p + in_q * q
    distance = epsilon.abs()
    remainder = torch.where(distance < 1, TAYLOR_REMAINDER * distance**5, 2) * mass
    return kl, reverse, js / 2, remainder / 2


def _excluded_parts(sums_SNB: Float[Tensor, "S N B"], shift: _Shift) -> _Parts:
    """What words that one of the models excludes add: the limits for q -> 0 and for p -> 0."""
    only_p, only_q, is_without_q, is_without_p = sums_SNB
    only_p, only_q = shift.p_NB * only_p, shift.q_NB * only_q
    infinite = torch.full_like(only_p, torch.inf)
    kl = torch.where(is_without_q > 0, infinite, only_q)
    reverse = torch.where(is_without_p > 0, infinite, only_p)
    return kl, reverse, (only_p + only_q) * (math.log(2) / 2), torch.zeros_like(only_p)


def block_jensen_shannon(
    log_p_RW: Float[Tensor, "R W"], log_q_RW: Float[Tensor, "R W"]
) -> Float[Tensor, "R"]:
    """What a block adds to JS, by its definition; to be called in float64.

    >>> logs = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()
    >>> round(float(block_jensen_shannon(logs[:1], logs[1:])[0]), 4)
    0.1017
    """
    log_m_RW = torch.logaddexp(log_p_RW, log_q_RW) - math.log(2)
    terms = [log_RW.exp() * (log_RW - log_m_RW) for log_RW in (log_p_RW, log_q_RW)]
    # 0 × (-inf - ...) where a model excludes a word.
    sums = [term.nan_to_num_(nan=0.0).sum(dim=1) for term in terms]
    return (sums[0] + sums[1]) / 2
