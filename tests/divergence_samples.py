"""Random rows of two models, as a window of a comparison has them."""

from __future__ import annotations

from operator import attrgetter

import numpy as np

from kullback.comparison.divergence_columns import COLUMNS
from kullback.scoring.divergence import DivergenceStatistics


def random_rows(count: int, seed: int) -> DivergenceStatistics:
    """Rows as a window of `count` tokens has them."""
    random = np.random.default_rng(seed)
    rows = DivergenceStatistics.empty(count)
    for name in COLUMNS:
        values = attrgetter(name)(rows)
        if values.dtype == np.int64:
            values[...] = random.integers(-1, 1 << 20, values.shape)
        else:
            values[...] = random.standard_exponential(values.shape)
    return rows
