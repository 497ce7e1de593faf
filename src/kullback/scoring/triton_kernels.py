"""Triton kernels of the sums over logits on an accelerator: a program sums one row of one block.

The sums and their names are those of :mod:`kullback.scoring.block_sums`, and of
:mod:`kullback.scoring.device_sums` for two models.  A block of logits is read once and stays in
registers; sums over a block are float32, sums over blocks are made in float64 by the caller.
Triton compiles a kernel at its first use (a second or two).

Axes: B rows, N blocks of W columns, V vocabulary, K most probable tokens, S sums of a block.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["pair_sums_kernel", "row_sums_kernel"]

PER_BIT = tl.constexpr(1.4426950408889634)
# As in `kullback.scoring.divergence_terms`.
NEAR = tl.constexpr(0.5)
LOG_2 = tl.constexpr(0.6931471805599453)
FARTHEST = tl.constexpr(80.0)
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def row_sums_kernel(
    x_ptr,
    row_stride,
    target_logits_ptr,
    sums_ptr,
    top_logits_ptr,
    top_columns_ptr,
    B,
    V,
    W: tl.constexpr,
    K: tl.constexpr,
):
    """Write m, Z, S (in bits), √C and the number above the target, and the K largest logits."""
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * W + tl.arange(0, W)
    x = tl.load(
        x_ptr + row.to(tl.int64) * row_stride + columns, mask=columns < V, other=-float("inf")
    )
    largest = tl.max(x, axis=0)
    shifted = (x - tl.maximum(largest, LOWEST)) * PER_BIT
    exponential = tl.exp2(shifted)
    z = tl.sum(exponential, axis=0)
    # A token of probability 0 adds nothing, where 0 × -inf would be NaN.
    s = tl.sum(tl.where(exponential > 0, shifted * exponential, 0.0), axis=0)
    c = tl.sum(exponential * exponential, axis=0)
    target = tl.load(target_logits_ptr + row)
    above = tl.sum((x > target).to(tl.float32), axis=0)
    # The maximum of Triton passes over NaN.
    has_nan = tl.sum((x != x).to(tl.int32), axis=0) > 0
    largest_or_nan = tl.where(has_nan, float("nan"), largest)
    out = sums_ptr + block * 5 * B + row
    tl.store(out, largest_or_nan)
    tl.store(out + B, z)
    tl.store(out + 2 * B, s)
    tl.store(out + 3 * B, tl.sqrt(c))
    tl.store(out + 4 * B, above)
    rest = x
    for k in tl.static_range(K):
        logit, place = tl.max(rest, axis=0, return_indices=True, return_indices_tie_break_left=True)
        at = (row * tl.num_programs(1) + block) * K + k
        tl.store(top_logits_ptr + at, logit)
        tl.store(top_columns_ptr + at, block * W + place)
        rest = tl.where(tl.arange(0, W) == place, -float("inf"), rest)


@triton.jit
def _series(x, c0, c1, c2, c3, c4, c5, c6):
    return c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * (c5 + x * c6)))))


@triton.jit
def pair_sums_kernel(
    x_ptr,
    x_stride,
    y_ptr,
    y_stride,
    largest_ptr,
    offset_ptr,
    sums_ptr,
    B,
    V,
    W: tl.constexpr,
):
    """Write the sums of `kullback.scoring.device_sums.PairSum` over one block of one row.

    `largest_ptr` has m of x and of y, 2 × B; `offset_ptr` has log Σ e^x - log Σ e^y as two numbers
    whose sum it is, 2 × B.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * W + tl.arange(0, W)
    inside = columns < V
    x = tl.load(x_ptr + row.to(tl.int64) * x_stride + columns, mask=inside, other=-float("inf"))
    y = tl.load(y_ptr + row.to(tl.int64) * y_stride + columns, mask=inside, other=-float("inf"))
    p = tl.exp2((x - tl.load(largest_ptr + row)) * PER_BIT)
    q = tl.exp2((y - tl.load(largest_ptr + B + row)) * PER_BIT)
    has_p, has_q = x > -float("inf"), y > -float("inf")
    both = has_p & has_q
    # d = x - y - offset with the rounding errors of both subtractions (Knuth's TwoSum).
    x_both, y_both = tl.where(both, x, 0.0), tl.where(both, y, 0.0)
    first, second = tl.load(offset_ptr + row), tl.load(offset_ptr + B + row)
    difference = x_both - y_both
    back = difference - x_both
    error = (x_both - (difference - back)) - (y_both + back)
    d = difference - first
    back = d - difference
    error += (difference - (d - back)) - (first + back)
    d = tl.where(both, d + (error - second), 0.0)
    near = both & (tl.abs(d) <= NEAR)
    far = inside & (has_p | has_q) & (near == 0)
    # Near tokens: the series of f(l), e^(-l) f(-l) and j(l) over l², with l = log p - log q.
    near_l = tl.where(near, d, 0.0)
    kl = _series(near_l, 1 / 2, -1 / 6, 1 / 24, -1 / 120, 1 / 720, -1 / 5040, 1 / 40320)
    reverse = _series(near_l, 1 / 2, -1 / 3, 1 / 8, -1 / 30, 1 / 144, -1 / 840, 1 / 5760)
    js = _series(near_l, 1 / 8, -1 / 16, 1 / 64, -1 / 384, 1 / 2304, -1 / 11520, 1 / 92160)
    p_near = tl.where(near, p, 0.0)
    p_l2 = p_near * near_l * near_l
    out = sums_ptr + block * 11 * B + row
    tl.store(out, tl.sum(p_l2 * kl, axis=0))
    tl.store(out + B, tl.sum(p_l2 * reverse, axis=0))
    tl.store(out + 2 * B, tl.sum(p_l2 * js, axis=0))
    # Far tokens, and those that a model excludes, whose log-ratio is infinite: a limit serves s.
    p_far, q_far = tl.where(far & has_p, p, 0.0), tl.where(far & has_q, q, 0.0)
    tl.store(out + 3 * B, tl.sum(p_far, axis=0))
    tl.store(out + 4 * B, tl.sum(q_far, axis=0))
    tl.store(out + 5 * B, tl.sum(p_far * d, axis=0))
    tl.store(out + 6 * B, tl.sum(q_far * d, axis=0))
    is_more = tl.where(both, d > 0, has_p)
    size = tl.minimum(tl.where(both, tl.abs(d), FARTHEST), FARTHEST)
    # s(l) = log(2 / (1 + e^(-l))): at |l|, and at -|l|.
    s_more = LOG_2 - tl.log(1 + tl.exp2(-size * PER_BIT))
    s_less = s_more - size
    tl.store(out + 7 * B, tl.sum(p_far * tl.where(is_more, s_more, s_less), axis=0))
    tl.store(out + 8 * B, tl.sum(q_far * tl.where(is_more, s_less, s_more), axis=0))
    tl.store(out + 9 * B, tl.sum((has_p & (has_q == 0)).to(tl.float32), axis=0))
    tl.store(out + 10 * B, tl.sum((has_q & (has_p == 0)).to(tl.float32), axis=0))
