"""Bounds of a KL between distributions whose logarithms were rounded, and clipped; nats.

With ``t(p, q) = p log(p/q) + q − p``, which is never negative, KL(p‖q) = Σ t over all tokens, since
both distributions sum to 1.  t increases with the distance of p and q.  So where log p is within h
of a, and log q within g of b, t is smallest at their nearest points (0 where the intervals overlap)
and largest at their farthest, and rounding enters as |log p/q|·p times its size: it hardly changes
a small KL.

Of the clipped entries of p it is known that each is at most c = e^(a + h), and that their mass R is
1 minus that of the others.  As one cell they add at least t(R, Σ q) (the log sum inequality; Cover
and Thomas 2006, Elements of Information Theory, theorem 2.7.1).  The sum of t over them is convex
in p, so it is largest where p is c on as many tokens as R fills; for every λ ≥ 0 it is at most
``Σ q + λ R + Σ c max(0, log(c/q) − 1 − λ)``, the dual of that linear programme.  A clipped entry of
q may be 0: then there is no upper bound.

All in float64; e^a and e^b are computed once, all other exponentials are of numbers of a row.
Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kullback.predictions.rounded import RoundedRows

__all__ = ["rounded_kl_bounds"]

# λ over the largest log(c/q) − 1: more of them hardly tighten the bound.
MULTIPLIERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@torch.inference_mode()
def rounded_kl_bounds(
    reference: RoundedRows, candidate: RoundedRows
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """The smallest and the largest KL(reference‖candidate) that the rows allow; nats.

    >>> p, q = (torch.tensor([x]).log() for x in ([0.5, 0.5], [0.9, 0.1]))
    >>> exact, half = RoundedRows.exactly(p), RoundedRows(q.double(), torch.tensor([0.01]))
    >>> [round(float(bound), 3) for bound in rounded_kl_bounds(exact, half)]
    [0.503, 0.519]
    """
    h_B1, g_B1 = reference.rounding_B[:, None], candidate.rounding_B[:, None]
    p_BV, q_BV = reference.log_p_BV.exp(), candidate.log_p_BV.exp()
    ratio_BV, both_B1 = reference.log_p_BV - candidate.log_p_BV, h_B1 + g_B1
    # p at its upper end and q at its lower, and the reverse.
    above_BV = _terms(p_BV * h_B1.exp(), q_BV * (-g_B1).exp(), ratio_BV + both_B1)
    below_BV = _terms(p_BV * (-h_B1).exp(), q_BV * g_B1.exp(), ratio_BV - both_B1)
    upper_BV = torch.maximum(above_BV, below_BV)
    lower_BV = below_BV.masked_fill_(~(ratio_BV > both_B1), 0)
    nearer_BV = above_BV.masked_fill_(~(ratio_BV < -both_B1), 0)
    if candidate.clipped_BV is not None:
        # A clipped q may be 0: at a p that is not, t has no largest value.
        nearer_BV.masked_fill_(candidate.clipped_BV, 0)
        upper_BV.masked_fill_(candidate.clipped_BV & (p_BV > 0), torch.inf)
    if reference.clipped_BV is None:
        lower_B = lower_BV.add_(nearer_BV).sum(dim=1)
        upper_B = upper_BV.sum(dim=1)
        return lower_B, torch.maximum(upper_B, lower_B)
    known_BV = ~reference.clipped_BV
    lower_BV.add_(nearer_BV).masked_fill_(reference.clipped_BV, 0)
    low_B, high_B = _rest(reference, p_BV, known_BV)
    clipped = _Clipped(
        reference.clipped_BV, p_BV * h_B1.exp(), q_BV, ratio_BV + both_B1, low_B, high_B
    )
    apart_B, largest_B = clipped.as_a_cell(g_B1[:, 0]), clipped.largest(g_B1[:, 0])
    if candidate.clipped_BV is not None:
        without_limit_B = candidate.clipped_BV.any(dim=1)
        apart_B, largest_B = (
            apart_B.masked_fill(without_limit_B, 0),
            largest_B.masked_fill(without_limit_B, torch.inf),
        )
    nearer_B = nearer_BV.masked_fill_(known_BV, 0).sum(dim=1)
    lower_B = lower_BV.sum(dim=1) + torch.maximum(apart_B, nearer_B)
    upper_B = upper_BV.masked_fill_(reference.clipped_BV, 0).sum(dim=1) + largest_B
    return lower_B, torch.maximum(upper_B, lower_B)


def _terms(
    p_BV: Float[Tensor, "B V"], q_BV: Float[Tensor, "B V"], ratio_BV: Float[Tensor, "B V"]
) -> Float[Tensor, "B V"]:
    """t, where the ratio is log p/q; 0 log 0 = 0."""
    cross_BV = (p_BV * ratio_BV).masked_fill_(p_BV == 0, 0)
    return cross_BV.add_(q_BV).sub_(p_BV).clamp_min_(0)


def _rest(
    rows: RoundedRows, p_BV: Float[Tensor, "B V"], known_BV: Bool[Tensor, "B V"]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """The smallest and the largest mass that the clipped entries can have."""
    total_B = (p_BV * known_BV).sum(dim=1)
    low_B = 1 - total_B * rows.rounding_B.exp()
    high_B = 1 - total_B * (-rows.rounding_B).exp()
    return low_B.clamp_min_(0), high_B.clamp_min_(0)


@dataclass(frozen=True, eq=False)
class _Clipped:
    """The clipped entries of p beside a q that is not clipped there."""

    mask_BV: Bool[Tensor, "B V"]
    most_BV: Float[Tensor, "B V"]
    """c."""
    q_BV: Float[Tensor, "B V"]
    ratio_BV: Float[Tensor, "B V"]
    """log c less the smallest log q."""
    low_B: Float[Tensor, "B"]
    """Their mass is between this and the next."""
    high_B: Float[Tensor, "B"]

    def as_a_cell(self, g_B: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """t of their masses, at their nearest points."""
        q_B = (self.q_BV * self.mask_BV).sum(dim=1)
        p_B = torch.minimum(torch.maximum(self.low_B, q_B * (-g_B).exp()), self.high_B)
        near_B = torch.minimum(torch.maximum(self.low_B, q_B * (-g_B).exp()), q_B * g_B.exp())
        return _terms(p_B, near_B, p_B.log() - near_B.log())

    def largest(self, g_B: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The largest sum of t."""
        most_BV = self.most_BV * self.mask_BV
        rest_B = torch.minimum(self.high_B, most_BV.sum(dim=1))
        gain_BV = (self.ratio_BV - 1).masked_fill_(~self.mask_BV, 0).clamp_min_(0)
        largest_B = gain_BV.amax(dim=1)
        filled_B = torch.full_like(rest_B, torch.inf)
        for multiplier in MULTIPLIERS:
            price_B = multiplier * largest_B
            excess_BV = (gain_BV - price_B[:, None]).clamp_min_(0).mul_(most_BV)
            filled_B = torch.fmin(filled_B, price_B * rest_B + excess_BV.sum(dim=1))
        q_B = (self.q_BV * self.mask_BV).sum(dim=1) * g_B.exp()
        # A gain without a limit has no finite bound, unless there is no mass to place.
        return q_B + torch.where(rest_B > 0, filled_B, 0)
