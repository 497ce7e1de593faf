"""Which pieces of a text are independent, and what do they say about the error of its mean?

A mean is ``r = Σ y / Σ x``; its residuals ``e = y − r x`` are reduced to **contributions** c,
independent enough that ``var(r) = Σ c² / (Σ x)²``, and their degrees of freedom.  Documents are one
contribution each (`DocumentClusters`) where there are enough of them, otherwise long ones are taken
apart into their lowest frequencies (`LongTexts`).

Axes: M tokens in text order, G documents, C contributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import fdtrc

from kullback.uncertainty.long_run_variance import cosine_coefficients, memory

__all__ = [
    "DocumentClusters",
    "Documents",
    "LongTexts",
    "Spread",
    "cluster_spread",
    "independent_pieces",
]

# Below so many documents of equal size (or as many in effect) Student's t is no help: with four
# the interval is 1.6 times the normal one, with two 6.5 times.  Long ones are then taken apart.
FEWEST_DOCUMENTS = 5.0
# Frequencies that share the variance of a text.  32 cost 4 % of width against knowing it (t is
# 2.04, not 1.96), and see all correlation that ends well within a thirtieth of the text.
MOST_FREQUENCIES = 32
FEWEST_FREQUENCIES = 4
# Block lengths to a frequency: at 3 the intervals of AR(1) series cover 94-95 %, at 1.5 91-93 %.
BLOCKS_PER_FREQUENCY = 3.0
# A text with fewer tokens is not taken apart: its memory cannot be told from chance.
SHORTEST_TEXT = 100
# A text is looked at in at most so many pieces: finer ones change nothing at low frequencies.
FINEST = 1 << 16
# Long documents count as wholes where they may differ, if there are so many in effect (with three
# the interval is 2.2 times the normal one).  A test that decides on pooling must not miss much:
# Bancroft 1964, Biometrics 20:427, recommends 25 %; what is called a difference needs 1 %.
FEWEST_DIFFERENT = 3.0
POOLING_LEVEL = 0.25
SIGNIFICANCE = 0.01


class Spread(NamedTuple):
    """What the error of a mean is computed from."""

    contribution_C: Float[np.ndarray, "C"]
    degrees_of_freedom: float
    method: str
    note: str = ""
    too_few: bool = False
    probability: float = 1.0
    """Of documents that differ as much as these, if each passage of each had the same mean."""

    def standard_error(self, total: float) -> float:
        """√Σc² / `total`, the sum of the denominators; infinite where pieces are too few."""
        if self.too_few:
            return math.inf
        return math.sqrt(float(self.contribution_C @ self.contribution_C)) / total


@dataclass(frozen=True)
class Documents:
    """Where documents begin in the tokens, once those are put together that belong together."""

    order_M: Int[np.ndarray, "M"] | None
    """The tokens document by document, in text order within each; None if they are so already."""
    start_G: Int[np.ndarray, "G"]
    size_G: Int[np.ndarray, "G"]

    @classmethod
    def of(cls, document_M: Int[np.ndarray, "M"] | None, tokens: int) -> Documents:
        """Documents from one number a token; None is one document.

        >>> Documents.of(np.array([7, 7, 3, 7]), 4).size_G
        array([1, 3])
        """
        if document_M is None:
            return cls(None, np.zeros(1, np.int64), np.array([tokens]))
        order_M = None
        start_G = _run_starts(document_M)
        if len(np.unique(document_M[start_G])) < len(start_G):
            order_M = np.argsort(document_M, kind="stable")
            start_G = _run_starts(document_M[order_M])
        return cls(order_M, start_G, np.diff(start_G, append=tokens))

    def arranged(self, values_M: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
        """Values a token, document by document."""
        return values_M if self.order_M is None else values_M[self.order_M]

    def sums(self, values_M: Float[np.ndarray, "M"]) -> Float[np.ndarray, "G"]:
        """Sums over each document."""
        sums: Float[np.ndarray, "G"] = np.add.reduceat(self.arranged(values_M), self.start_G)
        return sums


def independent_pieces(
    documents: Documents, denominator_M: Float[np.ndarray, "M"]
) -> DocumentClusters | LongTexts:
    """Documents where there are five or more in effect, (Σx)² / Σx², otherwise long texts.

    >>> type(independent_pieces(Documents.of(np.arange(9) // 3, 9), np.ones(9))).__name__
    'LongTexts'
    """
    x_G = documents.sums(denominator_M)
    if _effective_number(x_G) >= FEWEST_DOCUMENTS:
        return DocumentClusters(documents, x_G)
    return LongTexts(documents, x_G)


def _effective_number(x_G: Float[np.ndarray, "G"]) -> float:
    """How many equal documents would vary as these: (Σx)² / Σx² (Kish 1965, sect. 11.7)."""
    squares = float(x_G @ x_G)
    return float(x_G.sum()) ** 2 / squares if squares > 0 else 0.0


def cluster_spread(
    residual_G: Float[np.ndarray, "G"], denominator_G: Float[np.ndarray, "G"]
) -> tuple[Float[np.ndarray, "G"], float]:
    """Contributions of clusters to the variance of a ratio of sums, and degrees of freedom.

    The residuals of clusters of size x vary by ``d = α x + β x²``: α from independent tokens, β
    from what a document has of its own; both are fitted to the residuals.  Under that d,
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
    total = float(denominator_G.sum())
    w_G = denominator_G / total
    d_G = _working_variances(residual_G, w_G)
    s = float(d_G.sum())
    low_rank_G = w_G * (s * w_G - 2 * d_G)
    b_G = d_G + low_rank_G
    a_G = np.divide(d_G, b_G, out=np.ones_like(d_G), where=b_G > 0)
    # B is diag(d) plus W [[s, −1], [−1, 0]] Wᵀ with W = (w, d), which gives the trace in O(G).
    ends = np.stack([w_G, d_G], axis=1)
    middle = (ends.T @ (a_G[:, None] * ends)) @ np.array([[s, -1.0], [-1.0, 0.0]])
    squared = a_G**2 @ d_G**2 + 2 * (a_G**2 * d_G) @ low_rank_G + float(np.trace(middle @ middle))
    degrees = float(a_G @ b_G) ** 2 / float(squared) if squared > 0 else len(residual_G) - 1.0
    return residual_G * np.sqrt(a_G), min(degrees, len(residual_G) - 1.0)


def _working_variances(
    residual_G: Float[np.ndarray, "G"], w_G: Float[np.ndarray, "G"]
) -> Float[np.ndarray, "G"]:
    """α w + β w², α and β ≥ 0 by least squares of e²/w on (1, w); w alone where nothing varies."""
    used = w_G > 0
    w = w_G[used]
    z = residual_G[used] ** 2 / w
    centred = w - w.mean()
    varies = float(centred @ centred) > 1e-12 * float(w @ w)
    beta = float(centred @ z) / float(centred @ centred) if varies else 0.0
    alpha = float(z.mean()) - beta * float(w.mean())
    if alpha < 0:
        alpha, beta = 0.0, 1.0
    if beta < 0 or alpha + beta == 0:
        alpha, beta = 1.0, 0.0
    # Only the ratio of α to β matters; large ones are brought down so that no product overflows.
    scale = alpha + beta
    return alpha / scale * w_G + beta / scale * w_G**2


@dataclass(frozen=True)
class DocumentClusters:
    """Every document is one piece."""

    documents: Documents
    denominator_G: Float[np.ndarray, "G"]

    def reduced(self, residual_M: Float[np.ndarray, "M"]) -> list[Float[np.ndarray, "_"]]:
        """One array: the sums of residuals over documents."""
        return [self.documents.sums(residual_M)]

    def spreads(self, reduced: Sequence[list[Float[np.ndarray, "_"]]]) -> list[Spread]:
        """One spread for each reduced series."""
        found = []
        for (residual_G,) in reduced:
            contribution_G, degrees = cluster_spread(residual_G, self.denominator_G)
            method = (
                f"{len(residual_G)} documents: ratio of sums, cluster-robust, "
                f"Student t with {degrees:.1f} degrees of freedom"
            )
            found.append(Spread(contribution_G, degrees, method))
        return found


@dataclass(frozen=True)
class LongTexts:
    """One text, or a few that hold most tokens: long ones by frequencies, short ones whole.

    The variance of a long text's sum is estimated by the mean square of its lowest cosine
    coefficients (`cosine_coefficients`), as many as its memory allows: T / (3 block lengths), at
    most 32 over all texts.  Where documents differ by more than that explains, they count as wholes
    if they are three or more in effect; otherwise the note says that the interval is only theirs.
    """

    documents: Documents
    denominator_G: Float[np.ndarray, "G"]

    def _long(self) -> list[int]:
        size_G = self.documents.size_G
        least = max(SHORTEST_TEXT, int(size_G.sum()) / MOST_FREQUENCIES)
        return [int(g) for g in np.flatnonzero(size_G >= least)]

    def reduced(self, residual_M: Float[np.ndarray, "M"]) -> list[Float[np.ndarray, "_"]]:
        """The sums over documents, then each long one as a series of sums over equal pieces."""
        arranged_M = self.documents.arranged(residual_M)
        series = [np.add.reduceat(arranged_M, self.documents.start_G)]
        for g in self._long():
            start, size = int(self.documents.start_G[g]), int(self.documents.size_G[g])
            piece = -(-size // FINEST)
            # The last, incomplete piece is left out of the shape, not of the mean.
            whole = size // piece * piece
            series.append(arranged_M[start : start + whole].reshape(-1, piece).sum(axis=1))
        return series

    def spreads(self, reduced: Sequence[list[Float[np.ndarray, "_"]]]) -> list[Spread]:
        """One spread for each reduced series, all on the same frequencies."""
        long, size_G = self._long(), self.documents.size_G
        frequencies: dict[int, int] = {}
        longest = 1.0
        for i, g in enumerate(long, start=1):
            piece = -(-int(size_G[g]) // FINEST)
            # Of many series the longest memory is chance: the upper quartile speaks for all.
            memories = [memory(series[i]) for series in reduced]
            length = float(np.quantile(memories, 0.75)) * piece
            share = max(FEWEST_FREQUENCIES, round(MOST_FREQUENCIES * size_G[g] / size_G.sum()))
            allowed = int(size_G[g] / (BLOCKS_PER_FREQUENCY * length))
            longest = max(longest, length)
            if allowed >= FEWEST_FREQUENCIES // 2:
                frequencies[g] = min(share, max(FEWEST_FREQUENCIES, allowed))
        found = [self._spread(series, long, frequencies, longest) for series in reduced]
        probability = min(spread.probability for spread in found)
        if (
            probability < POOLING_LEVEL
            and _effective_number(self.denominator_G) >= FEWEST_DIFFERENT
        ):
            wholes = DocumentClusters(self.documents, self.denominator_G)
            return wholes.spreads([[series[0]] for series in reduced])
        return found

    def _spread(
        self,
        series: list[Float[np.ndarray, "_"]],
        long: list[int],
        frequencies: dict[int, int],
        longest: float,
    ) -> Spread:
        residual_G, x_G, size_G = series[0], self.denominator_G, self.documents.size_G
        parts: list[Float[np.ndarray, "_"]] = []
        degrees: list[float] = []
        for i, g in enumerate(long, start=1):
            if g in frequencies:
                coefficients = cosine_coefficients(series[i], frequencies[g])
                # The coefficients are those of a sum over len(series) pieces.
                parts.append(coefficients * math.sqrt(len(series[i]) / frequencies[g]))
                degrees.append(frequencies[g])
        whole = np.array([g for g in range(len(size_G)) if g not in frequencies], dtype=np.int64)
        too_few = not frequencies
        if len(whole):
            x = x_G[whole]
            effective = _effective_number(x)
            # Where whole documents are few, their spread is a guess: bearable if they hold little.
            too_few |= effective < FEWEST_DOCUMENTS and float(x.sum()) > 0.1 * float(x_G.sum())
            parts.append(residual_G[whole] / np.sqrt(1 - np.minimum(x / x_G.sum(), 0.5)))
            degrees.append(effective)
        variances = [float(part @ part) for part in parts]
        # Documents that hold nothing of what is summed have no degrees, and no variance.
        satterthwaite = sum(v**2 / df for v, df in zip(variances, degrees, strict=True) if v > 0)
        total = sum(variances) ** 2 / satterthwaite if satterthwaite > 0 else min(degrees)
        if too_few:
            return Spread(np.concatenate(parts), 0.0, "no interval", self._why(longest), True)
        method = self._method(frequencies, len(whole), total)
        sums = [float(residual_G[g]) for g in frequencies]
        probability = _homogeneity(sums, variances[: len(sums)], sum(frequencies.values()))
        note = ""
        if len(size_G) > 1:
            note = "the interval is for more text of these documents, not for others like them"
        if probability < SIGNIFICANCE:
            note += f"; these differ from one another by more than chance (p = {probability:.1g})"
        return Spread(np.concatenate(parts), total, method, note, probability=probability)

    def _method(self, frequencies: dict[int, int], whole: int, df: float) -> str:
        texts = "one text" if len(frequencies) == 1 else f"{len(frequencies)} long documents"
        others = f" and {whole} whole short ones" if whole else ""
        return (
            f"{texts}{others}: long-run variance from the {sum(frequencies.values())} lowest "
            f"frequencies, Student t with {df:.1f} degrees of freedom"
        )

    def _why(self, longest: float) -> str:
        count, tokens = len(self.documents.size_G), int(self.documents.size_G.sum())
        texts = "one document" if count == 1 else f"{count} documents"
        if tokens == count:  # values of documents, or of single tokens
            return (
                f"no interval: {texts}, too few independent pieces; give {FEWEST_DOCUMENTS:.0f} or "
                "more of similar length"
            )
        return (
            f"no interval: {texts} of {tokens} token{'s' * (tokens != 1)} in all, correlated over "
            f"up to {longest:.0f}, give too few independent pieces; give {FEWEST_DOCUMENTS:.0f} or "
            "more documents of similar length, or a longer text"
        )


def _homogeneity(sums: list[float], variances: list[float], frequencies: int) -> float:
    """P(F ≥ that of the documents' sums, if their passages all had the same mean)."""
    if len(sums) < 2 or min(variances) == 0.0:
        return 1.0
    between = sum(s * s / v for s, v in zip(sums, variances, strict=True)) / (len(sums) - 1)
    return float(fdtrc(len(sums) - 1, frequencies, between))


def _run_starts(document_M: Int[np.ndarray, "M"]) -> Int[np.ndarray, "G"]:
    return np.concatenate([[0], np.flatnonzero(document_M[1:] != document_M[:-1]) + 1])
