"""The covariance of the mean residuals of bins, clustered as that of means.

A residual is outcome − forecast, and each token is in one bin of its forecast.  Tokens are
correlated, so the noise of a bin is computed from documents or from the lowest frequencies of a
long text (`kullback.uncertainty.pieces`), and that of two bins is correlated, too.

Axes: m tokens of one part, B bins, C independent contributions, D draws, P pieces of documents, G
documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.clusters import DocumentClusters
from kullback.uncertainty.documents import Documents
from kullback.uncertainty.forecasts import ResidualRows
from kullback.uncertainty.long_texts import LongTexts
from kullback.uncertainty.pieces import independent_pieces

__all__ = ["BinNoise", "InPieces", "NoisePieces"]

# Adds the next tokens, given the piece of each.
PieceAdder: TypeAlias = Callable[[Int[np.ndarray, "m"], ResidualRows], None]

# The approximate number of pieces of a text, each a row of sums over bins.
PIECES = 4096
# Draws of the noise: a 97.5 % quantile is then known to about 2 %.
DRAWS = 4000


class BinNoise(NamedTuple):
    """The errors of the mean residuals of bins."""

    contribution_BC: Float[np.ndarray, "B C"]
    """Independent contributions; their products sum to the covariance."""
    clusters: int
    """The contributions that they were computed from."""
    degrees_of_freedom: float
    method: str
    note: str
    too_few: bool
    n: int

    @property
    def covariance(self) -> Float[np.ndarray, "B B"]:
        """The covariance of the bins' residuals, each a sum over the bin divided by all tokens."""
        product: Float[np.ndarray, "B B"] = self.contribution_BC @ self.contribution_BC.T
        return product

    @property
    def critical_value(self) -> float:
        """Student's t, two-sided."""
        return float(stdtrit(max(self.degrees_of_freedom, 1.0), (1 + LEVEL) / 2))

    def draws(self, seed: int) -> Float[np.ndarray, "D B"]:
        """Student-t vectors with that covariance."""
        rng = np.random.default_rng(seed)
        eigenvalue_B, vector_BB = np.linalg.eigh(self.covariance)
        root_BB = vector_BB * np.sqrt(np.maximum(eigenvalue_B, 0.0))
        normal_DB = rng.standard_normal((DRAWS, len(root_BB))) @ root_BB.T
        degrees = max(self.degrees_of_freedom, 1.0)
        draws: Float[np.ndarray, "D B"] = normal_DB / np.sqrt(
            rng.chisquare(degrees, (DRAWS, 1)) / degrees
        )
        return draws

    def measurement(self, value: float, error: float, low: float, high: float) -> Measurement:
        """A number computed from these residuals; without interval where pieces are too few."""
        error, low, high = (math.inf, -math.inf, math.inf) if self.too_few else (error, low, high)
        return Measurement(
            value,
            "",
            error,
            self.n,
            self.clusters,
            self.method,
            self.degrees_of_freedom,
            bounds=(low, high),
            note=self.note,
        )


class NoisePieces:
    """The pieces of the documents over which residuals are summed, about `PIECES` in all.

    A document's first piece begins with the document, and each but its last has `length` tokens.
    """

    def __init__(self, documents: Documents) -> None:
        self.tokens = int(documents.size_G.sum())
        self.text = documents
        """The documents, and their tokens."""
        self._length = -(-self.tokens // PIECES)
        self._pieces_G = -(-documents.size_G // self._length)
        self._first_G = np.cumsum(self._pieces_G) - self._pieces_G

    def __len__(self) -> int:
        """P."""
        return int(self._pieces_G.sum())

    def document_numbers(self) -> Int[np.ndarray, "P"]:
        """The document of each."""
        return np.repeat(np.arange(len(self._pieces_G)), self._pieces_G)

    def sizes(self) -> Float[np.ndarray, "P"]:
        """The tokens of each."""
        document_P = self.document_numbers()
        before_P = (np.arange(len(self)) - self._first_G[document_P]) * self._length
        size_P: Int[np.ndarray, "P"] = np.minimum(
            self.text.size_G[document_P] - before_P, self._length
        )
        return size_P.astype(np.float64)

    @property
    def documents(self) -> Documents:
        """Their documents, each piece in place of a token."""
        return Documents(self._first_G, self._pieces_G)

    @property
    def independent(self) -> DocumentClusters | LongTexts:
        """The pieces that are independent."""
        return independent_pieces(self.documents, self.text.size_G.astype(np.float64))

    def of(self, first: int, last: int) -> Int[np.ndarray, "m"]:
        """The piece of each of the tokens `first` to `last`."""
        among, start_g = self.text.within(first, last)
        document_m = np.repeat(
            np.arange(among.start, among.stop), np.diff(start_g, append=last - first)
        )
        place_m = np.arange(first, last) - self.text.start_G[document_m]
        piece_m: Int[np.ndarray, "m"] = self._first_G[document_m] + place_m // self._length
        return piece_m


class InPieces:
    """A pass over the residuals of a text that tells those who add them the piece of each token."""

    def __init__(self, pieces: NoisePieces, adders: Sequence[PieceAdder]) -> None:
        self._pieces = pieces
        self._adders = adders
        self._row = 0

    def add(self, rows: ResidualRows, /) -> None:
        """The next tokens."""
        last = self._row + len(rows.forecast_m)
        if last > self._row:
            piece_m = self._pieces.of(self._row, last)
            for add in self._adders:
                add(piece_m, rows)
        self._row = last
