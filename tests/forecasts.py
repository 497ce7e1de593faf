"""Forecasts and outcomes whose calibration is known."""

from __future__ import annotations

import numpy as np


def outcomes(
    seed: int, bend: float, documents: int, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forecasts, outcomes with P(1 | f) = f^(1 + bend) on average, and documents of 60 tokens.

    Documents differ: each is luckier or unluckier than its forecasts by up to `shift`.
    """
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(documents), 60)
    forecast = rng.beta(2, 1.5, len(ids))
    true = forecast ** (1 + bend)
    true += rng.choice([-shift, shift], documents)[ids] * np.minimum(true, 1 - true)
    return forecast, rng.random(len(ids)) < true, ids
