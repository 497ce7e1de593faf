"""How sure are we?  Numbers with their intervals.

A mean over tokens is a ratio of sums, ``r = Σ y / Σ x``: x is 1 per token, or the token's bytes.
Its error is that of the residuals ``e = y − r x``, and these are not independent: tokens of one
document belong together, and in one document neighbours do.  So the interval comes from

* **documents**, where there are enough of them: the variance of a ratio of sums over clusters;
* **one long text** otherwise: the long-run variance of its residuals, from its lowest frequencies;
* **both**, where a few long documents hold most of the tokens.

All are Student-t intervals, with degrees of freedom that fall where a few documents or a long
memory carry the variance.  `benchmarks/interval_coverage.py` shows how often they cover, beside the
bootstrap (`bootstrap`), which covers less often in one text of long memory and
about as often over documents.

Axes: M tokens in text order, G documents (clusters), C independent contributions, K candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.special import ndtri, stdtrit

from kullback.errors import InvalidValueError
from kullback.uncertainty.clusters import Documents, cluster_spread, independent_pieces

__all__ = [
    "Measurement",
    "mean_with_interval",
    "perplexity",
    "ratio_of_sums",
    "simultaneous_means",
]

LEVEL = 0.95
# Draws of the largest |t|: the 95 % quantile is then known to 0.5 %.
DRAWS = 50_000


@dataclass(frozen=True)
class Measurement:
    """A number, its unit, and how sure it is.

    An exact number has standard error 0 and prints without an interval; one with too few clusters
    has an infinite error, and `note` says why.
    """

    value: float
    unit: str
    standard_error: float
    n: int
    """Tokens, or prefixes where the sum is over all of them."""
    clusters: int
    """Independent pieces that the interval is computed from; 0 for an exact number."""
    method: str
    degrees_of_freedom: float = math.inf
    """Of Student's t; infinite for the normal distribution."""
    independent_error: float = math.nan
    """The standard error if tokens were independent, which they are not; NaN where not computed."""
    level: float = LEVEL
    bounds: tuple[float, float] | None = None
    """The interval where it is not value ± half."""
    critical_value: float | None = None
    """Half of the interval in standard errors, where it is not Student's."""
    note: str = ""
    """What the reader must know beside the interval."""

    @property
    def interval(self) -> tuple[float, float]:
        """The interval at `level`, 95 % unless told."""
        if self.bounds is not None:
            return self.bounds
        half = self._half
        return self.value - half, self.value + half

    @property
    def independent_interval(self) -> tuple[float, float]:
        """What the interval would be if tokens were independent: shown to show how wrong it is."""
        half = float(ndtri((1 + self.level) / 2)) * self.independent_error
        return self.value - half, self.value + half

    @property
    def design_effect(self) -> float:
        """The variance over that of independent tokens (Kish 1965, Survey Sampling, sect. 8.2)."""
        if self.standard_error == self.independent_error < math.inf:
            return 1.0
        if self.independent_error == 0.0 or math.isinf(self.standard_error):
            return math.inf
        return (self.standard_error / self.independent_error) ** 2

    @property
    def effective_n(self) -> float:
        """How many independent tokens would be as informative; NaN where the error is unknown."""
        effect = self.design_effect
        if math.isinf(effect):
            return math.nan
        return math.inf if effect == 0.0 else self.n / effect

    @property
    def _half(self) -> float:
        if self.standard_error == 0.0:
            return 0.0
        critical = self.critical_value
        if critical is None:
            critical = _student(self.degrees_of_freedom, self.level)
        return critical * self.standard_error

    def __str__(self) -> str:
        """`0.6929 nats/token` or `0.6931 ± 0.0011 nats/token` (half of the interval)."""
        low, high = self.interval
        half = (high - low) / 2 if self.standard_error else 0.0
        if half == 0.0:
            return f"{self.value:.6f} {self.unit}"
        if not math.isfinite(half):
            why = self.note or "too few clusters for an interval"
            return f"{self.value:.6g} {self.unit} ({why})"
        digits = min(9, max(0, 1 - math.floor(math.log10(half))))
        if self.bounds is not None:
            interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
            return f"{self.value:.{digits}f} {interval} {self.unit}".rstrip()
        return f"{self.value:.{digits}f} ± {half:.{digits}f} {self.unit}".rstrip()


def ratio_of_sums(
    numerator_S: Float[np.ndarray, "S"],
    denominator_S: Float[np.ndarray, "S"],
    unit: str,
    n: int,
) -> Measurement:
    """sum(numerator) / sum(denominator) over S independent clusters, with its standard error.

    ``var = Σ_s a_s (y_s − r x_s)² / (Σ x)²``, where a_s makes up for r being fitted to the same
    clusters: for equal clusters it is S / (S − 1) (Cochran 1977, Sampling Techniques, eq. 2.39).
    The error is infinite below two clusters.

    >>> print(ratio_of_sums(np.array([1.0, 2.0, 3.0]), np.ones(3), "nats/token", 3))
    2.0 ± 2.5 nats/token
    """
    total = float(denominator_S.sum())
    value = float(numerator_S.sum()) / total
    contribution_S, degrees = cluster_spread(numerator_S - value * denominator_S, denominator_S)
    error = math.inf
    if len(numerator_S) > 1:
        error = math.sqrt(float(contribution_S @ contribution_S)) / total
    method = "ratio of sums over sentences"
    return Measurement(value, unit, error, n, len(numerator_S), method, degrees)


def mean_with_interval(
    values_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    document_M: Int[np.ndarray, "M"] | None,
    unit: str,
    denominator_M: Num[np.ndarray, "M"] | None = None,
    level: float = LEVEL,
) -> Measurement:
    """The mean over tokens, with an interval that knows that tokens are correlated.

    ``Σ values / Σ denominator``, the denominator being 1 a token unless given (a token's bytes, for
    bits per byte).  Tokens come in text order; `document_M` numbers their documents, None is one
    text.  `method` says what the interval was computed from, `design_effect` what correlation cost.
    For two models on the same text give the differences token by token.

    Raises `InvalidValueError` for NaN, empty or unequal lengths, and a denominator that is negative
    somewhere or zero in sum.  An infinite value gives an infinite mean without an interval.

    >>> nll = np.random.default_rng(0).standard_exponential(10_000)
    >>> print(mean_with_interval(nll, np.arange(10_000) // 100, "nats/token"))
    0.993 ± 0.021 nats/token
    >>> mean_with_interval(nll, np.arange(10_000) // 100, "nats/token").method
    '100 documents: ratio of sums, cluster-robust, Student t with 99.0 degrees of freedom'
    """
    return simultaneous_means(np.asarray(values_M)[None], document_M, unit, denominator_M, level)[0]


def simultaneous_means(
    values_KM: Num[np.ndarray, "K M"] | Bool[np.ndarray, "K M"],
    document_M: Int[np.ndarray, "M"] | None,
    unit: str,
    denominator_M: Num[np.ndarray, "M"] | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Measurement]:
    """K means on the same tokens, with intervals that *all* hold at once with probability `level`.

    For candidates that are ranked: whoever looks best among ten has been lucky too.  The
    half-widths are q standard errors, where q is the quantile of the largest of K correlated |t|;
    the correlation is that of the means, so that near-copies cost nothing, and q is never above
    Bonferroni's (Hothorn, Bretz and Westfall 2008, Biometrical J. 50:346, eq. 8).

    >>> nll = np.random.default_rng(0).standard_exponential((8, 10_000))
    >>> family = simultaneous_means(nll, np.arange(10_000) // 100, "nats/token")
    >>> round(family[0].critical_value, 1)
    2.8
    """
    values_KM, x_M, documents = _checked(values_KM, document_M, denominator_M, level)
    n, total = len(x_M), float(x_M.sum())
    means = [float(row.sum(dtype=np.float64)) / total for row in values_KM]
    if not all(map(math.isfinite, means)):
        note = "no interval: a value is infinite"
        return [
            Measurement(mean, unit, math.inf, n, 0, "no interval", level=level, note=note)
            for mean in means
        ]
    pieces = independent_pieces(documents, x_M)
    reduced, independent = [], []
    for row, mean in zip(values_KM, means, strict=True):
        residual_M = row - mean * x_M
        reduced.append(pieces.reduced(residual_M))
        # n − 1, since the mean was fitted; one token says nothing of the spread.
        variance = float(residual_M @ residual_M) / (n - 1) if n > 1 else math.inf
        independent.append(math.sqrt(n * variance) / total)
    spreads = pieces.spreads(reduced)
    critical = None
    if len(spreads) > 1 and not spreads[0].too_few:
        degrees = min(spread.degrees_of_freedom for spread in spreads)
        contribution_KC = np.stack([spread.contribution_C for spread in spreads])
        critical = _largest_t(contribution_KC, degrees, level, seed)
    return [
        Measurement(
            mean,
            unit,
            spread.standard_error(total),
            n,
            len(spread.contribution_C),
            spread.method,
            spread.degrees_of_freedom,
            error,
            level,
            critical_value=critical,
            note=spread.note,
        )
        for mean, spread, error in zip(means, spreads, independent, strict=True)
    ]


def perplexity(mean: Measurement, unit: str = "") -> Measurement:
    """exp(mean), its interval the exponentials of the mean's, which keep their coverage.

    `mean` is in nats; the standard error is that of the delta method, exp(mean) × error.

    >>> print(perplexity(Measurement(2.0, "nats/token", 0.1, 500, 50, "documents", 49)))
    7.4 [6.0, 9.0]
    """
    low, high = (_exp(bound) for bound in mean.interval)
    value = _exp(mean.value)
    error = mean.standard_error
    independent = mean.independent_error
    return replace(
        mean,
        value=value,
        unit=unit,
        standard_error=error if math.isinf(error) else value * error,
        independent_error=independent if math.isinf(independent) else value * independent,
        bounds=(low, high),
    )


def _exp(x: float) -> float:
    """e^x; infinity where that is beyond a double."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _student(degrees: float, level: float) -> float:
    """The two-sided critical value of Student's t."""
    if math.isinf(degrees):
        return float(ndtri((1 + level) / 2))
    return float(stdtrit(degrees, (1 + level) / 2)) if degrees > 0 else math.inf


def _largest_t(
    contribution_KC: Float[np.ndarray, "K C"], degrees: float, level: float, seed: int
) -> float:
    """The `level` quantile of the largest of K |t| with the correlation of the contributions."""
    length_K = np.linalg.norm(contribution_KC, axis=1)
    unit_KC = contribution_KC[length_K > 0] / length_K[length_K > 0, None]
    pointwise = _student(degrees, level)
    if len(unit_KC) < 2:
        return pointwise
    eigenvalue_K, vector_KK = np.linalg.eigh(unit_KC @ unit_KC.T)
    root_KK = vector_KK * np.sqrt(np.maximum(eigenvalue_K, 0.0))
    rng = np.random.default_rng(seed)
    largest = np.abs(root_KK @ rng.standard_normal((len(root_KK), DRAWS))).max(axis=0)
    largest /= np.sqrt(rng.chisquare(degrees, DRAWS) / degrees)
    bonferroni = _student(degrees, 1 - (1 - level) / len(unit_KC))
    return min(bonferroni, max(pointwise, float(np.quantile(largest, level))))


def _checked(
    values_KM: Num[np.ndarray, "K M"] | Bool[np.ndarray, "K M"],
    document_M: Int[np.ndarray, "M"] | None,
    denominator_M: Num[np.ndarray, "M"] | None,
    level: float,
) -> tuple[Num[np.ndarray, "K M"] | Bool[np.ndarray, "K M"], Float[np.ndarray, "M"], Documents]:
    """The arguments as arrays, or `InvalidValueError`."""
    values_KM = np.asarray(values_KM)
    if not 0 < level < 1:
        raise InvalidValueError(f"level is {level}: a confidence level lies between 0 and 1")
    if values_KM.ndim != 2 or values_KM.size == 0:
        raise InvalidValueError(
            f"values has shape {values_KM.shape}: give at least one row of at least one token"
        )
    tokens = values_KM.shape[1]
    for name, given in (("document", document_M), ("denominator", denominator_M)):
        if given is not None and np.shape(given) != (tokens,):
            raise InvalidValueError(
                f"{name} has shape {np.shape(given)} for {tokens} tokens: give one entry a token"
            )
    if np.isnan(values_KM).any():
        row, token = (int(i[0]) for i in np.nonzero(np.isnan(values_KM)))
        raise InvalidValueError(f"values[{row}, {token}] is NaN: a mean over it says nothing")
    if denominator_M is None:
        x_M = np.ones(tokens)
    else:
        x_M = np.asarray(denominator_M, dtype=np.float64)
        wrong = np.flatnonzero(~(np.isfinite(x_M) & (x_M >= 0)))
        if len(wrong):
            token = int(wrong[0])
            raise InvalidValueError(
                f"denominator[{token}] is {x_M[token]}: it must be finite and not below 0"
            )
        if x_M.sum() == 0:
            raise InvalidValueError("denominator is 0 everywhere: there is nothing to divide by")
    if document_M is not None:
        document_M = np.asarray(document_M)
    return values_KM, x_M, Documents.of(document_M, tokens)
