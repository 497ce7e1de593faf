"""Scaling laws: the fit of L(x) = E + A·x^(−α) to the losses of a ladder, and the interval of E.

x is the number of parameters or of training tokens, L the loss in nats/token, E the irreducible
loss: on a source the fitted E can be held against the exact entropy.

The fit minimises the sum of Huber's function of ``log(L / (E + A·x^(−α)))`` over its standard error
(Hoffmann et al. 2022, appendix D.3, with the weights that they leave out): for each exponent of a
grid E and A follow from non-negative linear least squares, and the best start is refined by
Levenberg-Marquardt steps in (log E, log A, α), for all replicates of the bootstrap at once.

Axes: R rungs of the ladder, B replicates, K exponents of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from kullback.errors import InvalidValueError

__all__ = ["FEWEST_RUNGS", "ScalingLaw", "fit_scaling_law", "fit_scaling_laws"]

#: Three numbers are fitted; with as many rungs the residuals say nothing of the noise.
FEWEST_RUNGS = 4
# Of the fitted exponent; published ones are between 0.05 and 1.
EXPONENTS = 0.01, 5.0
# Where Huber's function becomes linear, in standard errors: 95 % efficient for normal errors.
HUBER = 1.345
STEPS = 60
#: Rungs besides the first one, for which their own interval is computed.
FEWEST_AFTER_THE_FIRST = 6
LEVEL = 0.95
# The widest interval of E that is identified, over what the losses of the ladder fall by.
NARROW = 0.25


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law; `floor` is E in nats/token, intervals are those of the bootstrap at 95 %."""

    floor: float
    scale: float
    """A: the excess at x = 1, in nats/token."""
    exponent: float
    floor_interval: tuple[float, float]
    exponent_interval: tuple[float, float]
    noise: float
    """Standard deviation of log(excess) about the curve that the residuals show; 0 if none."""
    identified: bool
    """Whether the losses bend towards E, and in a way that can last.

    The interval of E is narrower than a quarter of what the losses fall by, without the error of
    the validation sample, which shifts E and the losses alike; and the exponent may be 1 or less.
    """
    transient: bool
    """Whether the interval of the exponent is above 1.

    Where the next token is random, the excess of no estimator falls faster than 1/x for long, since
    its regret grows with log x (Rissanen 1986).  The law of such
    rungs ends beyond the ladder, and so its E is not the irreducible loss.
    """

    def loss(self, x: float) -> float:
        """E + A·x^(−α), nats/token."""
        return float(self.floor + self.scale * x**-self.exponent)


def fit_scaling_laws(
    x_R: Float64[np.ndarray, "R"],
    loss_BR: Float64[np.ndarray, "B R"],
    error_R: Float64[np.ndarray, "R"],
) -> Float64[np.ndarray, "B 3"]:
    """E, A and α of each row of losses, of which `error_R` are the standard errors in nats/token.

    The scale of the errors matters only for Huber's function.
    """
    unit = float(np.exp(np.log(x_R).mean()))
    z_R = np.log(x_R / unit)
    theta_B3 = _start(z_R, loss_BR, error_R)
    sigma_BR = error_R / loss_BR
    damping_B = np.full(len(loss_BR), 1e-3)
    cost_B = _cost(theta_B3, z_R, loss_BR, sigma_BR)
    for _ in range(STEPS):
        r_BR, jacobian_BR3 = _residuals(theta_B3, z_R, loss_BR, sigma_BR)
        weight_BR = np.minimum(1.0, HUBER / np.maximum(np.abs(r_BR), 1e-300))
        normal_B33 = np.einsum("bri,br,brj->bij", jacobian_BR3, weight_BR, jacobian_BR3)
        gradient_B3 = np.einsum("bri,br,br->bi", jacobian_BR3, weight_BR, r_BR)
        diagonal_B3 = np.einsum("bii->bi", normal_B33)
        # Where the losses do not fall, A is next to nothing and so are two of the derivatives.
        least_B1 = 1e-9 * (1 + diagonal_B3.max(axis=1, keepdims=True))
        added_B3 = damping_B[:, None] * (diagonal_B3 + least_B1)
        damped = normal_B33 + np.eye(3) * added_B3[:, None, :]
        step_B3 = np.clip(-np.linalg.solve(damped, gradient_B3[..., None])[..., 0], -2.0, 2.0)
        new_B3 = theta_B3 + step_B3
        new_B3[:, 2] = np.clip(new_B3[:, 2], *EXPONENTS)
        new_cost_B = _cost(new_B3, z_R, loss_BR, sigma_BR)
        better_B = new_cost_B <= cost_B
        theta_B3 = np.where(better_B[:, None], new_B3, theta_B3)
        converged = better_B & (cost_B - new_cost_B <= 1e-13 * (1 + cost_B))
        cost_B = np.where(better_B, new_cost_B, cost_B)
        damping_B = np.where(
            better_B, np.maximum(damping_B / 5, 1e-9), np.minimum(damping_B * 8, 1e12)
        )
        if np.all(converged | (damping_B >= 1e12)):
            break
    floor_B, at_unit_B, exponent_B = np.exp(theta_B3[:, 0]), np.exp(theta_B3[:, 1]), theta_B3[:, 2]
    return np.stack([floor_B, at_unit_B * unit**exponent_B, exponent_B], axis=1)


def fit_scaling_law(
    x_R: Float64[np.ndarray, "R"],
    loss_R: Float64[np.ndarray, "R"],
    samples_BR: Float64[np.ndarray, "B R"] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    of_data: bool = False,
) -> ScalingLaw:
    """The law of the losses of a ladder, with bootstrap intervals.

    `samples_BR` are the losses on resampled validation data, the same resample for all rungs; None
    where the losses are exact.  Each replicate adds noise of training to the fitted curve, in
    proportion to the excess over E: its size is that of the residuals, beyond the error of the
    sample, drawn anew for each replicate from its distribution (R − 3 degrees of freedom), so that
    few rungs give wide intervals.

    No law need hold for all rungs, nor beyond them, and two departures are in the interval of E.
    First rungs may be too short for the law of the others: it contains the interval of the ladder
    without its first rung, where that has six or more besides.  And where x is data (`of_data`),
    the exponent of a model with finitely many parameters becomes 1 in the end: it contains the
    interval of the E that the last four rungs have with that exponent.

    Raises `InvalidValueError` for fewer than four rungs, and for numbers that are not positive.
    """
    x_R, loss_R = np.asarray(x_R, dtype=np.float64), np.asarray(loss_R, dtype=np.float64)
    _check(x_R, loss_R)
    rng = np.random.default_rng(seed)
    shift_BR = np.zeros((replicates, len(x_R)))
    if samples_BR is not None:
        shift_BR = samples_BR[rng.integers(len(samples_BR), size=replicates)] - loss_R
    laws = _replicates(x_R, loss_R, shift_BR, rng)
    floors, exponents = [laws.floors_B], [laws.exponents_B]
    later_R = x_R > x_R.min()
    if len(np.unique(x_R[later_R])) >= FEWEST_AFTER_THE_FIRST:
        rest = _replicates(x_R[later_R], loss_R[later_R], shift_BR[:, later_R], rng)
        floors.append(rest.floors_B)
        exponents.append(rest.exponents_B)
    if of_data:
        floors.append(_floors_at_exponent_1(x_R, laws))
    common_B = shift_BR[:, int(np.argmax(x_R))]
    low, high = _hull(floors)
    lowest, highest = _hull(exponents)
    below, above = _hull([floors_B - common_B for floors_B in floors])
    return ScalingLaw(
        floor=float(laws.law_3[0]),
        scale=float(laws.law_3[1]),
        exponent=float(laws.law_3[2]),
        floor_interval=(low, high),
        exponent_interval=(lowest, highest),
        noise=laws.noise,
        identified=bool(above - below < NARROW * np.ptp(laws.excess_R) and lowest <= 1.0),
        transient=lowest > 1.0,
    )


def _hull(samples: list[Float64[np.ndarray, "B"]]) -> tuple[float, float]:
    """The least interval that contains the central 95 % of each."""
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    ends = np.array([np.quantile(values_B, tails) for values_B in samples])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


class _Replicates(NamedTuple):
    """The fitted law, and those of the replicates of the bootstrap."""

    law_3: Float64[np.ndarray, "3"]
    noise: float
    excess_R: Float64[np.ndarray, "R"]
    error_R: Float64[np.ndarray, "R"]
    drawn_BR: Float64[np.ndarray, "B R"]
    floors_B: Float64[np.ndarray, "B"]
    exponents_B: Float64[np.ndarray, "B"]


def _replicates(
    x_R: Float64[np.ndarray, "R"],
    loss_R: Float64[np.ndarray, "R"],
    shift_BR: Float64[np.ndarray, "B R"],
    rng: np.random.Generator,
) -> _Replicates:
    own_R = (shift_BR - shift_BR.mean(axis=1, keepdims=True)).std(axis=0)
    error_R, law_3, noise = _weighted(x_R, loss_R, own_R)
    excess_R = law_3[1] * x_R ** -law_3[2]
    degrees = len(x_R) - 3
    size_B = noise * np.sqrt(degrees / rng.chisquare(degrees, len(shift_BR)))
    normal_BR = rng.standard_normal(shift_BR.shape)
    drawn_BR = law_3[0] + excess_R * (1 + size_B[:, None] * normal_BR) + shift_BR
    # Losses are positive; where the noise is that large, the interval begins at next to nothing.
    drawn_BR = np.maximum(drawn_BR, 1e-3 * loss_R.min())
    laws_B3 = fit_scaling_laws(x_R, drawn_BR, error_R)
    return _Replicates(law_3, noise, excess_R, error_R, drawn_BR, laws_B3[:, 0], laws_B3[:, 2])


def _floors_at_exponent_1(
    x_R: Float64[np.ndarray, "R"], laws: _Replicates
) -> Float64[np.ndarray, "B"]:
    """The E of each replicate by the line in 1/x through its last rungs."""
    last = np.argsort(x_R, kind="stable")[-FEWEST_RUNGS:]
    weight_R = 1 / laws.error_R[last] ** 2
    weight_R /= weight_R.sum()
    inverse_R = x_R.max() / x_R[last]
    centred_R = inverse_R - weight_R @ inverse_R
    drawn_BR = laws.drawn_BR[:, last]
    slope_B = drawn_BR @ (weight_R * centred_R) / (weight_R @ centred_R**2)
    floors_B = drawn_BR @ weight_R - slope_B * (weight_R @ inverse_R)
    return np.asarray(np.maximum(floors_B, 0.0))


def _check(x_R: Float64[np.ndarray, "R"], loss_R: Float64[np.ndarray, "R"]) -> None:
    if x_R.shape != loss_R.shape or x_R.ndim != 1:
        raise InvalidValueError(
            f"x has the shape {x_R.shape} and loss {loss_R.shape}: give one number of each a rung"
        )
    rungs = len(np.unique(x_R))
    if rungs < FEWEST_RUNGS:
        raise InvalidValueError(
            f"x has {rungs} different rungs: a law of three numbers needs at least {FEWEST_RUNGS}; "
            "train more of them"
        )
    for name, values in (("x", x_R), ("loss", loss_R)):
        bad = np.flatnonzero(~((values > 0) & np.isfinite(values)))
        if len(bad):
            raise InvalidValueError(
                f"{name}[{bad[0]}] is {values[bad[0]]}: it must be positive and finite"
            )


def _weighted(
    x_R: Float64[np.ndarray, "R"],
    loss_R: Float64[np.ndarray, "R"],
    own_R: Float64[np.ndarray, "R"],
) -> tuple[Float64[np.ndarray, "R"], Float64[np.ndarray, "3"], float]:
    """Errors of the losses, the fit with them, and the noise of training; a few rounds of all.

    An error has two parts: noise in proportion to the fitted excess, and that of the sample
    (`own_R`, of each rung by itself).
    """
    error_R = loss_R - 0.9 * loss_R.min()
    law_3 = fit_scaling_laws(x_R, loss_R[None], error_R)[0]
    noise = 0.0
    for _ in range(4):
        excess_R = law_3[1] * x_R ** -law_3[2]
        noise = _noise((loss_R - law_3[0] - excess_R) / excess_R, own_R / excess_R)
        error_R = np.sqrt((max(noise, 1e-9) * excess_R) ** 2 + own_R**2)
        law_3 = fit_scaling_laws(x_R, loss_R[None], error_R)[0]
    return error_R, law_3, noise


def _noise(relative_R: Float64[np.ndarray, "R"], own_R: Float64[np.ndarray, "R"]) -> float:
    """The noise that gives residuals their expected size: R − 3 is the sum of their squares.

    `own_R` is the rest of their error; 0 where that alone explains them.
    """
    degrees = len(relative_R) - 3
    low, high = 0.0, float(np.sqrt(np.sum(relative_R**2) / degrees))
    if high == 0 or (own_R.min() > 0 and np.sum((relative_R / own_R) ** 2) <= degrees):
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if np.sum(relative_R**2 / (middle**2 + own_R**2)) > degrees:
            low = middle
        else:
            high = middle
    return high


def _start(
    z_R: Float64[np.ndarray, "R"],
    loss_BR: Float64[np.ndarray, "B R"],
    error_R: Float64[np.ndarray, "R"],
) -> Float64[np.ndarray, "B 3"]:
    """(log E, log A, α) of the best exponent of a grid, by weighted linear least squares."""
    alpha_K = np.geomspace(0.02, 4.0, 60)
    power_KR = np.exp(-alpha_K[:, None] * z_R)
    weight_R = (1 / error_R**2) / np.sum(1 / error_R**2)
    mean_K = power_KR @ weight_R
    centred_KR = power_KR - mean_K[:, None]
    mean_B = loss_BR @ weight_R
    deviation_BR = loss_BR - mean_B[:, None]
    variance_K = (centred_KR**2) @ weight_R
    slope_BK = np.maximum((deviation_BR * weight_R) @ centred_KR.T / variance_K, 1e-9)
    floor_BK = mean_B[:, None] - slope_BK * mean_K
    # Where the best line has a negative floor: the floor is next to nothing, and A its own optimum.
    through_zero_BK = (loss_BR * weight_R) @ power_KR.T / ((power_KR**2) @ weight_R)
    negative_BK = floor_BK <= 0
    tiny_B1 = 1e-3 * loss_BR.min(axis=1, keepdims=True)
    slope_BK = np.where(negative_BK, through_zero_BK, slope_BK)
    floor_BK = np.where(negative_BK, tiny_B1, floor_BK)
    fitted_BKR = floor_BK[..., None] + slope_BK[..., None] * power_KR
    cost_BK = ((loss_BR[:, None] - fitted_BKR) ** 2) @ weight_R
    best_B = cost_BK.argmin(axis=1)
    rows = np.arange(len(loss_BR))
    return np.stack(
        [np.log(floor_BK[rows, best_B]), np.log(slope_BK[rows, best_B]), alpha_K[best_B]], axis=1
    )


def _residuals(
    theta_B3: Float64[np.ndarray, "B 3"],
    z_R: Float64[np.ndarray, "R"],
    loss_BR: Float64[np.ndarray, "B R"],
    sigma_BR: Float64[np.ndarray, "B R"],
) -> tuple[Float64[np.ndarray, "B R"], Float64[np.ndarray, "B R 3"]]:
    """log(fitted / loss) in standard errors, and its derivatives by log E, log A and α."""
    floor_B1 = np.exp(theta_B3[:, :1])
    excess_BR = np.exp(theta_B3[:, 1:2] - theta_B3[:, 2:] * z_R)
    fitted_BR = floor_B1 + excess_BR
    r_BR = np.log(fitted_BR / loss_BR) / sigma_BR
    share_BR = excess_BR / fitted_BR
    by = np.stack([1 - share_BR, share_BR, -share_BR * z_R], axis=2)
    return r_BR, by / sigma_BR[..., None]


def _cost(
    theta_B3: Float64[np.ndarray, "B 3"],
    z_R: Float64[np.ndarray, "R"],
    loss_BR: Float64[np.ndarray, "B R"],
    sigma_BR: Float64[np.ndarray, "B R"],
) -> Float64[np.ndarray, "B"]:
    """The sum of Huber's function."""
    size_BR = np.abs(_residuals(theta_B3, z_R, loss_BR, sigma_BR)[0])
    huber_BR = np.where(size_BR <= HUBER, size_BR**2 / 2, HUBER * (size_BR - HUBER / 2))
    return np.asarray(huber_BR.sum(axis=1), dtype=np.float64)
