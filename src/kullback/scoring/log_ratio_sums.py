"""Sums over the log-ratios of two models, from which KL both ways and Jensen-Shannon follow.

With p the reference, q the candidate and l = log p - log q at each of V tokens, in nats,

    KL(p‖q) = Σ p f(l)     KL(q‖p) = Σ q f(-l)     f(l) = e^(-l) - 1 + l
    JS      = Σ p j(l)     2 j(l) = s(l) + e^(-l) s(-l)     s(l) = log(2 / (1 + e^(-l)))

The textbook formula Σ p l adds and subtracts numbers of size |l| to get one of size l²: in float32
no digit of a KL of 1e-6 is left.  The terms above have the same sum (since Σ p = Σ q = 1), each is
at least zero, and an error e of the normalisers enters as e², not e.

l needs the normalisers over all tokens, which are known after the last block.  So the sums of a
block are taken over d = log p - log q with estimates of the normalisers; the sums at l = d - ε
follow from them as soon as the error ε is known:

* near tokens, |d| <= 1/2: the moments M_k = Σ p d^k, k <= 8.  There f and j are polynomials to the
  precision of float32, so the divergences are linear in the moments, and the shift is the binomial
  theorem;
* far tokens: both KLs follow from Σ p, Σ q, Σ p d and Σ q d at any ε.  For JS the derivatives of s
  are summed up to the fourth (they are polynomials in v = q / (p + q), and p v = q (1 - v)), for
  Taylor's theorem in ε.  Where ε is so large that this is too coarse, `Divergences.is_coarse_NB`
  says so.

Axes: B rows, R some of them, W columns of a block, N blocks, K moments, S sums of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kullback.scoring.compiled import RatioBuffers
from kullback.scoring.divergence_terms import (
    DEGREE,
    NEAR,
    Shift,
    Terms,
    excluded_terms,
    far_terms,
    near_terms,
)
from kullback.scoring.logit_blocks import wide

__all__ = ["Divergences", "LogRatioSums"]

# Numbers of sums over far tokens, and over excluded ones.
FAR, EXCLUDED = 10, 4
# The largest error of the expansions, relative to JS.
TOLERANCE = 1e-6
# Beyond, s(d) and s(-d) equal their limits in float32.
FARTHEST = 80.0
# Number of blocks whose sums are converted to float64 at a time.
TOGETHER = 32


@dataclass(frozen=True, eq=False)
class Divergences:
    """The divergences of each row, in float64."""

    kl_B: Float[Tensor, "B"]
    reverse_kl_B: Float[Tensor, "B"]
    jensen_shannon_NB: Float[Tensor, "N B"]
    """The term of each block in JS."""
    is_coarse_NB: Bool[Tensor, "N B"]
    """Where that term is not exact enough: `block_jensen_shannon` computes it from the logits."""


class LogRatioSums:
    """The sums of one chunk of rows, added block by block."""

    def __init__(self, like_B: Float[Tensor, "B"], count: int) -> None:
        # Memory for all blocks at once, as in `BlockSums`.
        shapes = [(count, rows, len(like_B)) for rows in (DEGREE + 1, FAR, EXCLUDED)]
        self.moments_NKB, self.far_NSB, self.excluded_NSB = map(like_B.new_empty, shapes)
        self.added = 0
        # The blocks with far tokens, and with tokens that one of the models excludes; the buffers
        # of the other blocks are uninitialised.
        self.with_far: list[int] = []
        self.with_excluded: list[int] = []
        self.scratch: list[Float[Tensor, "B W"]] = []

    @classmethod
    def joined(cls, parts: Sequence[LogRatioSums]) -> LogRatioSums:
        """The sums of the rows of all parts, to which the same blocks have been added."""
        whole = cls(parts[0].moments_NKB[0, 0, :0], 0)
        whole.added = parts[0].added
        whole.with_far = sorted({n for part in parts for n in part.with_far})
        whole.with_excluded = sorted({n for part in parts for n in part.with_excluded})
        for part in parts:
            # The others' blocks may have what this part's have not.
            part.far_NSB[sorted(set(whole.with_far).difference(part.with_far))] = 0
            part.excluded_NSB[sorted(set(whole.with_excluded).difference(part.with_excluded))] = 0
        whole.moments_NKB, whole.far_NSB, whole.excluded_NSB = (
            torch.cat([getattr(part, name) for part in parts], dim=2)
            for name in ("moments_NKB", "far_NSB", "excluded_NSB")
        )
        return whole

    def add(
        self,
        p_BW: Float[Tensor, "B W"],
        q_BW: Float[Tensor, "B W"],
        d_BW: Float[Tensor, "B W"],
    ) -> None:
        """Add a block: e^(x-m) of both models, and d; all of them are overwritten.

        x are the logits, m is the largest of each row and block.
        """
        # Recently used memory is in the cache; newly allocated memory doubles the time.
        if not self.scratch or self.scratch[0].shape != p_BW.shape:
            self.scratch = [torch.empty_like(p_BW) for _ in range(3)]
        slot = self.next_slot()
        smallest, largest = (extreme.item() for extreme in d_BW.aminmax())
        has_excluded = not (math.isfinite(smallest) and math.isfinite(largest))
        has_far = not (smallest >= -NEAR and largest <= NEAR)
        if has_excluded:
            self._set_aside_excluded(p_BW, q_BW, d_BW, slot.excluded_SB)
        if has_far:
            is_far_BW, p_far_BW, v_BW = self.scratch
            torch.gt(torch.abs(d_BW, out=is_far_BW), NEAR, out=is_far_BW)
            torch.mul(p_BW, is_far_BW, out=p_far_BW)
            p_BW.sub_(p_far_BW)
            slot.far_SB.copy_(_far_sums(p_far_BW, q_BW.mul_(is_far_BW), d_BW, v_BW))
            d_BW.clamp_(-NEAR, NEAR)
        slot.moments_KB.copy_(_moments(p_BW, d_BW, self.scratch))
        self.commit(has_far, has_excluded)

    def next_slot(self) -> RatioBuffers:
        """The memory for the sums of the next block; `commit` adds what was written to it."""
        n = self.added
        return RatioBuffers(self.moments_NKB[n], self.far_NSB[n], self.excluded_NSB[n])

    def commit(self, has_far: bool, has_excluded: bool) -> None:
        """Add the sums in `next_slot`: moments, and those of far and excluded tokens if any."""
        if has_far:
            self.with_far.append(self.added)
        if has_excluded:
            self.with_excluded.append(self.added)
        self.added += 1

    def _set_aside_excluded(
        self, p_BW: Tensor, q_BW: Tensor, d_BW: Tensor, excluded_SB: Float[Tensor, "S B"]
    ) -> None:
        """Sum over the tokens that a model excludes, and remove them from the block."""
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
        """All divergences, once the normalisers are known; all arguments are float64.

        `epsilon_NB` is ε = d - l of each block; `log_p_NB` and `log_q_NB` are m - log Σ e^x of both
        models.
        """
        N = self.added
        shift = Shift.of(epsilon_NB, log_p_NB, log_q_NB)
        kl_B, reverse_kl_B = torch.zeros_like(epsilon_NB[0]), torch.zeros_like(epsilon_NB[0])
        js_NB, remainder_NB = torch.zeros_like(epsilon_NB), torch.zeros_like(epsilon_NB)
        mass_NB = torch.zeros_like(epsilon_NB)

        def add(blocks: list[int], terms: Terms) -> None:
            kl_B.add_(terms.kl_NB.sum(dim=0))
            reverse_kl_B.add_(terms.reverse_kl_NB.sum(dim=0))
            js_NB[blocks] += terms.jensen_shannon_NB
            remainder_NB[blocks] += terms.remainder_NB

        for numbers, sums_NSB, terms_of in (
            (list(range(N)), self.moments_NKB, near_terms),
            (self.with_far, self.far_NSB, far_terms),
            (self.with_excluded, self.excluded_NSB, excluded_terms),
        ):
            for start in range(0, len(numbers), TOGETHER):
                blocks = numbers[start : start + TOGETHER]
                sums_SNB = wide(sums_NSB[blocks]).transpose(0, 1)
                add(blocks, terms_of(sums_SNB, shift[blocks]))
                mass_NB[blocks] += sums_SNB[0] * shift.p_NB[blocks]
        allowed_NB = TOLERANCE * js_NB.sum(dim=0) * mass_NB.clamp_min(1 / N)
        # Rounding may leave a KL of zero slightly negative.
        kl_B.clamp_min_(0)
        reverse_kl_B.clamp_min_(0)
        return Divergences(kl_B, reverse_kl_B, js_NB, ~(remainder_NB <= allowed_NB))

    def excluded_probabilities(
        self, log_p_NB: Float[Tensor, "N B"], log_q_NB: Float[Tensor, "N B"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """The reference's probability of tokens that only the candidate excludes, and vice versa.

        The arguments are those of `divergences`.
        """
        blocks = self.with_excluded
        only_p_NB, only_q_NB = wide(self.excluded_NSB[blocks, :2]).unbind(1)
        return (
            (only_p_NB * log_p_NB[blocks].exp()).sum(dim=0),
            (only_q_NB * log_q_NB[blocks].exp()).sum(dim=0),
        )


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
