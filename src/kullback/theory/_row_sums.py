"""The driver of the information measures: checks, broadcasting, and blocks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from kullback.errors import InvalidValueError
from kullback.theory._log_kernels import log_softmax_rows, logit_difference
from kullback.theory._types import FloatArray, Given
from kullback.theory._validation import aligned, check_distributions

__all__ = ["sum_over_outcomes"]

#: Values handled at a time: the seven 128 kB buffers of one KL block fit a 1 MB second-level cache.
_BLOCK = 16_384


def sum_over_outcomes(
    kernel: Callable[..., None], given: Given, axis: int, tolerance: float, **named: ArrayLike
) -> FloatArray:
    """The sums of ``kernel`` along ``axis``, computed in blocks of complete rows.

    Each block is validated while it is in cache, where a minimum and a row sum cost less than a
    pass over memory.  :func:`check_distributions` looks for the place only if a block is invalid.
    """
    if given not in ("probs", "log_probs", "logits"):
        raise InvalidValueError(f"given is {given!r}: it must be 'probs', 'log_probs' or 'logits'")
    arrays, axis = aligned(axis, **named)
    checked = dict(zip(named, arrays, strict=True))
    if given == "logits":
        check_distributions(given, axis, tolerance, **checked)
    rows = [np.moveaxis(a, axis, -1) for a in np.broadcast_arrays(*arrays)]
    *shape, outcomes = rows[0].shape
    flat = [a.reshape(-1, outcomes) for a in rows]
    height, ones = max(1, _BLOCK // outcomes), np.ones(outcomes)
    out = np.empty(flat[0].shape[0])
    with np.errstate(all="ignore"):
        for start in range(0, out.size, height):
            block = [a[start : start + height] for a in flat]
            if given == "logits":
                logs = [log_softmax_rows(a) for a in block]
                block = [*logs, logit_difference(*block, *logs)] if len(block) == 2 else logs
            else:
                for x in block:
                    valid = x.min() >= 0 if given == "probs" else not np.isnan(x).any()
                    total = (x if given == "probs" else np.exp(x)) @ ones
                    if not (valid and np.abs(total - 1).max() <= tolerance):
                        check_distributions(given, axis, tolerance, **checked)
                if given == "log_probs" and len(block) == 2:
                    block.append(block[1] - block[0])
            kernel(out[start : start + height], *block)
    out += 0.0  # -0.0, of a certain outcome, becomes 0.0
    return out.reshape(shape)[()]
