"""Counts of labels, the empirical distribution, and the add-½ estimate.

N counts samples and K outcomes, which are the integers 0..K-1; ``counts`` has shape (K,), with an
entry for every outcome that never occurs, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kullback.theory._types import FloatArray, IntArray
from kullback.theory._validation import counts_as_floats, labels_below
from kullback.theory.information import normalise

__all__ = ["add_half", "count", "empirical_distribution"]


def count(labels: ArrayLike, outcomes: int) -> IntArray:
    """How often each outcome 0..K-1 occurs among ``labels``, integers of any shape; shape (K,).

    Raises InvalidValueError for a label that is not an integer in [0, K).

    >>> count([2, 0, 2], outcomes=4).tolist()
    [1, 0, 2, 0]
    """
    return np.bincount(labels_below("labels", labels, outcomes).ravel(), minlength=outcomes)


def empirical_distribution(labels: ArrayLike, outcomes: int) -> FloatArray:
    """p̂(y) = (1/N) Σₙ 1[yₙ = y], of shape (K,).

    Raises InvalidValueError for a label that is not an integer in [0, K), and without any label.

    >>> empirical_distribution([2, 0, 2, 2], outcomes=3).tolist()
    [0.25, 0.0, 0.75]
    """
    return normalise(count(labels, outcomes))


def add_half(counts: ArrayLike) -> FloatArray:
    """(nᵢ + ½) / (N + K/2): the posterior mean under Jeffreys' prior (Krichevsky-Trofimov, 1981).

    No outcome is impossible, so its expected KL from the truth is finite, unlike the MLE's.
    ``counts`` has shape (..., K), and so has the result.  Raises InvalidValueError for a negative
    or fractional count.

    >>> add_half([3, 0]).tolist()
    [0.875, 0.125]
    """
    return normalise(counts_as_floats(counts) + 0.5)
