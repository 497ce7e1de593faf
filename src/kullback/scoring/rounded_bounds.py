"""Bounds of a KL between distributions whose logarithms were rounded, and clipped; nats.

With ``t(p, q) = p log(p/q) + q − p``, which is never negative, KL(p‖q) = Σ t over all tokens, since
both distributions sum to 1.  t increases with the distance of p and q.  So where log p is in an
interval and log q in another, t is smallest at their nearest points (0 where they overlap) and
largest at their farthest, and rounding enters as |log p/q|·p times its size: it hardly changes a
small KL.

Of the clipped entries of p it is known that each is at most c, and that their mass R is 1 minus
that of the others.  The sum of t over them is convex in p, so it is largest where p is c on as many
tokens as R fills; for every λ ≥ 0 it is at most ``Σ q + λ R + Σ c max(0, log(c/q) − 1 − λ)``, the
dual of that linear programme.  A clipped entry of q may be 0: then there is no upper bound.

All in float64.  Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
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
    [0.501, 0.521]
    """
    p_low_BV, p_high_BV = _ends(reference)
    q_low_BV, q_high_BV = _ends(candidate)
    lower_B = _terms(
        torch.minimum(torch.maximum(p_low_BV, q_low_BV), p_high_BV),
        torch.minimum(torch.maximum(p_low_BV, q_low_BV), q_high_BV),
    ).sum(dim=1)
    farthest_BV = torch.maximum(_terms(p_high_BV, q_low_BV), _terms(p_low_BV, q_high_BV))
    if reference.clipped_BV is not None:
        farthest_BV = farthest_BV.masked_fill(reference.clipped_BV, 0)
        upper_B = farthest_BV.sum(dim=1) + _clipped(reference, p_high_BV, q_low_BV, q_high_BV)
    else:
        upper_B = farthest_BV.sum(dim=1)
    return lower_B, torch.maximum(upper_B, lower_B)


def _ends(rows: RoundedRows) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B V"]]:
    """The smallest and the largest log-probability of each token."""
    rounding_B1 = rows.rounding_B[:, None]
    low_BV, high_BV = rows.log_p_BV - rounding_B1, rows.log_p_BV + rounding_B1
    if rows.clipped_BV is not None:
        low_BV.masked_fill_(rows.clipped_BV, -torch.inf)
    return low_BV, high_BV


def _terms(log_p_BV: Float[Tensor, "B V"], log_q_BV: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    p_BV = log_p_BV.exp()
    ratio_BV = torch.where(log_p_BV == log_q_BV, 0, log_p_BV - log_q_BV)
    cross_BV = torch.where(p_BV == 0, 0, p_BV * ratio_BV)
    return (cross_BV + log_q_BV.exp() - p_BV).clamp_min_(0)


def _clipped(
    reference: RoundedRows,
    p_high_BV: Float[Tensor, "B V"],
    q_low_BV: Float[Tensor, "B V"],
    q_high_BV: Float[Tensor, "B V"],
) -> Float[Tensor, "B"]:
    """The largest sum of t over the reference's clipped entries."""
    clipped_BV = reference.clipped_BV
    assert clipped_BV is not None
    limit_BV = torch.where(clipped_BV, p_high_BV, -torch.inf)
    c_BV = limit_BV.exp()
    rest_B = torch.minimum(_largest_rest(reference), c_BV.sum(dim=1))
    gain_BV = torch.where(clipped_BV, limit_BV - q_low_BV - 1, 0).clamp_min_(0)
    largest_B = gain_BV.amax(dim=1)
    filled_B = torch.full_like(rest_B, torch.inf)
    for multiplier in MULTIPLIERS:
        price_B = multiplier * largest_B
        excess_BV = (gain_BV - price_B[:, None]).clamp_min_(0).mul_(c_BV)
        filled_B = torch.fmin(filled_B, price_B * rest_B + excess_BV.sum(dim=1))
    q_BV = torch.where(clipped_BV, q_high_BV.exp(), 0)
    # No mass can be where q is 0; a gain without a limit has no finite bound.
    return q_BV.sum(dim=1) + torch.where(rest_B > 0, filled_B, 0)


def _largest_rest(rows: RoundedRows) -> Float[Tensor, "B"]:
    """The largest mass that the clipped entries can have."""
    assert rows.clipped_BV is not None
    known_BV = rows.log_p_BV.exp().masked_fill_(rows.clipped_BV, 0)
    least_B = known_BV.sum(dim=1) * (-rows.rounding_B).exp()
    return (1 - least_B).clamp_min_(0)
