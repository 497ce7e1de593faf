"""The statistics that llama.cpp prints of a model and a base-logits file, with intervals.

``llama-perplexity --kl-divergence`` reads the base model's file and runs another model, Q.  From
that file and the logits of Q the same statistics follow, in its arithmetic (llama.cpp,
``tools/perplexity/perplexity.cpp``):

* log p of the base is taken as the file has it, clipped 16 nats below the largest and not quite
  normalised; Q's logits are normalised.  The KL of a token sums only tokens with base log p > -16.
  So a KL can come out below zero; `kullback.scoring.rounded_bounds` has what the file allows.
* values of a token are float32, sums float64; percentiles are interpolated in float32.
* the ± of a mean is ``sqrt((E[x²] − E[x]²) / (n − 1))``, that of a function of means the delta
  method's: as if tokens were independent, which in running text they are not.

One difference is left where Q is a file, too: llama.cpp has Q's logits as they are, where the file
has them rounded to 1/65,535 of their range and clipped.  Rounding moves a token's KL by a step at
most, 2.4e-4 nats; a token to which Q gives less than e^-16 of its largest adds less than it should.

Beside each number is ours: the same value with an interval over chunks
(`kullback.uncertainty.intervals`).

Axes: M scored tokens, B rows of a block, V vocabulary, C chunks, T tokens of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from msgspec.structs import replace

from kullback.errors import InvalidValueError
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.results.measurement import Measurement
from kullback.uncertainty.intervals import mean_with_interval, perplexity

__all__ = [
    "LlamaCppStatistic",
    "LlamaCppStatistics",
    "TokenColumns",
    "check_same_tokens",
    "llama_cpp_statistics",
]

# Tokens to which the base gives less than e^-16 do not count in its KL.
LEAST_LOG_P = np.float32(-16.0)
# It gives no error to a mean of ten values or fewer, and no covariance to fewer than ten.
FEWEST_FOR_ERROR = 10
KLD_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
CHANGE_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)


@dataclass(frozen=True)
class LlamaCppStatistic:
    """A number as llama.cpp has it, and as we would give it."""

    value: float
    error: float | None = None
    """Its ±, which takes tokens as independent; None where it prints none."""
    percent: bool = False
    """Whether it prints the number, here a fraction, in per cent."""
    ours: Measurement | None = None
    """The same number with an interval over chunks; None where there is none for it."""

    def __str__(self) -> str:
        scale, digits, unit = (100.0, 3, " %") if self.percent else (1.0, 6, "")
        text = f"{self.value * scale:10.{digits}f}"
        if self.error is not None:
            text += f" ± {self.error * scale:9.{digits}f}"
        text += unit
        if self.ours is None or not math.isfinite(self.ours.standard_error):
            return text
        low, high = (bound * scale for bound in self.ours.interval)
        return f"{text}   95 % over chunks: [{low:.{digits}f}, {high:.{digits}f}]{unit}"


@dataclass(frozen=True)
class LlamaCppStatistics:
    """All that it prints, by the names that it prints, in its order."""

    tokens: int
    chunks: int
    sections: dict[str, dict[str, LlamaCppStatistic]]

    def __getitem__(self, name: str) -> LlamaCppStatistic:
        """A statistic by its name, as "Mean KLD"; `KeyError` where there is none."""
        return {
            key: statistic
            for section in self.sections.values()
            for key, statistic in section.items()
        }[name]

    def __str__(self) -> str:
        lines = []
        for title, section in self.sections.items():
            lines.append(f"====== {title} ======")
            lines += [f"{name:30}: {statistic}" for name, statistic in section.items()]
            lines.append("")
        return "\n".join(lines)


def llama_cpp_statistics(base: LlamaCppLogits, values: TokenColumns) -> LlamaCppStatistics:
    """The statistics of the model whose columns these are, against the base.

    llama.cpp itself prints the summary from 100 tokens on.
    """
    chunk_M = np.arange(len(base)) // base.rows_per_chunk
    sections = {
        "Perplexity statistics": _perplexities(values, chunk_M),
        "KL divergence statistics": _divergences(values, chunk_M),
        "Token probability statistics": _probabilities(values, chunk_M),
    }
    return LlamaCppStatistics(len(base), len(base.tokens_CT), sections)


def check_same_tokens(base: LlamaCppLogits, q: LlamaCppLogits) -> None:
    """Raise `InvalidValueError` where the texts, their chunks or the vocabularies differ."""
    if base.vocabulary_size != q.vocabulary_size:
        raise InvalidValueError(
            f"{base.path} has a vocabulary of {base.vocabulary_size}, {q.path} of "
            f"{q.vocabulary_size}: the models must share a tokenizer"
        )
    if base.tokens_CT.shape != q.tokens_CT.shape:
        (c, t), (other_c, other_t) = base.tokens_CT.shape, q.tokens_CT.shape
        raise InvalidValueError(
            f"{base.path} holds {c} chunks of {t} tokens, {q.path} {other_c} of {other_t}: write "
            "both with the same text, context (-c) and number of chunks (--chunks)"
        )
    if not np.array_equal(base.tokens_CT, q.tokens_CT):
        chunk, token = (int(i[0]) for i in np.nonzero(base.tokens_CT != q.tokens_CT))
        raise InvalidValueError(
            f"{base.path} and {q.path} are of different texts: token {token} of chunk {chunk} is "
            f"{base.tokens_CT[chunk, token]} in the one and {q.tokens_CT[chunk, token]} in the "
            "other; write both from the same file"
        )


@dataclass(frozen=True, eq=False)
class TokenColumns:
    """What is kept of each token, in float32 but for the KL."""

    nll: Float[np.ndarray, "M"]
    nll_base: Float[np.ndarray, "M"]
    kld: Float[np.ndarray, "M"]
    change: Float[np.ndarray, "M"]
    """Δp of the target: Q's probability minus the base's."""
    same_top: Bool[np.ndarray, "M"]

    @classmethod
    def of(
        cls,
        base: LlamaCppLogits,
        rows: slice,
        logits_BV: Float[np.ndarray, "B V"],
        normalised: bool = False,
    ) -> TokenColumns:
        """The columns of some rows; Q's logits, in float32, are overwritten.

        `normalised` is whether they are log-probabilities already.  Raises `InvalidValueError`
        where the probabilities of a row of the base do not sum to 1.
        """
        index_B = np.arange(rows.stop - rows.start)
        target_B = base.targets[rows]
        log_p_BV = base.log_probabilities(rows)
        largest_B = logits_BV.max(axis=1)
        total_B = np.exp(logits_BV - largest_B[:, None]).sum(axis=1, dtype=np.float64)
        p_BV = np.exp(log_p_BV)
        base.check_mass(rows.start, p_BV.sum(axis=1, dtype=np.float64))
        log_z_B = largest_B + np.log(total_B).astype(np.float32)
        if normalised:
            log_z_B[:] = 0
        nll_B = log_z_B - logits_BV[index_B, target_B]
        nll_base_B = -log_p_BV[index_B, target_B]
        same_top_B = logits_BV.argmax(axis=1) == log_p_BV.argmax(axis=1)
        terms_BV = np.subtract(log_p_BV, logits_BV, out=logits_BV)
        terms_BV += log_z_B[:, None]
        terms_BV *= p_BV
        terms_BV[log_p_BV <= LEAST_LOG_P] = 0.0
        kld_B = terms_BV.sum(axis=1, dtype=np.float64)
        change_B = np.exp(-nll_B) - np.exp(-nll_base_B)
        return cls(nll_B, nll_base_B, kld_B, change_B, same_top_B)

    @classmethod
    def concatenated(cls, parts: Sequence[TokenColumns]) -> TokenColumns:
        """The columns of all rows, part after part."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _perplexities(values: TokenColumns, chunk_M: np.ndarray) -> dict[str, LlamaCppStatistic]:
    nll_M, base_M = values.nll, values.nll_base
    mean, error = _mean(nll_M)
    base_mean, base_error = _mean(base_M)
    n = len(nll_M)
    product = _total(nll_M * base_M) / n
    covariance = (product - mean * base_mean) / (n - 1) if n >= FEWEST_FOR_ERROR else 0.0
    ratio, ratio_error = mean - base_mean, _root(error**2 + base_error**2 - 2 * covariance)
    ppl, base_ppl = math.exp(mean), math.exp(base_mean)
    difference_error = _root(
        (ppl * error) ** 2 + (base_ppl * base_error) ** 2 - 2 * ppl * base_ppl * covariance
    )
    wide_M, wide_base_M = nll_M.astype(np.float64), base_M.astype(np.float64)
    paired = mean_with_interval(wide_M - wide_base_M, chunk_M, "nats/token")
    # By the delta method: the difference moves as this mean does.
    moving = mean_with_interval(ppl * wide_M - base_ppl * wide_base_M, chunk_M, "")
    ours = [
        perplexity(mean_with_interval(nll, chunk_M, "nats/token")) for nll in (wide_M, wide_base_M)
    ]
    return {
        "Mean PPL(Q)": LlamaCppStatistic(ppl, ppl * error, ours=ours[0]),
        "Mean PPL(base)": LlamaCppStatistic(base_ppl, base_ppl * base_error, ours=ours[1]),
        "Cor(ln(PPL(Q)), ln(PPL(base)))": LlamaCppStatistic(
            _ratio(covariance, error * base_error), percent=True
        ),
        "Mean ln(PPL(Q)/PPL(base))": LlamaCppStatistic(ratio, ratio_error, ours=paired),
        "Mean PPL(Q)/PPL(base)": LlamaCppStatistic(
            math.exp(ratio), math.exp(ratio) * ratio_error, ours=perplexity(paired)
        ),
        "Mean PPL(Q)-PPL(base)": LlamaCppStatistic(
            ppl - base_ppl, difference_error, ours=replace(moving, value=ppl - base_ppl)
        ),
    }


def _divergences(values: TokenColumns, chunk_M: np.ndarray) -> dict[str, LlamaCppStatistic]:
    mean, error = _mean(values.kld)
    ours = mean_with_interval(values.kld, chunk_M, "nats/token")
    statistics = {"Mean KLD": LlamaCppStatistic(mean, error, ours=ours)}
    quantiles = _quantiles(values.kld.astype(np.float32), KLD_PERCENTILES)
    return statistics | {
        f"{name} KLD": LlamaCppStatistic(value) for name, value in quantiles.items()
    }


def _probabilities(values: TokenColumns, chunk_M: np.ndarray) -> dict[str, LlamaCppStatistic]:
    change_M = values.change.astype(np.float64)
    # The square is rounded to float32 before it is summed, its own square is not.
    square_M = (values.change * values.change).astype(np.float64)
    mean = _total(change_M) / len(change_M)
    mean_square, square_error = _mean(square_M)
    error = _error(mean, mean_square, len(change_M))
    rms = math.sqrt(mean_square)
    same = float(values.same_top.mean())
    same_error = _root(_ratio(same * (1 - same), len(change_M) - 1))
    ours = mean_with_interval(square_M, chunk_M, "")
    low, high = ours.interval
    our_rms = replace(
        ours,
        value=rms,
        standard_error=_ratio(0.5 * ours.standard_error, rms) if rms else 0.0,
        independent_error=_ratio(0.5 * ours.independent_error, rms) if rms else 0.0,
        bounds=(math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))),
    )
    quantiles = _quantiles(values.change, CHANGE_PERCENTILES)
    return {
        "Mean Δp": LlamaCppStatistic(mean, error, True, mean_with_interval(change_M, chunk_M, "")),
        **{f"{name} Δp": LlamaCppStatistic(v, percent=True) for name, v in quantiles.items()},
        "RMS Δp": LlamaCppStatistic(rms, _ratio(0.5, rms) * square_error, True, our_rms),
        "Same top p": LlamaCppStatistic(
            same, same_error, True, mean_with_interval(values.same_top, chunk_M, "")
        ),
    }


def _quantiles(values_M: Float[np.ndarray, "M"], per_cent: tuple[float, ...]) -> dict[str, float]:
    """Maximum, percentiles and minimum, by the names that llama.cpp gives them."""
    sorted_M = np.sort(values_M)
    n = len(sorted_M)
    statistics = {"Maximum": float(sorted_M[-1])}
    for percentile in per_cent:
        if percentile == 50.0:
            statistics["Median"] = float(
                np.float32(0.5) * (sorted_M[n // 2] + sorted_M[(n - 1) // 2])
            )
            continue
        # float32, as there: among a million values the place is known to about a tenth.
        place = np.float32(percentile / 100) * np.float32(n - 1)
        below = int(place)
        share = place - np.float32(below)
        above = min(below + 1, n - 1)
        value = (np.float32(1) - share) * sorted_M[below] + share * sorted_M[above]
        statistics[f"{percentile:.1f}%"] = float(value)
    return {**statistics, "Minimum": float(sorted_M[0])}


def _total(values_M: Float[np.ndarray, "M"]) -> float:
    return float(values_M.sum(dtype=np.float64))


def _mean(values_M: Float[np.ndarray, "M"]) -> tuple[float, float]:
    """The mean and its error; the squares are rounded to the values' own type."""
    mean = _total(values_M) / len(values_M)
    return mean, _error(mean, _total(values_M * values_M) / len(values_M), len(values_M))


def _error(mean: float, mean_square: float, n: int) -> float:
    """llama.cpp's: 0 for ten values or fewer, and where rounding makes the variance negative."""
    variance = mean_square - mean * mean
    return math.sqrt(variance / (n - 1)) if variance > 0 and n > FEWEST_FOR_ERROR else 0.0


def _root(square: float) -> float:
    """The square root, NaN as in C where rounding has made the square negative."""
    return math.sqrt(square) if square >= 0 else math.nan


def _ratio(numerator: float, denominator: float) -> float:
    """The quotient as C has it."""
    if denominator:
        return numerator / denominator
    return math.copysign(math.inf, numerator) if numerator else math.nan
