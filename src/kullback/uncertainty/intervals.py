"""Means over tokens with confidence intervals.

A mean over tokens is a ratio of sums, ``r = Σ y / Σ x``: x is 1 per token, or the token's bytes.
Its error is that of the residuals ``e = y − r x``, and these are not independent: tokens of a
document are correlated, and so are neighbouring tokens.  So the interval is computed from

* **documents**, where there are enough of them: the variance of a ratio of sums over clusters;
* **one long text** otherwise: the long-run variance of its residuals, from its lowest frequencies;
* **both**, where a few long documents contain most of the tokens.

All are Student-t intervals, with fewer degrees of freedom where a few documents or a long memory
make up the variance.  `benchmarks/interval_coverage.py` measures their coverage beside that of the
bootstrap, which covers less often in one text of long memory, and about as often over documents.

Axes: M tokens in text order, S clusters, K candidates.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from msgspec.structs import replace
from scipy.special import stdtr

from kullback.errors import InvalidValueError
from kullback.results.measurement import LEVEL, Measurement
from kullback.uncertainty.clusters import cluster_spread
from kullback.uncertainty.documents import document_order
from kullback.uncertainty.means import MeanRows, check_rows, means
from kullback.uncertainty.sweeps import compute

__all__ = [
    "mean_with_interval",
    "perplexity",
    "ratio_of_sums",
    "simultaneous_means",
    "within_unit_interval",
]


def ratio_of_sums(
    numerator_S: Float[np.ndarray, "S"],
    denominator_S: Float[np.ndarray, "S"],
    unit: str,
    n: int,
    clusters: str = "sentences",
) -> Measurement:
    """sum(numerator) / sum(denominator) over S independent `clusters`, with its standard error.

    ``var = Σ_s a_s (y_s − r x_s)² / (Σ x)²``, where a_s corrects for r being fitted to the same
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
    method = f"ratio of sums over {clusters}"
    return Measurement(value, unit, error, n, len(numerator_S), method, degrees)


def mean_with_interval(
    values_M: Num[np.ndarray, "M"] | Bool[np.ndarray, "M"],
    document_M: Int[np.ndarray, "M"] | None,
    unit: str,
    denominator_M: Num[np.ndarray, "M"] | None = None,
    level: float = LEVEL,
) -> Measurement:
    """The mean over tokens, with an interval that takes their correlation into account.

    ``Σ values / Σ denominator``, the denominator being 1 a token unless given (a token's bytes, for
    bits per byte).  Tokens are in text order; `document_M` numbers their documents, None is one
    text.  The measurement's `method` says what the interval was computed from, its `design_effect`
    by how much correlation raises the variance.  To compare two models on the same text, pass the
    differences of each token.

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

    For candidates that are ranked, since the best of ten is also the luckiest.  The half-widths
    are q standard errors, with q the quantile of the largest of K correlated |t|; the correlation
    is that of the means, so that nearly equal candidates do not widen the intervals, and q is never
    above Bonferroni's (Hothorn, Bretz and Westfall 2008, Biometrical J. 50:346, eq. 8).

    >>> nll = np.random.default_rng(0).standard_exponential((8, 10_000))
    >>> family = simultaneous_means(nll, np.arange(10_000) // 100, "nats/token")
    >>> round(family[0].critical_value, 1)
    2.8
    """
    rows = _checked(values_KM, document_M, denominator_M, level)
    units = [unit] * len(values_KM)
    family = compute(means(lambda part: part, units, level, joint=True, seed=seed), lambda: [rows])
    if not family:
        raise InvalidValueError("denominator is 0 everywhere: there is nothing to divide by")
    return family


def perplexity(mean: Measurement, unit: str = "") -> Measurement:
    """exp(mean), with the exponentials of the mean's interval, which have the same coverage.

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


def within_unit_interval(mean: Measurement) -> Measurement:
    """A mean of values in [0, 1], such as an accuracy, whose interval does not leave them.

    Where value ± half does, near 0 or 1, the interval is that of the logit by the delta method:
    ``logit(value) ± half / (value (1 − value))``.

    A sample in which all values are 0, or all 1, has no spread, which is not the same as no
    uncertainty.  All C independent pieces are then 0 with a probability of at most (1 − share)^C,
    however their tokens are correlated: the interval ends at 1 − (1 − level)^(1/C), about 3 / C
    (the rule of three).  The standard error is that of a share at this end.

    >>> print(within_unit_interval(Measurement(0.99, "", 0.01, 500, 50, "documents", 49)))
    0.990 [0.929, 0.999]
    >>> print(within_unit_interval(Measurement(1.0, "", 0.0, 500, 50, "documents", 49)))
    1.000 [0.942, 1.000]
    """
    low, high = mean.interval
    if mean.value in (0, 1) and low == high and not mean.is_exact:
        return _of_equal_values(mean)
    if not mean.has_interval or (low >= 0 and high <= 1) or not 0 < mean.value < 1:
        return mean
    logit = math.log(mean.value) - math.log1p(-mean.value)
    half = (high - low) / 2 / (mean.value * (1 - mean.value))
    low, high = (1 / (1 + _exp(-end)) for end in (logit - half, logit + half))
    return replace(mean, bounds=(low, high))


def _of_equal_values(mean: Measurement) -> Measurement:
    """A share that is 0, or 1, at all tokens, with its interval."""
    pieces = min(mean.clusters, mean.degrees_of_freedom + 1)
    missed = 1 - mean.level
    if mean.critical_value is not None:  # of several means at once
        missed = 2 * float(stdtr(mean.degrees_of_freedom, -mean.critical_value))
    end = -math.expm1(math.log(missed) / pieces)
    variance = end * (1 - end)
    return replace(
        mean,
        standard_error=math.sqrt(variance / pieces),
        independent_error=math.sqrt(variance / mean.n),
        method=f"{mean.value:g} at all {mean.n:,} tokens: the rule of three for {pieces:,.0f} "
        "independent pieces",
        bounds=(0.0, end) if mean.value == 0 else (1 - end, 1.0),
    )


def _exp(x: float) -> float:
    """e^x; infinity where that is beyond a double."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _checked(
    values_KM: Num[np.ndarray, "K M"] | Bool[np.ndarray, "K M"],
    document_M: Int[np.ndarray, "M"] | None,
    denominator_M: Num[np.ndarray, "M"] | None,
    level: float,
) -> MeanRows:
    """The arguments as arrays, document by document, or `InvalidValueError`."""
    values_KM = np.asarray(values_KM)
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise InvalidValueError(f"level is {level!r}: a confidence level is between 0 and 1")
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
    x_M = np.ones(tokens) if denominator_M is None else np.asarray(denominator_M, dtype=np.float64)
    rows = MeanRows(None if document_M is None else np.asarray(document_M), x_M, values_KM)
    order_M = document_order(rows.document_m)
    if order_M is None or rows.document_m is None:
        return rows
    check_rows(rows)  # before the tokens get other numbers
    return MeanRows(rows.document_m[order_M], x_M[order_M], values_KM[:, order_M])
