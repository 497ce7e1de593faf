"""The critical value of simultaneous Student-t intervals.

Axes: K means, C independent contributions to the error of each.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kullback.results.measurement import student_critical_value

__all__ = ["largest_t"]

# Draws of the largest |t|: the 95 % quantile is then known to 0.5 %.
DRAWS = 50_000


def largest_t(
    contribution_KC: Float[np.ndarray, "K C"], degrees: float, level: float, seed: int
) -> float:
    """The `level` quantile of the largest of K |t| with the correlation of the contributions.

    >>> round(largest_t(np.eye(8, 80), 72.0, 0.95, seed=0), 1)
    2.8
    """
    length_K = np.linalg.norm(contribution_KC, axis=1)
    unit_KC = contribution_KC[length_K > 0] / length_K[length_K > 0, None]
    pointwise = student_critical_value(degrees, level)
    if len(unit_KC) < 2:
        return pointwise
    eigenvalue_K, vector_KK = np.linalg.eigh(unit_KC @ unit_KC.T)
    root_KK = vector_KK * np.sqrt(np.maximum(eigenvalue_K, 0.0))
    rng = np.random.default_rng(seed)
    largest = np.abs(root_KK @ rng.standard_normal((len(root_KK), DRAWS))).max(axis=0)
    largest /= np.sqrt(rng.chisquare(degrees, DRAWS) / degrees)
    bonferroni = student_critical_value(degrees, 1 - (1 - level) / len(unit_KC))
    return min(bonferroni, max(pointwise, float(np.quantile(largest, level))))
