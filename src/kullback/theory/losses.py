r"""Cross-entropy of logits and its gradient, in NumPy, with the semantics of PyTorch.

A model returns *logits* z, a real number per class; softmax turns them into a distribution q.  The
loss of a row with target distribution p is the cross-entropy::

    q_c = exp(z_c) / Σ_j exp(z_j)          L = - Σ_c p_c log q_c        (nats)

With p the empirical distribution of the labels, the mean of L over the data *is* the negative mean
log-likelihood, and its expectation is the entropy of the data plus the model's KL divergence.

**The gradient.**  From log q_c = z_c - log Σ_j exp(z_j) follows ∂ log q_c / ∂ z_i = 1[i = c] - q_i.
Then ∂L/∂z_i = Σ_c p_c (q_i - 1[i = c]) = q_i Σ_c p_c - p_i, and for a label y::

    ∂L/∂z_i = q_i - 1[i = y]

the prediction minus the observation.  It sums to zero over the classes, because a constant added to
every logit changes nothing.

**Semantics.**  Every argument has the meaning that it has in ``torch.nn.functional.cross_entropy``
(2.13): the two kinds of target, class weights, ignored rows, label smoothing, K-dimensional
batches, and the results of IEEE arithmetic with infinities: a mean over no rows is nan, all logits
at -inf give nan, and so does a target *probability* of 0 on a logit of -inf (in
``kullback.theory.information``, 0 log 0 = 0).  There are three deliberate differences: the sums are
float64 for every input dtype; a target may have any integer dtype, not int64 alone; and a
``label_smoothing`` that is negative or nan, which PyTorch treats as 0, is an error.

**Precision.**  In a confident row q_y is close to 1, where both log q_y and q_y - 1 cancel.  Here
the largest term is kept out of the sum (log1p of the others), and q - 1 is computed as
expm1(log q), so that a loss of 1e-20 and its gradient keep all their digits.

Axes: N rows, C classes, K any further axes d1, d2, ... after the classes, as in (N, C, d1, d2).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from kullback.theory._loss_terms import LossTerms, loss_terms
from kullback.theory._types import FloatArray

__all__ = ["Reduction", "cross_entropy", "cross_entropy_and_gradient"]

Reduction: TypeAlias = Literal["none", "sum", "mean"]


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
) -> FloatArray: ...
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> float | FloatArray:
    """Return the cross-entropy of softmax(logits) with respect to the target, in nats.

    For a label y with class weights w and smoothing ε over C classes, the loss of a row is
    ``- (1 - ε) w_y log q_y - (ε / C) Σ_c w_c log q_c``; for a target distribution p it is
    ``- Σ_c w_c p'_c log q_c`` with ``p' = (1 - ε) p + ε / C``.

    Args:
        logits: real numbers of shape (C,), (N, C) or (N, C, d1, ...); -inf is an impossible class.
        target: class indices, of the logits' shape without C; or floating-point
            probabilities, of exactly the logits' shape (they need not sum to one).
        weight: a factor per class, shape (C,).
        ignore_index: a label that marks a row as ignored: its loss and its weight are 0.
            With probabilities as the target no row can be ignored: it must be negative.
        label_smoothing: the fraction ε in [0, 1] of the target that is uniform over the classes.
        reduction: ``"none"`` gives a loss per row; ``"sum"`` their sum; ``"mean"`` the sum
            divided by the total weight of the labels that are not ignored, or, for
            probabilities, by the number of rows.  A mean over no rows is nan.

    Raises:
        InvalidValueError: for a shape, dtype, label or option that is not as above.

    Source: Bridle (1990), "Probabilistic interpretation of feedforward classification network
    outputs", NATO ASI F68, pp. 227-236; smoothing: Szegedy et al. (2016), arXiv:1512.00567, §7.

    >>> round(cross_entropy([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, 2]), 6)
    0.669079
    >>> cross_entropy([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, 2], reduction="none").round(6)
    array([0.239545, 1.098612])
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = loss_terms(logits, target, weight, ignore_index, label_smoothing, reduction)
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
) -> tuple[float, FloatArray]: ...
@overload
def cross_entropy_and_gradient(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["none"],
) -> tuple[FloatArray, FloatArray]: ...
def cross_entropy_and_gradient(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> tuple[float | FloatArray, FloatArray]:
    """Return the loss of :func:`cross_entropy` and its gradient with respect to the logits.

    Every loss above is ``L = - Σ_c a_c log q_c`` with coefficients a that do not depend on the
    logits.  Since ``log q_c = z_c - log Σ_j exp(z_j)``,

    ``∂ log q_c / ∂z_i = 1[i = c] - q_i``,  so  ``∂L/∂z_i = q_i Σ_c a_c - a_i``.

    A label without options has a = onehot(y), hence the gradient ``q - onehot(y)``; weights scale
    a, smoothing mixes it with a uniform distribution, a mean divides it, and a is 0 in an ignored
    row.

    Args and raises: as :func:`cross_entropy`.

    Returns:
        The loss, and an array of the logits' shape in nats per unit of logit.  With
        ``reduction="none"`` each row contains the gradient of its own loss.

    >>> loss, gradient = cross_entropy_and_gradient([2.0, 0.0, 0.0], 0)
    >>> round(loss, 6), gradient.round(6)
    (0.239545, array([-0.213014,  0.106507,  0.106507]))
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = loss_terms(logits, target, weight, ignore_index, label_smoothing, reduction)
        unbatched = np.ndim(logits) == 1
        gradient = _gradient(terms, terms.divisor if reduction == "mean" else np.float64(1.0))
        loss = _reduced(terms, reduction, unbatched=unbatched)
    return loss, (gradient[0] if unbatched else np.moveaxis(gradient, -1, 1))


def _reduced(terms: LossTerms, reduction: Reduction, *, unbatched: bool) -> float | FloatArray:
    """Return the losses of the rows, reduced."""
    parts = []
    if terms.labels is not None:
        classes, hard = terms.labels
        parts.append(-hard * terms.log_q[(*terms.kept, classes)])
    if terms.soft is not None:
        # Only the kept rows: an ignored row of -inf logits must not become nan.
        parts.append(-(terms.soft * terms.log_q).sum(axis=-1)[terms.kept])
    if reduction == "none":
        losses = np.zeros(terms.log_q.shape[:-1])
        losses[terms.kept] = sum(parts)
        return losses[0, ...] if unbatched else losses
    # Divided separately, so that a divisor of zero gives inf and nan where PyTorch does.
    divisor = terms.divisor if reduction == "mean" else 1.0
    return float(sum(part.sum() / divisor for part in parts))


def _gradient(terms: LossTerms, divisor: np.float64) -> FloatArray:
    """Return q · Σ_c a_c - a, where a / divisor are the coefficients of -log q."""
    log_q, kept = terms.log_q, terms.kept
    coefficients = np.zeros_like(log_q)
    if terms.soft is not None:
        coefficients[kept] = terms.soft[kept] / divisor
    if terms.labels is not None:
        classes, hard = terms.labels
        coefficients[(*kept, classes)] += hard / divisor
    total = coefficients.sum(axis=-1, keepdims=True)
    gradient: FloatArray = total * np.exp(log_q) - coefficients
    # q - a cancels where q is near 1; there, (q - 1) Σa + (Σa - a) keeps the digits.
    near_one = (log_q > -np.log(2.0)) & np.isfinite(total)
    rest = (total - coefficients)[near_one]
    totals = np.broadcast_to(total, log_q.shape)[near_one]
    gradient[near_one] = totals * np.expm1(log_q[near_one]) + rest
    return gradient
