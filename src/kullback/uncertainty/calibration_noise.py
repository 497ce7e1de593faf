"""The covariance of the mean residuals of bins, clustered as that of means.

A residual is outcome − forecast, and each token is in one bin of its forecast.  Tokens are
correlated, so the noise of a bin is computed from documents or from the lowest frequencies of a
long text (`kullback.uncertainty.pieces`), and that of two bins is correlated, too.

Axes: M tokens in text order, B bins, C independent contributions, D draws, P pieces of a document.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from msgspec.structs import replace
from scipy.special import stdtrit

from kullback.errors import InvalidValueError
from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.documents import Documents
from kullback.uncertainty.intervals import mean_with_interval
from kullback.uncertainty.pieces import independent_pieces

__all__ = ["BinNoise", "bin_noise", "checked_residuals"]

# The approximate number of pieces of a text, each a row of sums over bins.
PIECES = 4096
# Draws of the noise: a 97.5 % quantile is then known to about 2 %.
DRAWS = 4000


class BinNoise(NamedTuple):
    """The contributions to the errors of the mean residuals of bins."""

    contribution_BC: Float[np.ndarray, "B C"]
    degrees_of_freedom: float
    method: str
    note: str
    too_few: bool
    n: int
    gaps: list[Measurement]
    """The mean residual of each bin over its own tokens."""

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
            self.contribution_BC.shape[1],
            self.method,
            self.degrees_of_freedom,
            bounds=(low, high),
            note=self.note,
        )


def bin_noise(
    index_M: Int[np.ndarray, "M"],
    residual_M: Float[np.ndarray, "M"],
    bins: int,
    documents: Documents,
) -> BinNoise:
    """The noise of bins, from sums over the bins in pieces of the documents."""
    tokens = len(index_M)
    start_G, size_G = documents.start_G, documents.size_G
    length = -(-tokens // PIECES)
    pieces_G = -(-size_G // length)
    first_G = np.cumsum(pieces_G) - pieces_G
    document_M = np.repeat(np.arange(len(size_G)), size_G)
    piece_M = first_G[document_M] + (np.arange(tokens) - start_G[document_M]) // length
    count = int(pieces_G.sum())
    if documents.order_M is not None:
        index_M, residual_M = index_M[documents.order_M], residual_M[documents.order_M]
    cell_M = piece_M * bins + index_M
    sums = np.bincount(cell_M, residual_M, count * bins).reshape(count, bins)
    counts = np.bincount(cell_M, minlength=count * bins).reshape(count, bins)
    size_P = counts.sum(axis=1).astype(np.float64)
    document_P = np.repeat(np.arange(len(size_G)), pieces_G)
    shares_B = sums.sum(axis=0) / tokens
    pieces = independent_pieces(Documents.of(document_P, count), size_P)
    spreads = pieces.spreads(
        [pieces.reduced(sums[:, b] - shares_B[b] * size_P) for b in range(bins)]
    )
    first = spreads[0]
    degrees = min(spread.degrees_of_freedom for spread in spreads)
    contributions = np.stack([spread.contribution_C for spread in spreads]) / tokens
    # Computed from pieces: the error of independent tokens is unknown.
    gaps = [
        replace(
            mean_with_interval(sums[:, b], document_P, "", counts[:, b]),
            n=int(counts[:, b].sum()),
            independent_error=math.nan,
        )
        for b in range(bins)
        if counts[:, b].any()
    ]
    return BinNoise(contributions, degrees, first.method, first.note, first.too_few, tokens, gaps)


def checked_residuals(
    forecast_M: Float[np.ndarray, "M"],
    outcome_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Forecasts and residuals outcome − forecast, or `InvalidValueError`."""
    forecast = np.asarray(forecast_M, dtype=np.float64)
    outcome = np.asarray(outcome_M, dtype=np.float64)
    if forecast.ndim != 1 or forecast.shape != outcome.shape or len(forecast) == 0:
        raise InvalidValueError(
            f"forecast has shape {forecast.shape} and outcome {outcome.shape}: give as many "
            "forecasts as outcomes, at least one"
        )
    # A probability may round to slightly above 1.
    wrong = np.flatnonzero(~((forecast >= 0) & (forecast <= 1 + 1e-6)))
    if len(wrong):
        token = int(wrong[0])
        raise InvalidValueError(
            f"forecast[{token}] is {forecast[token]}: a probability must be in [0, 1]"
        )
    wrong = np.flatnonzero(~np.isfinite(outcome))
    if len(wrong):
        token = int(wrong[0])
        raise InvalidValueError(f"outcome[{token}] is {outcome[token]}: it must be finite")
    forecast = np.minimum(forecast, 1.0)
    return forecast, outcome - forecast
