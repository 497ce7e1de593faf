"""Sums over the tokens of two models' blocks from which their total variation follows.

With p the reference and q the candidate, and g = 1 - q/p,

    TV(p, q) = ½ Σ |p - q| = ½ Σ p |g|

has a kink where p = q, and the sign of p - q at a token is known only after the last block, with
both normalisers.  So the compiled library sums the tokens of each row by their log-ratio d' (that
of p' and q', which are p and q but for two factors of the row) in `BINS` bins, as Σ p', Σ q', Σ r
and Σ r²/p' with r = p' - q', and lists the most probable ones, at most `LISTED`.  The end
of the row says at which d' p and q are equal: bins on either side of it count with their sign, and
so do listed tokens.  In the bin that it is in, g is taken as uniformly distributed with the bin's
mean and variance; where what is not known of that bin is more than `TOLERANCE` of TV, the row is
summed again from its logits.

Sums of r keep their digits where p and q are nearly equal, and p = q is where Σ r over all tokens
says (Σ p = Σ q), so that an error of the normalisers does not enter.

Axes: B rows of a chunk, R some of them, N blocks, K bins, L listed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["VariationBuffers", "VariationSums", "block_variation", "total_of_parts"]

# As in the C source.
BINS, LISTED = 256, 256
# The largest error, relative to TV, that is possible where a row is not summed again.  Of normal
# logits from 0 to 3 nats apart the largest is 1e-5, and that of most rows is 5e-7.
TOLERANCE = 1e-4
ROUNDING = 1e-6
# In mean |d'| of the first block.
WIDE = 3.0
# Where the scale of the first block is farther from the final one, in nats, float32 sums of r have
# lost too many digits.
FARTHEST = 2.0


class VariationBuffers(NamedTuple):
    """The memory of the compiled library, zero before the first block."""

    frames_B6: Float[Tensor, "B 6"]
    """In float64: two origins, 1 / the width of the bins, the number of listed tokens and the least
    share of those, and whether a sum overflowed."""
    bins_BK4: Float[Tensor, "B K 4"]
    lists_BL4: Float[Tensor, "B L 4"]
    """d', p', q' and r."""


class VariationSums:
    """The sums of one chunk of rows."""

    def __init__(self, like_B: Float[Tensor, "B"]) -> None:
        B = len(like_B)
        self.buffers = VariationBuffers(
            like_B.new_zeros((B, 6), dtype=torch.float64),
            like_B.new_zeros((B, BINS, 4), dtype=torch.float32),
            like_B.new_empty((B, LISTED, 4), dtype=torch.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence[VariationSums]) -> VariationSums:
        """The sums of the rows of all parts."""
        whole = cls(parts[0].buffers.lists_BL4[:0, 0, 0])
        whole.buffers = VariationBuffers(
            *(torch.cat(buffers) for buffers in zip(*(part.buffers for part in parts), strict=True))
        )
        return whole

    def total_variation(
        self, only_p_B: Float[Tensor, "B"], only_q_B: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """TV of each row in float64, and whether it has to be computed from the logits.

        `only_p_B` is the reference's probability of the tokens that only the candidate excludes,
        and `only_q_B` the candidate's of those that only the reference excludes.
        """
        frames_B6, bins_BK4, lists_BL4 = self.buffers
        P_BK, Q_BK, R_BK, S_BK = bins_BK4.double().unbind(2)
        is_listed_BL = torch.arange(LISTED) < frames_B6[:, 3:4]
        lists_BL4 = lists_BL4.double().masked_fill(~is_listed_BL[:, :, None], 0)
        listed = lists_BL4[:, :, 1:].unbind(2)
        P_B, Q_B, R_B = (
            bins_BX.sum(dim=1) + list_BL.sum(dim=1)
            for bins_BX, list_BL in zip((P_BK, Q_BK, R_BK), listed, strict=True)
        )
        # p = q where g = 1 - e^(-ε).
        rest = torch.log1p(-only_q_B) - torch.log1p(-only_p_B)
        near = -torch.log1p(-R_B / P_B) + rest
        epsilon_B = torch.where(R_B.abs() < 0.4 * P_B, near, (P_B / Q_B).log() + rest)
        is_coarse_B = ~(epsilon_B.abs() < FARTHEST) | (frames_B6[:, 5] > 0)
        epsilon_B1 = epsilon_B.nan_to_num(0, 0, 0)[:, None]
        P_BL, Q_BL, R_BL = listed
        own = _surplus(P_BK, Q_BK, R_BK, epsilon_B1)
        of_list = _surplus(P_BL, Q_BL, R_BL, epsilon_B1)
        inside_B1 = bin_of(epsilon_B1, frames_B6[:, 2:3])
        P_B1, R_B1, S_B1 = (column_BK.gather(1, inside_B1) for column_BK in (P_BK, R_BK, S_BK))
        sum_B1, error_B1 = _inside(P_B1, R_B1, S_B1, epsilon_B1)
        sum_B, error_B = sum_B1[:, 0], error_B1[:, 0]
        outside_BK = own.abs().scatter(1, inside_B1, 0.0)
        # In units of p'.
        total_B = outside_BK.sum(dim=1) + of_list.abs().sum(dim=1) + sum_B
        # The bins far from the first block's scale are wide.
        is_wide_B = epsilon_B.abs() * frames_B6[:, 2] > WIDE
        is_coarse_B |= ~(error_B <= torch.where(is_wide_B, ROUNDING, TOLERANCE) * total_B)
        shared_B = torch.where(P_B > 0, (1 - only_p_B) * total_B / P_B, 0.0)
        return (only_p_B + only_q_B + shared_B) / 2, is_coarse_B


def bin_of(d: Float[Tensor, "..."], per_width: Float[Tensor, "..."]) -> Tensor:
    """The number of the bin of d': half of them on either side of 0, 32 to an octave."""
    u = (d.float().abs() * (2 * per_width.float()) + 1).clamp_max(1e30)
    i = ((u.view(torch.int32) - 0x3F800000) >> 18).clamp_max(BINS // 2 - 1).long()
    return BINS // 2 + torch.where(d < 0, -1 - i, i)


def _surplus(P: Tensor, Q: Tensor, R: Tensor, epsilon: Tensor) -> Tensor:
    """Σ p' - e^ε q' of some tokens: by r where p and q are nearly equal."""
    near = epsilon.exp() * R - torch.expm1(epsilon) * P
    return torch.where(epsilon.abs() < 0.5, near, P - epsilon.exp() * Q)


def _inside(
    P_B1: Tensor, R_B1: Tensor, S_B1: Tensor, epsilon_B1: Tensor
) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """Σ |p' - e^ε q'| over the bin of ε, and the largest error of it."""
    has_any = P_B1 > 0
    mean_B1 = torch.where(has_any, R_B1 / P_B1, 0)
    variance_B1 = torch.where(has_any, S_B1 / P_B1 - mean_B1.square(), 0).clamp_min(0)
    distance_B1 = (mean_B1 + torch.expm1(-epsilon_B1)).abs()
    half_B1 = (3 * variance_B1).sqrt()
    uniform_B1 = (distance_B1.square() + half_B1.square()) / (2 * half_B1)
    mean_distance_B1 = torch.where(distance_B1 >= half_B1, distance_B1, uniform_B1)
    most_B1 = (variance_B1 + distance_B1.square()).sqrt()
    scale_B1 = P_B1 * epsilon_B1.exp()
    error_B1 = torch.maximum(most_B1 - mean_distance_B1, mean_distance_B1 - distance_B1)
    return scale_B1 * mean_distance_B1, scale_B1 * error_B1


def block_variation(
    log_p_RW: Float[Tensor, "R W"], log_q_RW: Float[Tensor, "R W"]
) -> Float[Tensor, "4 R"]:
    """What a block adds to Σ p and Σ q over the tokens with p > q, and over those with p < q.

    To be called in float64.
    """
    p_RW, q_RW = log_p_RW.exp(), log_q_RW.exp()
    difference_RW = p_RW - q_RW
    is_more_RW = difference_RW > 0
    parts = (
        difference_RW.clamp_min(0), (-difference_RW).clamp_min(0),
        q_RW * is_more_RW, q_RW * ~is_more_RW,
    )  # fmt: skip
    return torch.stack([part_RW.sum(dim=1) for part_RW in parts])


def total_of_parts(parts_N4R: Float[Tensor, "N 4 R"]) -> Float[Tensor, "R"]:
    """TV from `block_variation` of all blocks.

    Both Σ (p - q)⁺ and Σ (q - p)⁺ are TV; in the mean with these weights an error of the
    normalisers enters as its square.

    >>> logs = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()
    >>> round(float(total_of_parts(block_variation(logs[:1], logs[1:])[None])[0]), 4)
    0.4
    """
    more_R, less_R, q_more_R, q_less_R = parts_N4R.sum(dim=0).unbind(0)
    variation_R: Tensor = (more_R * q_less_R + less_R * q_more_R).clamp(0, 1)
    return variation_R
