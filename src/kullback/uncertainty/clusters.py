"""The error of a mean over documents that are independent of one another.

A mean is a ratio of sums ``r = Σ y / Σ x``.  Its residuals ``e = y − r x`` are reduced to
**contributions** c, independent enough that ``var(r) = Σ c² / (Σ x)²``, and to the degrees of
freedom of that variance.  Here each document is one contribution.

Axes: G documents, C contributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kullback.uncertainty.documents import Documents
from kullback.uncertainty.piece_sums import PieceSums

__all__ = [
    "DocumentClusters",
    "Spread",
    "WorkingVariance",
    "cluster_spread",
    "clusters_method",
    "corrections",
    "working_variance",
]


class Spread(NamedTuple):
    """The contributions that the error of a mean is computed from."""

    contribution_C: Float[np.ndarray, "C"]
    degrees_of_freedom: float
    method: str
    note: str = ""
    too_few: bool = False
    probability: float = 1.0
    """Of documents that differ as much as these, if each passage of each had the same mean."""

    def standard_error(self, total: float) -> float:
        """√Σc² / `total`, the sum of the denominators; infinite where contributions are too few."""
        if self.too_few:
            return math.inf
        return math.sqrt(float(self.contribution_C @ self.contribution_C)) / total


@dataclass(frozen=True)
class DocumentClusters:
    """Every document as one contribution."""

    documents: Documents
    denominator_G: Float[np.ndarray, "G"]

    def sums(self) -> PieceSums:
        """What residuals are added to: sums over documents."""
        return PieceSums(self.documents, ())

    def spreads(self, reduced: Sequence[list[Float[np.ndarray, "_"]]]) -> list[Spread]:
        """The spread of each of several means, from the `reduced` sums of each."""
        spreads = []
        for (residual_G,) in reduced:
            contribution_G, degrees = cluster_spread(residual_G, self.denominator_G)
            method = clusters_method(len(residual_G), degrees)
            spreads.append(Spread(contribution_G, degrees, method))
        return spreads


def cluster_spread(
    residual_G: Float[np.ndarray, "G"], denominator_G: Float[np.ndarray, "G"]
) -> tuple[Float[np.ndarray, "G"], float]:
    """Contributions of clusters to the variance of a ratio of sums, and degrees of freedom.

    The residuals of clusters of size x vary by ``d = α x + β x²``: α from independent tokens, β
    from differences between documents; both are fitted to the residuals.  Under that d,
    ``c = e √(d / B_gg)`` makes Σc² unbiased, with B the covariance of the residuals
    ``(I − w 1ᵀ) diag(d) (I − 1 wᵀ)``, w = x / Σx, and the degrees of freedom are Satterthwaite's,
    ``(tr AB)² / tr (AB)²`` with A = diag(d / B_gg) (Bell and McCaffrey 2002, Survey Methodology
    28:169; the idea of an effective number of clusters is that of Carter, Schnepel and Steigerwald
    2017).  For equal clusters Σc² is G/(G−1) Σe² and the degrees of freedom are G − 1.

    >>> c, df = cluster_spread(np.array([-1.0, 0.0, 1.0]), np.ones(3))
    >>> round(float(c @ c), 6), round(df, 6)
    (3.0, 2.0)
    """
    if len(residual_G) < 2:
        return np.full(len(residual_G), math.nan), 0.0
    w_G = denominator_G / float(denominator_G.sum())
    used = w_G > 0
    w, z = w_G[used], residual_G[used] ** 2 / w_G[used]
    centred = w - w.mean()
    variance = working_variance(w, float(z.mean()), float(centred @ z))
    a_G, degrees = corrections(w_G, variance)
    return residual_G * np.sqrt(a_G), degrees


class WorkingVariance(NamedTuple):
    """The variance α w + β w² of the residual of a cluster whose share of the sizes is w.

    Only the ratio of α to β matters; they sum to 1, so that no product overflows.
    """

    alpha: float
    beta: float

    def of(self, w_G: Float[np.ndarray, "G"]) -> Float[np.ndarray, "G"]:
        """Those of clusters."""
        return self.alpha * w_G + self.beta * w_G**2


def working_variance(
    w_G: Float[np.ndarray, "G"], mean_z: float, centred_z: float
) -> WorkingVariance:
    """α and β ≥ 0 by least squares of z = e²/w on (1, w), from Σz/G and Σ(w − Σw/G) z.

    No w is 0; where no residual varies, α alone.
    """
    centred = w_G - w_G.mean()
    varies = float(centred @ centred) > 1e-12 * float(w_G @ w_G)
    beta = centred_z / float(centred @ centred) if varies else 0.0
    alpha = mean_z - beta * float(w_G.mean())
    if alpha < 0:
        alpha, beta = 0.0, 1.0
    if beta < 0 or alpha + beta == 0:
        alpha, beta = 1.0, 0.0
    scale = alpha + beta
    return WorkingVariance(alpha / scale, beta / scale)


def corrections(
    w_G: Float[np.ndarray, "G"], variance: WorkingVariance
) -> tuple[Float[np.ndarray, "G"], float]:
    """d / B_gg of each cluster and the degrees of freedom, as `cluster_spread` uses them."""
    d_G = variance.of(w_G)
    s = float(d_G.sum())
    low_rank_G = w_G * (s * w_G - 2 * d_G)
    b_G = d_G + low_rank_G
    a_G = np.divide(d_G, b_G, out=np.ones_like(d_G), where=b_G > 0)
    # B is diag(d) plus W [[s, −1], [−1, 0]] Wᵀ with W = (w, d), which gives the trace in O(G).
    ends = np.stack([w_G, d_G], axis=1)
    middle = (ends.T @ (a_G[:, None] * ends)) @ np.array([[s, -1.0], [-1.0, 0.0]])
    squared = a_G**2 @ d_G**2 + 2 * (a_G**2 * d_G) @ low_rank_G + float(np.trace(middle @ middle))
    degrees = float(a_G @ b_G) ** 2 / float(squared) if squared > 0 else len(w_G) - 1.0
    return a_G, min(degrees, len(w_G) - 1.0)


def clusters_method(documents: int, degrees: float) -> str:
    """How the interval is computed from documents."""
    return (
        f"{documents} documents: ratio of sums, cluster-robust, "
        f"Student t with {degrees:.1f} degrees of freedom"
    )
