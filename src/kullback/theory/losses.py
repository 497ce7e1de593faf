r"""What does a classifier lose, and which way is down?  Cross-entropy on logits, in NumPy.

A model answers with *logits* z, one real number a class; softmax turns them into a
distribution q.  The loss of a row with target distribution p is the cross-entropy::

    q_c = exp(z_c) / Σ_j exp(z_j)          L = - Σ_c p_c log q_c        (nats)

Maximum likelihood leaves no other choice: with p the empirical distribution of the labels, the
mean of L over the data *is* the negative mean log-likelihood, and its expectation is the
world's entropy plus the model's KL divergence.

**The gradient.**  Write log q_c = z_c - log Σ_j exp(z_j), so ∂ log q_c / ∂ z_i = 1[i = c] - q_i.
Then ∂L/∂z_i = Σ_c p_c (q_i - 1[i = c]) = q_i Σ_c p_c - p_i, and for a label y::

    ∂L/∂z_i = q_i - 1[i = y]

what the model said minus what happened.  Each row of it sums to zero: adding one constant to
every logit changes nothing.

**The law.**  Every argument means what it means to ``torch.nn.functional.cross_entropy`` (2.13):
the two kinds of target, class weights, ignored rows, label smoothing, K-dimensional batches, and
what IEEE arithmetic makes of infinities: a mean over no rows is nan, all logits at -inf give nan,
and so does a target *probability* of 0 on a logit of -inf (``kullback.theory.information`` is the
room where 0 log 0 = 0).  There are three deliberate differences.  The sums are float64 whatever
comes in.  A target may be any integer dtype, not int64 alone.  And a ``label_smoothing`` below zero
or nan, which PyTorch treats as 0 without a word, is an error.

**Digits.**  A confident row has q_y close to 1, where both log q_y and q_y - 1 cancel.  Here the
largest term leaves the sum before the logarithm (log1p of the others), and q - 1 is taken as
expm1(log q), so that a loss of 1e-20 and its gradient keep all their digits.

Axes: N rows, C classes, K any further axes d1, d2, ... behind the classes, as in (N, C, d1, d2).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback.errors import InvalidValueError

__all__ = ["Reduction", "cross_entropy", "cross_entropy_and_gradient"]

Floats: TypeAlias = NDArray[np.float64]
Reduction: TypeAlias = Literal["none", "sum", "mean"]


class _Terms(NamedTuple):
    """The losses as linear functions of log q: L[kept] = - hard · log q[class] - Σ_c soft · log q.

    ``kept`` indexes the rows that are not ignored.  Labels give one class and its coefficient
    ``hard`` for every kept row; distributions and smoothing give ``soft``, one number a class.
    ``log_q`` and ``soft`` have the classes last: (N, d1, ..., C).  ``divisor`` is what a mean
    divides by: the total weight of the labels, or the number of rows.
    """

    log_q: Floats
    kept: tuple[NDArray[np.intp], ...]
    labels: tuple[NDArray[np.intp], Floats] | None
    soft: Floats | None
    divisor: np.float64


@overload
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> float: ...
@overload
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
) -> Floats: ...
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> float | Floats:
    """Return the cross-entropy of softmax(logits) against the target, in nats.

    For a label y with class weights w and smoothing ε over C classes, a row loses
    ``- (1 - ε) w_y log q_y - (ε / C) Σ_c w_c log q_c``; for a target distribution p it loses
    ``- Σ_c w_c p'_c log q_c`` with ``p' = (1 - ε) p + ε / C``.

    Args:
        logits: real numbers of shape (C,), (N, C) or (N, C, d1, ...); -inf rules a class out.
        target: class indices, of the logits' shape without C; or floating-point
            probabilities, of exactly the logits' shape (they need not sum to one).
        weight: one factor a class, shape (C,).
        ignore_index: a label that marks a row as not counted: it loses 0 and weighs 0.
            Probabilities admit no ignored rows: with them it must stay negative.
        label_smoothing: the share ε in [0, 1] of the target that is spread evenly.
        reduction: ``"none"`` gives one loss a row; ``"sum"`` their sum; ``"mean"`` the sum
            divided by the total weight of the labels that count, or, for probabilities, by the
            number of rows.  Over nothing the mean is nan.

    Raises:
        InvalidValueError: a shape, dtype, label or option is not as above.

    Source: Bridle (1990), "Probabilistic interpretation of feedforward classification network
    outputs", NATO ASI F68, pp. 227-236; smoothing: Szegedy et al. (2016), arXiv:1512.00567, §7.

    >>> round(cross_entropy([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, 2]), 6)
    0.669079
    >>> cross_entropy([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, 2], reduction="none").round(6)
    array([0.239545, 1.098612])
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = _terms(logits, target, weight, ignore_index, label_smoothing, reduction)
        return _reduced(terms, reduction, unbatched=np.ndim(logits) == 1)


@overload
def cross_entropy_and_gradient(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[float, Floats]: ...
@overload
def cross_entropy_and_gradient(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
) -> tuple[Floats, Floats]: ...
def cross_entropy_and_gradient(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> tuple[float | Floats, Floats]:
    """Return the loss of :func:`cross_entropy` and its gradient with respect to the logits.

    Every loss above is ``L = - Σ_c a_c log q_c`` with coefficients a that do not depend on the
    logits.  Since ``log q_c = z_c - log Σ_j exp(z_j)``,

    ``∂ log q_c / ∂z_i = 1[i = c] - q_i``,  so  ``∂L/∂z_i = q_i Σ_c a_c - a_i``.

    A plain label has a = onehot(y), which leaves ``q - onehot(y)``; weights scale it,
    smoothing blends it, a mean divides it, and an ignored row has none.

    Args and raises: as :func:`cross_entropy`.

    Returns:
        The loss, and an array of the logits' shape in nats per unit of logit.  With
        ``reduction="none"`` each row holds the gradient of its own loss.

    >>> loss, gradient = cross_entropy_and_gradient([2.0, 0.0, 0.0], 0)
    >>> round(loss, 6), gradient.round(6)
    (0.239545, array([-0.213014,  0.106507,  0.106507]))
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = _terms(logits, target, weight, ignore_index, label_smoothing, reduction)
        unbatched = np.ndim(logits) == 1
        gradient = _gradient(terms, terms.divisor if reduction == "mean" else np.float64(1.0))
        loss = _reduced(terms, reduction, unbatched=unbatched)
    return loss, (gradient[0] if unbatched else np.moveaxis(gradient, -1, 1))


def _reduced(terms: _Terms, reduction: Reduction, *, unbatched: bool) -> float | Floats:
    """Evaluate the terms, row by row, and reduce."""
    parts = []
    if terms.labels is not None:
        classes, hard = terms.labels
        parts.append(-hard * terms.log_q[(*terms.kept, classes)])
    if terms.soft is not None:
        # Only the kept rows: an ignored row of -inf logits must not turn into nan.
        parts.append(-(terms.soft * terms.log_q).sum(axis=-1)[terms.kept])
    if reduction == "none":
        losses = np.zeros(terms.log_q.shape[:-1])
        losses[terms.kept] = sum(parts)
        return losses[0, ...] if unbatched else losses
    # Each part by itself, so that a divisor of zero gives PyTorch's mixture of inf and nan.
    divisor = terms.divisor if reduction == "mean" else 1.0
    return float(sum(part.sum() / divisor for part in parts))


def _gradient(terms: _Terms, divisor: np.float64) -> Floats:
    """Return q · Σ_c a_c - a, where a / divisor are the coefficients of -log q."""
    log_q, kept = terms.log_q, terms.kept
    coefficients = np.zeros_like(log_q)
    if terms.soft is not None:
        coefficients[kept] = terms.soft[kept] / divisor
    if terms.labels is not None:
        classes, hard = terms.labels
        coefficients[(*kept, classes)] += hard / divisor
    total = coefficients.sum(axis=-1, keepdims=True)
    gradient: Floats = total * np.exp(log_q) - coefficients
    # q - a cancels where q is near 1; there, (q - 1) Σa + (Σa - a) keeps the digits.
    near_one = (log_q > -np.log(2.0)) & np.isfinite(total)
    rest = (total - coefficients)[near_one]
    totals = np.broadcast_to(total, log_q.shape)[near_one]
    gradient[near_one] = totals * np.expm1(log_q[near_one]) + rest
    return gradient


def _log_softmax(logits_NKC: Floats) -> Floats:
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
    log_q: Floats = shifted - np.log1p(others.sum(axis=-1, keepdims=True))
    return log_q


def _terms(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> _Terms:
    """Check every argument and write the losses as linear functions of log q."""
    if reduction not in ("none", "sum", "mean"):
        raise InvalidValueError(
            f'reduction is {reduction!r}: it must be "none", "sum" or "mean"; choose one of them'
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise InvalidValueError(
            f"label_smoothing is {label_smoothing}: it must lie in [0, 1]; 0 turns it off"
        )
    scores, goal = _real_array("logits", logits), np.asarray(target)
    if scores.ndim == 0:
        raise InvalidValueError(
            "logits is a single number: it must have an axis of classes; pass shape (C,) or (N, C)"
        )
    weights = _class_weights(weight, scores.shape[0 if scores.ndim == 1 else 1])
    is_distribution = _is_distribution(scores, goal, ignore_index)
    if not is_distribution:
        goal = _labels(goal, weights.size, ignore_index)
    if scores.ndim == 1:
        scores, goal = scores[np.newaxis], goal[np.newaxis]
    log_q = _log_softmax(np.moveaxis(scores, 1, -1))
    if is_distribution:
        p_NKC = np.moveaxis(goal.astype(np.float64), 1, -1)
        smooth = (1.0 - label_smoothing) * p_NKC + label_smoothing / max(weights.size, 1)
        every_row = np.nonzero(np.ones(log_q.shape[:-1], dtype=bool))
        divisor = np.float64(scores.size) / np.float64(weights.size)
        return _Terms(log_q, every_row, None, weights * smooth, divisor)
    counts = goal != ignore_index
    kept = np.nonzero(counts)
    classes = goal[kept]
    label_weights = weights[classes]
    soft = None
    if label_smoothing > 0.0:
        soft = np.where(counts[..., np.newaxis], weights * (label_smoothing / weights.size), 0.0)
    hard = (1.0 - label_smoothing) * label_weights
    return _Terms(log_q, kept, (classes, hard), soft, label_weights.sum())


def _real_array(name: str, values: ArrayLike) -> Floats:
    """Return the values as float64, or say that they are not real numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise InvalidValueError(
            f"{name} has dtype {array.dtype}: it must hold real numbers; convert it to float64"
        )
    return array.astype(np.float64, copy=False)


def _class_weights(weight: ArrayLike | None, class_count: int) -> Floats:
    """Return one weight a class: ones unless given."""
    if weight is None:
        return np.ones(class_count)
    weights = _real_array("weight", weight)
    if weights.shape != (class_count,):
        raise InvalidValueError(
            f"weight has shape {weights.shape}: it must be ({class_count},), one factor for each "
            "class of the logits; pass None for equal weights"
        )
    return weights


def _is_distribution(logits: Floats, target: NDArray[np.generic], ignore_index: int) -> bool:
    """Decide from shape and dtype whether the target holds probabilities or class indices."""
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
            f"target has shape {target.shape}: beside logits of shape {logits.shape} it must be "
            f"{label_shape} for class indices or {logits.shape} for probabilities; reshape it"
        )
    if target.dtype.kind not in "iu":
        raise InvalidValueError(
            f"target has dtype {target.dtype}: class indices must be integers; convert them, or "
            f"pass probabilities of the logits' shape {logits.shape}"
        )
    return False


def _labels(target: NDArray[np.generic], class_count: int, ignore_index: int) -> NDArray[np.intp]:
    """Return the labels as indices, or raise at the first that is neither a class nor ignored."""
    labels = target.astype(np.intp)
    wrong = np.argwhere(((labels < 0) | (labels >= class_count)) & (labels != ignore_index))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        position = f"[{', '.join(map(str, place))}]" if place else ""
        raise InvalidValueError(
            f"target{position} is {labels[place]}: a label must lie in [0, {class_count}) or "
            f"equal ignore_index, {ignore_index}; mend the label or set ignore_index to it"
        )
    return labels
