"""Triton kernels of the sums over logits on an accelerator: a program sums one row of one block.

The sums and their names are those of :mod:`kullback.scoring.block_sums`, and of
:mod:`kullback.scoring.device_sums` for two models.  Sums over a block are float32; the host adds
the blocks in float64.  Triton compiles a kernel at its first use (a second or two).

Axes: B rows of a chunk, M rows of the memory that results are written to, N blocks of W columns, V
vocabulary, K most probable tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["pair_sums_kernel", "row_sums_kernel", "top_tokens_kernel"]

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
    targets_ptr,
    target_logits_ptr,
    sums_ptr,
    top1_columns_ptr,
    M,
    V,
    W: tl.constexpr,
    READ_TARGET: tl.constexpr,
):
    """Write m, Z, S (in bits), √C and the number above the target, and the first column of m.

    `sums_ptr` is N × 5 × M, `top1_columns_ptr` M × N.  `targets_ptr` has the column of each row's
    target.  With READ_TARGET its logit is written to `target_logits_ptr`; otherwise the logit there
    takes the place of the one at that column.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * W + tl.arange(0, W)
    x_row_ptr = x_ptr + row.to(tl.int64) * row_stride
    x = tl.load(x_row_ptr + columns, mask=columns < V, other=-float("inf"))
    place = tl.load(targets_ptr + row)
    is_inside = (place >= 0) & (place < V)
    if READ_TARGET:
        target = tl.load(x_row_ptr + place, mask=is_inside, other=0.0)
        tl.store(target_logits_ptr + row, target, mask=block == 0)
    else:
        target = tl.load(target_logits_ptr + row)
        x = tl.where(columns == place, target, x)
        is_mine = is_inside & (place >= block * W) & (place < (block + 1) * W)
        tl.store(x_row_ptr + place, target, mask=is_mine)
    largest, top1 = tl.max(x, axis=0, return_indices=True, return_indices_tie_break_left=True)
    shifted = (x - tl.maximum(largest, LOWEST)) * PER_BIT
    exponential = tl.exp2(shifted)
    z = tl.sum(exponential, axis=0)
    # A token of probability 0 adds nothing, where 0 × -inf would be NaN.
    s = tl.sum(tl.where(exponential > 0, shifted * exponential, 0.0), axis=0)
    c = tl.sum(exponential * exponential, axis=0)
    above = tl.sum((x > target).to(tl.float32), axis=0)
    # The maximum of Triton passes over NaN.
    has_nan = tl.sum((x != x).to(tl.int32), axis=0) > 0
    out = sums_ptr + block.to(tl.int64) * 5 * M + row
    tl.store(out, tl.where(has_nan, float("nan"), largest))
    tl.store(out + M, z)
    tl.store(out + 2 * M, s)
    tl.store(out + 3 * M, tl.sqrt(c))
    tl.store(out + 4 * M, above)
    tl.store(top1_columns_ptr + row * tl.num_programs(1) + block, block * W + top1)


@triton.jit
def _top_block(sums_ptr, M, row, N, place, K: tl.constexpr, N_AT_LEAST: tl.constexpr):
    """Of the K blocks with the largest m the one at `place` in the order of their columns.

    Of equal m the first are taken.  N, which is no block, where there are fewer than K.
    """
    blocks = tl.arange(0, N_AT_LEAST)
    at = sums_ptr + blocks.to(tl.int64) * 5 * M + row
    rest = tl.load(at, mask=blocks < N, other=-float("inf"))
    is_top = blocks < 0
    for _ in tl.static_range(K):
        _, index = tl.max(rest, axis=0, return_indices=True, return_indices_tie_break_left=True)
        is_top = is_top | (blocks == index)
        rest = tl.where(blocks == index, -float("inf"), rest)
    is_mine = is_top & (tl.cumsum(is_top.to(tl.int32), axis=0) == place + 1)
    return tl.min(tl.where(is_mine, blocks, N), axis=0)


@triton.jit
def top_tokens_kernel(
    x_ptr,
    row_stride,
    sums_ptr,
    top_logits_ptr,
    top_columns_ptr,
    M,
    V,
    N,
    W: tl.constexpr,
    K: tl.constexpr,
    N_AT_LEAST: tl.constexpr,
):
    """Write the K largest logits of one of the K blocks with the largest m, and their columns.

    The K largest of a row are in these blocks.  `sums_ptr` has what `row_sums_kernel` wrote for N
    blocks; the tops are M × blocks × K, -inf where there are fewer.
    """
    row, place = tl.program_id(0), tl.program_id(1)
    block = _top_block(sums_ptr, M, row, N, place, K, N_AT_LEAST)
    columns = block * W + tl.arange(0, W)
    x_row_ptr = x_ptr + row.to(tl.int64) * row_stride
    rest = tl.load(x_row_ptr + columns, mask=columns < V, other=-float("inf"))
    for k in tl.static_range(K):
        logit, index = tl.max(rest, axis=0, return_indices=True, return_indices_tie_break_left=True)
        at = (row * tl.num_programs(1) + place) * K + k
        tl.store(top_logits_ptr + at, logit)
        tl.store(top_columns_ptr + at, block * W + index)
        rest = tl.where(tl.arange(0, W) == index, -float("inf"), rest)


@triton.jit
def _log_sum(sums_ptr, M, row, N, N_AT_LEAST: tl.constexpr):
    """m over all blocks, log Σ e^(x-m) in float64, and the first block that has m."""
    blocks = tl.arange(0, N_AT_LEAST)
    inside = blocks < N
    at = sums_ptr + blocks.to(tl.int64) * 5 * M + row
    largest_N = tl.load(at, mask=inside, other=-float("inf"))
    z_N = tl.load(at + M, mask=inside, other=0.0).to(tl.float64)
    largest, block = tl.max(
        largest_N, axis=0, return_indices=True, return_indices_tie_break_left=True
    )
    shift_N = (largest_N - tl.maximum(largest, LOWEST)).to(tl.float64)
    return largest, tl.log(tl.sum(z_N * tl.exp(shift_N), axis=0)), block


@triton.jit
def _series(x, c0, c1, c2, c3, c4, c5, c6):
    return c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * (c5 + x * c6)))))


@triton.jit
def _offset(largest_x, log_z_x, largest_y, log_z_y):
    """log Σ e^x - log Σ e^y as two float32 numbers, so that l is as exact as its logits."""
    offset = (largest_x.to(tl.float64) - largest_y.to(tl.float64)) + (log_z_x - log_z_y)
    first = offset.to(tl.float32)
    return first, (offset - first.to(tl.float64)).to(tl.float32)


@triton.jit
def _log_ratio(x, y, both, first, second):
    """l = x - y - offset with the rounding errors of both subtractions (Knuth's TwoSum).

    The offset is first + second; 0 where not `both` are finite.
    """
    x, y = tl.where(both, x, 0.0), tl.where(both, y, 0.0)
    difference = x - y
    back = difference - x
    error = (x - (difference - back)) - (y + back)
    ratio = difference - first
    back = ratio - difference
    error += (difference - (ratio - back)) - (first + back)
    return tl.where(both, ratio + (error - second), 0.0)


@triton.jit
def _near_terms(ratio):
    """f(l), e^(-l) f(-l) and j(l), divided by l², and (1 - e^(-l)) / l, by their series."""
    kl = _series(ratio, 1 / 2, -1 / 6, 1 / 24, -1 / 120, 1 / 720, -1 / 5040, 1 / 40320)
    reverse = _series(ratio, 1 / 2, -1 / 3, 1 / 8, -1 / 30, 1 / 144, -1 / 840, 1 / 5760)
    js = _series(ratio, 1 / 8, -1 / 16, 1 / 64, -1 / 384, 1 / 2304, -1 / 11520, 1 / 92160)
    g = 1 - ratio * kl
    return kl, reverse, js, g


@triton.jit
def _far_terms(ratio, both, has_p):
    """s(l) = log(2 / (1 + e^(-l))) and s(-l); their limits where a model excludes the token."""
    is_more = tl.where(both, ratio > 0, has_p)
    size = tl.minimum(tl.where(both, tl.abs(ratio), FARTHEST), FARTHEST)
    at_size = LOG_2 - tl.log(1 + tl.exp2(-size * PER_BIT))
    at_minus_size = at_size - size
    return tl.where(is_more, at_size, at_minus_size), tl.where(is_more, at_minus_size, at_size)


@triton.jit
def _store_four(at_ptr, M, first, second, third, fourth):
    """Write the sums of four vectors, M numbers apart."""
    tl.store(at_ptr, tl.sum(first, axis=0))
    tl.store(at_ptr + M, tl.sum(second, axis=0))
    tl.store(at_ptr + 2 * M, tl.sum(third, axis=0))
    tl.store(at_ptr + 3 * M, tl.sum(fourth, axis=0))


@triton.jit
def pair_sums_kernel(
    x_ptr,
    x_stride,
    y_ptr,
    y_stride,
    x_sums_ptr,
    y_sums_ptr,
    x_top1_columns_ptr,
    sums_ptr,
    at_top1_ptr,
    M,
    V,
    N,
    W: tl.constexpr,
    T: tl.constexpr,
    N_AT_LEAST: tl.constexpr,
):
    """Write the sums of `kullback.scoring.device_sums.PairSum` over one block of one row.

    `x_sums_ptr` and `y_sums_ptr` have what `row_sums_kernel` wrote for N blocks; `sums_ptr` is
    blocks × 16 × M.  The logit of y at the first largest of x is written to `at_top1_ptr`.  A block
    is read T columns at a time, and its sums are reduced once.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    x_row_ptr = x_ptr + row.to(tl.int64) * x_stride
    y_row_ptr = y_ptr + row.to(tl.int64) * y_stride
    largest_x, log_z_x, top_block = _log_sum(x_sums_ptr, M, row, N, N_AT_LEAST)
    largest_y, log_z_y, _ = _log_sum(y_sums_ptr, M, row, N, N_AT_LEAST)
    first, second = _offset(largest_x, log_z_x, largest_y, log_z_y)
    if block == 0:
        # The largest of NaN may be found in padding: nothing is read there.
        top1 = tl.load(x_top1_columns_ptr + row * N + top_block, mask=top_block < N, other=0)
        is_column = (top1 >= 0) & (top1 < V)
        tl.store(at_top1_ptr + row, tl.load(y_row_ptr + top1, mask=is_column, other=0.0))
    zero = tl.zeros([T], tl.float32)
    near_kl, near_reverse, near_js = zero, zero, zero
    far_p, far_q, far_p_l, far_q_l, far_p_s, far_q_s = zero, zero, zero, zero, zero, zero
    only_p, only_q = zero, zero
    near_more, near_less, near_p_more, far_p_more, far_q_more = zero, zero, zero, zero, zero
    for start in range(0, W, T):
        columns = block * W + start + tl.arange(0, T)
        x = tl.load(x_row_ptr + columns, mask=columns < V, other=-float("inf"))
        y = tl.load(y_row_ptr + columns, mask=columns < V, other=-float("inf"))
        has_p, has_q = x > -float("inf"), y > -float("inf")
        both = has_p & has_q
        p, q = tl.exp2((x - largest_x) * PER_BIT), tl.exp2((y - largest_y) * PER_BIT)
        ratio = _log_ratio(x, y, both, first, second)
        near = both & (tl.abs(ratio) <= NEAR)
        far = (has_p | has_q) & (near == 0)
        # Near tokens: the series of f(l), e^(-l) f(-l) and j(l) over l².
        near_l = tl.where(near, ratio, 0.0)
        p_l2 = tl.where(near, p, 0.0) * near_l * near_l
        kl, reverse, js, g = _near_terms(near_l)
        near_kl += p_l2 * kl
        near_reverse += p_l2 * reverse
        near_js += p_l2 * js
        p_g = tl.where(near, p, 0.0) * near_l * g
        near_more += tl.maximum(p_g, 0.0)
        near_less += tl.maximum(-p_g, 0.0)
        near_p_more += tl.where(near & (ratio > 0), p, 0.0)
        # Far tokens, and those that a model excludes: their log-ratio is infinite, s its limit.
        p, q = tl.where(far & has_p, p, 0.0), tl.where(far & has_q, q, 0.0)
        far_p += p
        far_q += q
        far_p_l += p * ratio
        far_q_l += q * ratio
        is_more = tl.where(both, ratio > 0, has_p)
        far_p_more += tl.where(is_more, p, 0.0)
        far_q_more += tl.where(is_more, q, 0.0)
        p_s, q_s = _far_terms(ratio, both, has_p)
        far_p_s += p * p_s
        far_q_s += q * q_s
        only_p += (has_p & (has_q == 0)).to(tl.float32)
        only_q += (has_q & (has_p == 0)).to(tl.float32)
    out = sums_ptr + block.to(tl.int64) * 16 * M + row
    _store_four(out, M, near_kl, near_reverse, near_js, far_p)
    _store_four(out + 4 * M, M, far_q, far_p_l, far_q_l, far_p_s)
    _store_four(out + 8 * M, M, far_q_s, only_p, only_q, near_more)
    _store_four(out + 12 * M, M, near_less, near_p_more, far_p_more, far_q_more)
