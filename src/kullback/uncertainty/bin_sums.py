"""The sums of residuals over bins of the forecast, and the noise of these sums.

For a text of many documents the sums over the bins in each would need more memory than its tokens:
their covariance is accumulated instead, in a second pass.

Axes: m tokens of one part, B bins, P pieces of documents, C independent contributions, G documents,
g some of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kullback.uncertainty.calibration_noise import BinNoise, NoisePieces
from kullback.uncertainty.clusters import (
    DocumentClusters,
    WorkingVariance,
    clusters_method,
    corrections,
    working_variance,
)
from kullback.uncertainty.documents import Documents

__all__ = ["BinSums", "BinnedResiduals", "ManyDocumentSums", "bin_sums"]

# With more documents their sums over 64 bins would take more than 16 MB.
MANY_DOCUMENTS = 1 << 15
# The documents whose sums over bins are in memory at once.
BLOCK = 1 << 12


class BinnedResiduals(NamedTuple):
    """The residuals of some tokens, with the piece and the bin of each."""

    piece_m: Int[np.ndarray, "m"]
    index_m: Int[np.ndarray, "m"]
    residual_m: Float[np.ndarray, "m"]


def bin_sums(pieces: NoisePieces, bins: int) -> BinSums | ManyDocumentSums:
    """What residuals are added to, once or, where `again` says so, twice."""
    many = len(pieces.text.size_G) > MANY_DOCUMENTS
    if many and isinstance(pieces.independent, DocumentClusters):
        return ManyDocumentSums(pieces.text, bins)
    return BinSums(pieces, bins)


class BinSums:
    """The sums of residuals, in parts, over the bins in each piece."""

    def __init__(self, pieces: NoisePieces, bins: int) -> None:
        self.sums_PB = np.zeros((len(pieces), bins))
        self.residual_B = np.zeros(bins)
        self._pieces = pieces

    def again(self) -> bool:
        """Whether a second pass has to add the same: no."""
        return False

    def add(self, rows: BinnedResiduals) -> None:
        """The next tokens."""
        piece_m, index_m, residual_m = rows
        bins = len(self.residual_B)
        first, last = int(piece_m[0]), int(piece_m[-1]) + 1
        sums = np.bincount((piece_m - first) * bins + index_m, residual_m, (last - first) * bins)
        self.sums_PB[first:last] += sums.reshape(-1, bins)
        self.residual_B += np.bincount(index_m, residual_m, bins)

    def noise(self, kept_b: Int[np.ndarray, "b"] | None = None) -> BinNoise:
        """The noise of the bins, or of some of them."""
        tokens, sums_PB, size_P = self._pieces.tokens, self.sums_PB, self._pieces.sizes()
        if kept_b is not None and len(kept_b) < sums_PB.shape[1]:
            sums_PB = np.ascontiguousarray(sums_PB[:, kept_b])
        shares_B = sums_PB.sum(axis=0) / tokens
        pieces = self._pieces.independent
        reduced = []
        for b in range(len(shares_B)):
            sums = pieces.sums()
            sums.add(sums_PB[:, b] - shares_B[b] * size_P)
            reduced.append(sums.reduced)
        spreads = pieces.spreads(reduced)
        degrees = min(spread.degrees_of_freedom for spread in spreads)
        contribution_BC = np.stack([spread.contribution_C for spread in spreads]) / tokens
        method, note, too_few = spreads[0].method, spreads[0].note, spreads[0].too_few
        clusters = contribution_BC.shape[1]
        return BinNoise(contribution_BC, clusters, degrees, method, note, too_few, tokens)


class ManyDocumentSums:
    """The same for independent documents that are many, in two passes.

    The first sums what the variance of a document's residuals is fitted to
    (`kullback.uncertainty.clusters`), the second the covariance of the contributions.
    """

    def __init__(self, documents: Documents, bins: int) -> None:
        self.residual_B = np.zeros(bins)
        self._documents = documents
        self._tokens = int(documents.size_G.sum())
        self._cells = _DocumentCells(documents, bins)
        # Over documents: of s²/n, s² and s n, with s the sum over a bin and n the size.
        self._moments_3B = np.zeros((3, bins))
        self._fitted: _FittedBins | None = None
        self._covariance_BB = np.zeros((bins, bins))

    def again(self) -> bool:
        """Whether a second pass has to add the same: yes, once."""
        if self._fitted is not None:
            return False
        self._fitted = _FittedBins.of(self._documents.size_G, self.residual_B, self._moments_3B)
        self._cells = _DocumentCells(self._documents, len(self.residual_B))
        return True

    def add(self, rows: BinnedResiduals) -> None:
        """The next tokens, whose pieces are not used."""
        _, index_m, residual_m = rows
        if self._fitted is None:
            self.residual_B += np.bincount(index_m, residual_m, len(self.residual_B))
        for ended, sums_gB in self._cells.add(index_m, residual_m):
            size_g = self._documents.size_G[ended].astype(np.float64)
            if self._fitted is None:
                squares_gB = sums_gB**2
                self._moments_3B[0] += (1 / size_g) @ squares_gB
                self._moments_3B[1] += squares_gB.sum(axis=0)
                self._moments_3B[2] += size_g @ sums_gB
            else:
                contribution_gB = self._fitted.contributions(size_g, sums_gB)
                self._covariance_BB += contribution_gB.T @ contribution_gB

    def noise(self, kept_b: Int[np.ndarray, "b"] | None = None) -> BinNoise:
        """The noise of the bins, or of some of them."""
        assert self._fitted is not None, "the second pass is missing"
        w_G = self._documents.size_G / self._tokens
        degrees_B = [corrections(w_G, variance)[1] for variance in self._fitted.variances]
        covariance_BB = self._covariance_BB
        if kept_b is not None:
            covariance_BB = covariance_BB[np.ix_(kept_b, kept_b)]
            degrees_B = [degrees_B[b] for b in kept_b]
        eigenvalue_B, vector_BB = np.linalg.eigh(covariance_BB)
        root_BB = vector_BB * np.sqrt(np.maximum(eigenvalue_B, 0.0))
        count = len(w_G)
        method = clusters_method(count, degrees_B[0])
        return BinNoise(root_BB, count, min(degrees_B), method, "", False, self._tokens)


class _FittedBins:
    """How a document's sums over bins become contributions to their errors."""

    def __init__(
        self,
        tokens: int,
        share_B: Float[np.ndarray, "B"],
        variances: list[WorkingVariance],
        squares: float,
    ) -> None:
        self.variances = variances
        self._tokens = tokens
        self._share_B = share_B
        self._alpha_B, self._beta_B = np.array(variances).T
        # Of the variances of all documents; the squares are those of their shares.
        self._total_B = self._alpha_B + self._beta_B * squares

    @classmethod
    def of(
        cls,
        size_G: Int[np.ndarray, "G"],
        residual_B: Float[np.ndarray, "B"],
        moments_3B: Float[np.ndarray, "3 B"],
    ) -> _FittedBins:
        """From the sums over documents of s²/n, s² and s n."""
        tokens = int(size_G.sum())
        w_G, share_B = size_G / tokens, residual_B / tokens
        squares = float(w_G @ w_G)
        # z = e²/w of the residuals e = s − share n, summed over documents, and w z.
        z_B = tokens * (moments_3B[0] - 2 * share_B * residual_B + share_B**2 * tokens)
        wz_B = moments_3B[1] - 2 * share_B * moments_3B[2] + share_B**2 * squares * tokens**2
        mean_w = float(w_G.mean())
        variances = [
            working_variance(w_G, float(z) / len(w_G), float(wz - mean_w * z))
            for z, wz in zip(z_B, wz_B, strict=True)
        ]
        return cls(tokens, share_B, variances, squares)

    def contributions(
        self, size_g: Float[np.ndarray, "g"], sums_gB: Float[np.ndarray, "g B"]
    ) -> Float[np.ndarray, "g B"]:
        """Those of some documents, divided by all tokens."""
        w_g1 = (size_g / self._tokens)[:, None]
        d_gB = w_g1 * self._alpha_B + w_g1**2 * self._beta_B
        b_gB = d_gB + w_g1 * (self._total_B * w_g1 - 2 * d_gB)
        a_gB = np.divide(d_gB, b_gB, out=np.ones_like(d_gB), where=b_gB > 0)
        residual_gB = sums_gB - size_g[:, None] * self._share_B
        contributions_gB: Float[np.ndarray, "g B"] = residual_gB * np.sqrt(a_gB) / self._tokens
        return contributions_gB


class _DocumentCells:
    """The sums over the bins in each document, one block of documents after the other."""

    def __init__(self, documents: Documents, bins: int) -> None:
        self._documents = documents
        self._begun_B = np.zeros(bins)
        """Of the document that the last part did not end."""
        self._row = 0

    def add(
        self, index_m: Int[np.ndarray, "m"], residual_m: Float[np.ndarray, "m"]
    ) -> Iterator[tuple[slice, Float[np.ndarray, "g B"]]]:
        """The documents that the next tokens end, and their sums."""
        bins, tokens = len(self._begun_B), len(index_m)
        first, self._row = self._row, self._row + tokens
        among, start_g = self._documents.within(first, self._row)
        edge_g = np.append(start_g, tokens)
        for lowest in range(0, len(start_g), BLOCK):
            highest = min(lowest + BLOCK, len(start_g))
            part = slice(int(edge_g[lowest]), int(edge_g[highest]))
            number_m = np.repeat(np.arange(highest - lowest), np.diff(edge_g[lowest : highest + 1]))
            cell_m = number_m * bins + index_m[part]
            sums_gB = np.bincount(cell_m, residual_m[part], (highest - lowest) * bins)
            sums_gB = sums_gB.reshape(-1, bins)
            sums_gB[0] += self._begun_B
            self._begun_B = np.zeros(bins)
            begin, end = among.start + lowest, among.start + highest
            last_ends = int(self._documents.start_G[end - 1] + self._documents.size_G[end - 1])
            if last_ends > self._row:
                self._begun_B = sums_gB[-1].copy()
                end -= 1
            if end > begin:
                yield slice(begin, end), sums_gB[: end - begin]
