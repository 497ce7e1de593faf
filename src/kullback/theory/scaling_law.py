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
LEVEL = 0.95


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
    """Whether the interval of E is narrower than the excess of the last rung over E.

    Without the error of the validation sample, which shifts E and the losses alike.
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
        damped = normal_B33 + np.eye(3) * (damping_B[:, None] * (diagonal_B3 + 1e-12))[:, None, :]
        step_B3 = np.clip(-np.linalg.solve(damped, gradient_B3[..., None])[..., 0], -2.0, 2.0)
        new_B3 = theta_B3 + step_B3
        new_B3[:, 2] = np.clip(new_B3[:, 2], *EXPONENTS)
        new_cost_B = _cost(new_B3, z_R, loss_BR, sigma_BR)
        better_B = new_cost_B <= cost_B
        theta_B3 = np.where(better_B[:, None], new_B3, theta_B3)
        converged = better_B & (cost_B - new_cost_B <= 1e-13 * (1 + cost_B))
        cost_B = np.where(better_B, new_cost_B, cost_B)
        damping_B = np.where(better_B, damping_B / 5, np.minimum(damping_B * 8, 1e12))
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
) -> ScalingLaw:
    """The law of the losses of a ladder, with bootstrap intervals.

    `samples_BR` are the losses on resampled validation data, the same resample for all rungs; None
    where the losses are exact.  Each replicate adds noise of training to the fitted curve, in
    proportion to the excess over E: its size is that of the residuals, drawn anew for each
    replicate from its distribution (R − 3 degrees of freedom), so that few rungs give wide
    intervals.

    Raises `InvalidValueError` for fewer than four rungs, and for numbers that are not positive.
    """
    x_R, loss_R = np.asarray(x_R, dtype=np.float64), np.asarray(loss_R, dtype=np.float64)
    _check(x_R, loss_R)
    error_R, law_3 = _weighted(x_R, loss_R)
    excess_R = law_3[1] * x_R ** -law_3[2]
    curve_R = law_3[0] + excess_R
    degrees = len(x_R) - 3
    rng = np.random.default_rng(seed)
    noise = float(np.sqrt(np.sum(((loss_R - curve_R) / excess_R) ** 2) / degrees))
    shift_BR = np.zeros((replicates, len(x_R)))
    if samples_BR is not None:
        rows = rng.integers(len(samples_BR), size=replicates)
        shift_BR = samples_BR[rows] - loss_R
    size_B = noise * np.sqrt(degrees / rng.chisquare(degrees, replicates))
    drawn_BR = curve_R + excess_R * size_B[:, None] * rng.standard_normal(shift_BR.shape) + shift_BR
    # Losses are positive; where the noise is that large, the interval begins at next to nothing.
    drawn_BR = np.maximum(drawn_BR, 1e-3 * loss_R.min())
    laws_B3 = fit_scaling_laws(x_R, drawn_BR, error_R)
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = map(float, np.quantile(laws_B3[:, 0], tails))
    steep, flat = map(float, np.quantile(laws_B3[:, 2], tails))
    last = int(np.argmax(x_R))
    below, above = np.quantile(laws_B3[:, 0] - shift_BR[:, last], tails)
    return ScalingLaw(
        floor=float(law_3[0]),
        scale=float(law_3[1]),
        exponent=float(law_3[2]),
        floor_interval=(low, high),
        exponent_interval=(steep, flat),
        noise=noise,
        identified=bool(above - below < excess_R[last]),
    )


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
    x_R: Float64[np.ndarray, "R"], loss_R: Float64[np.ndarray, "R"]
) -> tuple[Float64[np.ndarray, "R"], Float64[np.ndarray, "3"]]:
    """Errors in proportion to the fitted excess, and the fit with them; a few rounds of both."""
    error_R = loss_R - 0.9 * loss_R.min()
    law_3 = fit_scaling_laws(x_R, loss_R[None], error_R)[0]
    for _ in range(4):
        excess_R = law_3[1] * x_R ** -law_3[2]
        relative_R = (loss_R - law_3[0] - excess_R) / excess_R
        size = max(float(np.sqrt(np.sum(relative_R**2) / (len(x_R) - 3))), 1e-9)
        error_R = size * excess_R
        law_3 = fit_scaling_laws(x_R, loss_R[None], error_R)[0]
    return error_R, law_3


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
