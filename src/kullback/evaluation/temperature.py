"""The temperature that minimises the nll, and the nats it saves.

``nll(T) = −z_target / T + log Σ_w exp(z_w / T)`` (Guo et al. 2017, sect. 4.2) is convex in 1/T, so
its minimum is found by bracketing alone; over- or underconfidence alone is corrected by it.

Axes: T temperatures, M tokens, B rows of a block, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.results.measurement import Measurement
from kullback.uncertainty.intervals import mean_with_interval

__all__ = ["TemperatureFit", "fit_temperature", "tempered_nll"]

# Temperatures to a call: the logits are computed once for all of them.
GRID = 9
# Logits that are whole in memory at a time.
BLOCK_BYTES = 32 << 20
# The bracket of log T at which a parabola takes over; its error in log T is then below 1e-5.
NARROW = 0.03


@dataclass(frozen=True)
class TemperatureFit:
    """The best temperature and what it brings."""

    temperature: float
    """Above 1: the model is overconfident and gains from softer probabilities."""
    saved: Measurement
    """nll at temperature 1 minus that at the best, nats/token; on the tokens it was fitted to."""
    at_limit: bool
    """Whether the best is at an end of the range that was searched."""
    calls: int


def fit_temperature(
    evaluate: Callable[[Float[np.ndarray, "T"]], Float[np.ndarray, "T M"]],
    document_M: Int[np.ndarray, "M"] | None,
    low: float = 0.25,
    high: float = 4.0,
) -> TemperatureFit:
    """The temperature in [low, high] with the smallest mean nll, and the nats that it saves.

    `evaluate` gives the nll of each token at each of up to 9 temperatures; it is called about four
    times.  The savings have the interval of a paired difference, clustered by `document_M` as in
    `mean_with_interval`; it does not know that T was fitted to the same tokens, which makes the
    savings look larger by about 1/(2 n_effective) nats and matters only where they are as small.

    Raises `InvalidValueError` for a range that is not positive or does not hold 1, or a mean that
    is not finite at every temperature.

    >>> logits = np.array([[2.0, 0.0]] * 4)  # says 88 %, is right 3 times of 4
    >>> target = np.array([0, 0, 0, 1])
    >>> def nll(T):
    ...     scaled = logits / T[:, None, None]
    ...     chosen = scaled[:, np.arange(4), target]
    ...     return np.logaddexp.reduce(scaled, axis=2) - chosen
    >>> round(fit_temperature(nll, None).temperature, 4)  # 2 / log 3
    1.8205
    """
    if not 0 < low < 1 < high < math.inf:
        raise InvalidValueError(
            f"low, high = {low}, {high}: give temperatures with 0 < low < 1 < high"
        )
    left, right = math.log(low), math.log(high)
    calls = 0
    while True:
        log_T = np.linspace(left, right, GRID)
        mean_T = evaluate(np.exp(log_T)).mean(axis=1, dtype=np.float64)
        calls += 1
        if not np.isfinite(mean_T).all():
            worst = int(np.flatnonzero(~np.isfinite(mean_T))[0])
            raise InvalidValueError(
                f"the mean nll at temperature {math.exp(log_T[worst]):.4g} is {mean_T[worst]}: a "
                "target with probability 0 has no best temperature"
            )
        best = int(mean_T.argmin())
        if right - left <= NARROW:
            break
        left, right = log_T[max(best - 1, 0)], log_T[min(best + 1, GRID - 1)]
    temperature = math.exp(_vertex(log_T, mean_T, best))
    final = evaluate(np.array([1.0, temperature]))
    saved = mean_with_interval(final[0] - final[1], document_M, "nats/token")
    edge = math.isclose(temperature, low) or math.isclose(temperature, high)
    return TemperatureFit(temperature, saved, edge, calls + 1)


def _vertex(log_T: Float[np.ndarray, "T"], mean_T: Float[np.ndarray, "T"], best: int) -> float:
    """Where the parabola through the best point and its neighbours is lowest."""
    # Over the whole grid by least squares: neighbours alone would differ by rounding only.
    centre, width = float(log_T.mean()), float(log_T[-1] - log_T[0]) / 2
    curvature, slope, _ = np.polyfit((log_T - centre) / width, mean_T - mean_T[best], 2)
    if not curvature > 0:
        return float(log_T[best])
    return centre + width * float(np.clip(-slope / (2 * curvature), -1.0, 1.0))


@torch.inference_mode()
def tempered_nll(
    predictions: Predictions, targets_M: Int[Tensor, "M"], temperature_T: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "T M"]:
    """The nll of each target at each temperature, in nats; the logits are made once for all.

    >>> from kullback.predictions.base import DensePredictions
    >>> logits = DensePredictions(torch.tensor([[0.0, 0.0, 3.0]]))
    >>> tempered_nll(logits, torch.tensor([0]), np.array([1.0, 1e6])).round(3).tolist()
    [[3.095], [1.099]]
    """
    M = len(predictions)
    nll_TM = np.empty((len(temperature_T), M))
    rows = max(1, BLOCK_BYTES // (4 * predictions.vocabulary_size))
    for start in range(0, M, rows):
        part = slice(start, min(start + rows, M))
        logits_BV = predictions.logits(part)
        target_B1 = targets_M[part, None].to(logits_BV.device)
        # Below the target's logit: what is exponentiated is at T = 1 exact where it matters.
        logits_BV -= logits_BV.gather(1, target_B1)
        scaled_BV = torch.empty_like(logits_BV)
        for i, temperature in enumerate(temperature_T.tolist()):
            torch.div(logits_BV, temperature, out=scaled_BV)
            nll_TM[i, part] = torch.logsumexp(scaled_BV, dim=1).double().cpu().numpy()
    return nll_TM
