"""The arguments of the losses, validated and reduced to linear functions of log q.

Axes: N rows, C classes, K any further axes d1, d2, ... after the classes, as in (N, C, d1, d2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback.errors import InvalidValueError
from kullback.theory._types import FloatArray
from kullback.theory._validation import labels_below, real_array

__all__ = ["LossTerms", "loss_terms"]


class LossTerms(NamedTuple):
    """The losses as linear functions of log q: L[kept] = - hard · log q[class] - Σ_c soft · log q.

    ``kept`` indexes the rows that are not ignored.  Labels give a class and its coefficient
    ``hard`` for every kept row; distributions and smoothing give ``soft``, a number per class.
    ``log_q`` and ``soft`` have the classes last: (N, d1, ..., C).  ``divisor`` is the divisor of a
    mean: the total weight of the labels, or the number of rows.
    """

    log_q: FloatArray
    kept: tuple[NDArray[np.intp], ...]
    labels: tuple[NDArray[np.intp], FloatArray] | None
    soft: FloatArray | None
    divisor: np.float64


def loss_terms(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> LossTerms:
    """Validate every argument and express the losses as linear functions of log q."""
    if reduction not in ("none", "sum", "mean"):
        raise InvalidValueError(f'reduction is {reduction!r}: it must be "none", "sum" or "mean"')
    if not 0.0 <= label_smoothing <= 1.0:
        raise InvalidValueError(
            f"label_smoothing is {label_smoothing}: it must be in [0, 1]; 0 turns it off"
        )
    scores, goal = real_array("logits", logits, "fiu"), np.asarray(target)
    if scores.ndim == 0:
        raise InvalidValueError(
            "logits is a single number: it must have an axis of classes, as in (C,) or (N, C)"
        )
    weights = _class_weights(weight, scores.shape[0 if scores.ndim == 1 else 1])
    is_distribution = _is_distribution(scores, goal, ignore_index)
    if not is_distribution:
        goal = labels_below("target", goal, weights.size, ignore_index)
    if scores.ndim == 1:
        scores, goal = scores[np.newaxis], goal[np.newaxis]
    log_q = _log_softmax(np.moveaxis(scores, 1, -1))
    if is_distribution:
        p_NKC = np.moveaxis(goal.astype(np.float64), 1, -1)
        smooth = (1.0 - label_smoothing) * p_NKC + label_smoothing / max(weights.size, 1)
        every_row = np.nonzero(np.ones(log_q.shape[:-1], dtype=bool))
        divisor = np.float64(scores.size) / np.float64(weights.size)
        return LossTerms(log_q, every_row, None, weights * smooth, divisor)
    counts = goal != ignore_index
    kept = np.nonzero(counts)
    classes = goal[kept]
    label_weights = weights[classes]
    soft = None
    if label_smoothing > 0.0:
        soft = np.where(counts[..., np.newaxis], weights * (label_smoothing / weights.size), 0.0)
    hard = (1.0 - label_smoothing) * label_weights
    return LossTerms(log_q, kept, (classes, hard), soft, label_weights.sum())


def _class_weights(weight: ArrayLike | None, class_count: int) -> FloatArray:
    """Return a weight per class: ones unless given."""
    if weight is None:
        return np.ones(class_count)
    weights = real_array("weight", weight, "fiu")
    if weights.shape != (class_count,):
        raise InvalidValueError(
            f"weight has shape {weights.shape}: it must be ({class_count},), a factor per "
            "class of the logits; pass None for equal weights"
        )
    return weights


def _is_distribution(logits: FloatArray, target: NDArray[np.generic], ignore_index: int) -> bool:
    """Decide from shape and dtype whether the target contains probabilities or class indices."""
    label_shape = logits.shape[:1] * (logits.ndim > 1) + logits.shape[2:]
    if target.shape == logits.shape:
        if target.dtype.kind != "f":
            raise InvalidValueError(
                f"target has the logits' shape {target.shape} and dtype {target.dtype}: "
                "probabilities must be floating-point; convert them, or pass class indices of "
                f"shape {label_shape}"
            )
        if ignore_index >= 0:
            raise InvalidValueError(
                f"ignore_index is {ignore_index}: a target of probabilities has no labels to "
                "ignore; leave it at -100 and drop the rows instead"
            )
        return True
    if target.shape != label_shape:
        raise InvalidValueError(
            f"target has shape {target.shape}: for logits of shape {logits.shape} it must be "
            f"{label_shape} for class indices or {logits.shape} for probabilities; reshape it"
        )
    if target.dtype.kind not in "iu":
        raise InvalidValueError(
            f"target has dtype {target.dtype}: class indices must be integers; convert them, or "
            f"pass probabilities of the logits' shape {logits.shape}"
        )
    return False


def _log_softmax(logits_NKC: FloatArray) -> FloatArray:
    """Return log q over the last axis, with the largest term kept out of the sum of exponentials.

    ``log q = z - m - log1p(Σ_{others} exp(z - m))`` is exact to the last digits even where
    log q is tiny.  Where the maximum m is infinite or nan the row is nan, as in PyTorch;
    ``kullback.theory.information.log_softmax`` refuses such a row, so it cannot serve here.
    """
    if logits_NKC.size == 0:
        return logits_NKC
    top: NDArray[np.intp] = logits_NKC.argmax(axis=-1, keepdims=True)
    shifted = logits_NKC - np.take_along_axis(logits_NKC, top, axis=-1)
    others = np.exp(shifted)
    # m - m: zero, or nan where m is infinite.
    np.put_along_axis(others, top, np.take_along_axis(shifted, top, axis=-1), axis=-1)
    log_q: FloatArray = shifted - np.log1p(others.sum(axis=-1, keepdims=True))
    return log_q
