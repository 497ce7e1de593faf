"""The error of a mean over one text, or over a few that contain most of the tokens.

Neighbouring tokens of a text are correlated, so the variance of a long text's sum comes from the
lowest frequencies of its residuals (:mod:`kullback.uncertainty.long_run_variance`).

Axes: G documents.  Arrays marked ``_`` differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import fdtrc

from kullback.uncertainty.clusters import DocumentClusters, Spread
from kullback.uncertainty.documents import Documents, effective_number
from kullback.uncertainty.long_run_variance import cosine_coefficients, memory
from kullback.uncertainty.piece_sums import PieceSums, piece_length

__all__ = ["FEWEST_DOCUMENTS", "LongTexts"]

# With fewer documents of equal size (or as many in effect) Student's t is very wide: with four
# the interval is 1.6 times the normal one, with two 6.5 times.  Long ones are then split.
FEWEST_DOCUMENTS = 5.0
# Frequencies that share the variance of a text.  32 cost 4 % of width against a known variance (t
# is 2.04 instead of 1.96), and see all correlation that ends well within a thirtieth of the text.
MOST_FREQUENCIES = 32
FEWEST_FREQUENCIES = 4
# Block lengths per frequency: at 3 the intervals of AR(1) series cover 94-95 %, at 1.5 91-93 %.
BLOCKS_PER_FREQUENCY = 3.0
# A shorter text is not split: its memory cannot be distinguished from chance.
SHORTEST_TEXT = 100
# Long documents that may differ are clusters if there are so many in effect (with three the
# interval is 2.2 times the normal one).  A test that decides on pooling must not miss much:
# Bancroft 1964, Biometrics 20:427, recommends 25 %; to be called a difference it needs 1 %.
FEWEST_DIFFERENT = 3.0
POOLING_LEVEL = 0.25
SIGNIFICANCE = 0.01
# The largest share of the denominator in short documents that are too few for a variance.
MOST_UNKNOWN = 0.1


@dataclass(frozen=True)
class LongTexts:
    """Long documents by their frequencies, short ones as clusters.

    The variance of a long text's sum is estimated by the mean square of its lowest cosine
    coefficients (`cosine_coefficients`), as many as its memory allows: T / (3 block lengths), at
    most 32 over all texts.  Where documents differ by more than that explains, they are clusters
    if they are three or more in effect; otherwise the note says that the interval is only theirs.
    """

    documents: Documents
    denominator_G: Float[np.ndarray, "G"]

    def sums(self) -> PieceSums:
        """What residuals are added to: sums over documents and over pieces of the long ones."""
        return PieceSums(self.documents, self._long())

    def spreads(self, reduced: Sequence[list[Float[np.ndarray, "_"]]]) -> list[Spread]:
        """The spread of each of several means, all from the same frequencies."""
        frequencies, longest = self._frequencies(reduced)
        spreads = [self._spread(series, frequencies, longest) for series in reduced]
        probability = min(spread.probability for spread in spreads)
        if probability < POOLING_LEVEL and effective_number(self.denominator_G) >= FEWEST_DIFFERENT:
            clusters = DocumentClusters(self.documents, self.denominator_G)
            return clusters.spreads([[series[0]] for series in reduced])
        return spreads

    def _long(self) -> list[int]:
        """The documents that are long enough to be split."""
        size_G = self.documents.size_G
        least = max(SHORTEST_TEXT, int(size_G.sum()) / MOST_FREQUENCIES)
        return [int(g) for g in np.flatnonzero(size_G >= least)]

    def _frequencies(
        self, reduced: Sequence[list[Float[np.ndarray, "_"]]]
    ) -> tuple[dict[int, int], float]:
        """The number of frequencies of each long document, and the longest memory in tokens."""
        size_G = self.documents.size_G
        frequencies: dict[int, int] = {}
        longest = 1.0
        for i, g in enumerate(self._long(), start=1):
            piece = piece_length(int(size_G[g]))
            # The longest memory of many series is chance: the upper quartile is used for all.
            memories = [memory(series[i]) for series in reduced]
            length = float(np.quantile(memories, 0.75)) * piece
            share = max(FEWEST_FREQUENCIES, round(MOST_FREQUENCIES * size_G[g] / size_G.sum()))
            allowed = int(size_G[g] / (BLOCKS_PER_FREQUENCY * length))
            longest = max(longest, length)
            if allowed >= FEWEST_FREQUENCIES // 2:
                frequencies[g] = min(share, max(FEWEST_FREQUENCIES, allowed))
        return frequencies, longest

    def _spread(
        self, series: list[Float[np.ndarray, "_"]], frequencies: dict[int, int], longest: float
    ) -> Spread:
        """The spread of one mean, from its sums over documents and the series of long ones."""
        residual_G, x_G, size_G = series[0], self.denominator_G, self.documents.size_G
        contributions: list[Float[np.ndarray, "_"]] = []
        degrees: list[float] = []
        for i, g in enumerate(self._long(), start=1):
            if g in frequencies:
                coefficients = cosine_coefficients(series[i], frequencies[g])
                # The coefficients are those of a sum over len(series[i]) pieces.
                contributions.append(coefficients * math.sqrt(len(series[i]) / frequencies[g]))
                degrees.append(float(frequencies[g]))
        short = np.array([g for g in range(len(size_G)) if g not in frequencies], dtype=np.int64)
        too_few = not frequencies
        if len(short):
            x = x_G[short]
            effective = effective_number(x)
            # The variance of few short documents is a guess: acceptable if they contain little.
            contains_little = float(x.sum()) <= MOST_UNKNOWN * float(x_G.sum())
            too_few |= effective < FEWEST_DOCUMENTS and not contains_little
            contributions.append(residual_G[short] / np.sqrt(1 - np.minimum(x / x_G.sum(), 0.5)))
            degrees.append(effective)
        variances = [float(c @ c) for c in contributions]
        # Documents whose denominator is 0 have no degrees of freedom, and no variance.
        satterthwaite = sum(v**2 / df for v, df in zip(variances, degrees, strict=True) if v > 0)
        total = sum(variances) ** 2 / satterthwaite if satterthwaite > 0 else min(degrees)
        contribution_C = np.concatenate(contributions)
        if too_few:
            return Spread(contribution_C, 0.0, "no interval", self._reason(longest), True)
        sums = [float(residual_G[g]) for g in frequencies]
        probability = _homogeneity(sums, variances[: len(sums)], sum(frequencies.values()))
        note = ""
        if len(size_G) > 1:
            note = "the interval is for more text of these documents, not for others like them"
        if probability < SIGNIFICANCE:
            note += f"; these differ from one another by more than chance (p = {probability:.1g})"
        method = self._method(frequencies, len(short), total)
        return Spread(contribution_C, total, method, note, probability=probability)

    def _method(self, frequencies: dict[int, int], short: int, df: float) -> str:
        texts = "one text" if len(frequencies) == 1 else f"{len(frequencies)} long documents"
        others = f" and {short} short one{'s' * (short != 1)}" if short else ""
        return (
            f"{texts}{others}: long-run variance from the {sum(frequencies.values())} lowest "
            f"frequencies, Student t with {df:.1f} degrees of freedom"
        )

    def _reason(self, longest: float) -> str:
        """Why there is no interval, and what to do."""
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
    """P(F ≥ that of the documents' sums), if their passages all had the same mean."""
    if len(sums) < 2 or min(variances) == 0.0:
        return 1.0
    between = sum(s * s / v for s, v in zip(sums, variances, strict=True)) / (len(sums) - 1)
    return float(fdtrc(len(sums) - 1, frequencies, between))
