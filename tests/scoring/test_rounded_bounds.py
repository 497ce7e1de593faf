"""Bounds of a KL between rounded and clipped rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.predictions.rounded import RoundedRows
from kullback.scoring.rounded_bounds import rounded_kl_bounds

V, B = 200, 40


def rows(seed: int, scale: float = 4.0) -> torch.Tensor:
    """Random log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(B, V, generator=generator, dtype=torch.float64) * scale).log_softmax(1)


def stored(log_p: torch.Tensor, rounding: float, clip: float | None = None) -> RoundedRows:
    """The rows moved by at most `rounding`, and clipped `clip` below the largest."""
    generator = torch.Generator().manual_seed(9)
    moved = log_p + rounding * (2 * torch.rand(log_p.shape, generator=generator) - 1)
    clipped = None
    if clip is not None:
        limit = log_p.amax(dim=1, keepdim=True) - clip
        clipped = log_p < limit
        moved = torch.where(clipped, limit, moved)
    return RoundedRows(moved, torch.full((B,), rounding, dtype=torch.float64), clipped)


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> np.ndarray:
    """The KL of each row."""
    return (log_p.exp() * (log_p - log_q)).sum(1).numpy()


@pytest.mark.parametrize("clip", [None, 4.0, 10.0])
@pytest.mark.parametrize("rounding", [0.0, 1e-4, 0.05])
@pytest.mark.parametrize("both", [False, True])
def test_the_kl_is_between_its_bounds(clip: float | None, rounding: float, both: bool) -> None:
    """The KL of the true rows is between the bounds of the stored ones."""
    log_p, log_q = rows(0), (rows(0) + 0.2 * rows(1)).log_softmax(1)
    p = stored(log_p, rounding, clip)
    q = stored(log_q, rounding) if both else RoundedRows.exactly(log_q)
    lower, upper = (bound.numpy() for bound in rounded_kl_bounds(p, q))
    truth = kl(log_p, log_q)
    assert (lower <= truth + 1e-12).all()
    assert (truth <= upper + 1e-12).all()
    assert np.isfinite(upper).all()
    if rounding == 0 and clip is None:
        np.testing.assert_allclose(lower, truth, rtol=1e-9)
        np.testing.assert_allclose(upper, truth, rtol=1e-9)
    if rounding == 1e-4 and clip is None:
        assert (upper - lower).max() < 2e-3 * truth.max()


def test_the_upper_bound_is_near_the_worst_distribution() -> None:
    """With the clipped mass where the candidate has least, the KL nearly reaches the bound."""
    log_p, log_q = rows(0), (rows(0) + 0.2 * rows(1)).log_softmax(1)
    p = stored(log_p, 0.0, 6.0)
    assert p.clipped_BV is not None
    _, upper = rounded_kl_bounds(p, RoundedRows.exactly(log_q))
    worst = torch.where(p.clipped_BV, -torch.inf, log_p)
    for row in range(B):
        rest = 1 - worst[row].exp().sum()
        limit = p.log_p_BV[row][p.clipped_BV[row]].max().exp()
        for token in log_q[row].argsort():
            if p.clipped_BV[row, token] and rest > 0:
                worst[row, token] = torch.minimum(rest, limit).log()
                rest = rest - limit
    at_worst = (worst.exp() * torch.where(worst == -torch.inf, 0, worst - log_q)).sum(1).numpy()
    assert (at_worst <= upper.numpy() + 1e-12).all()
    assert (upper.numpy() - at_worst).mean() < 0.2 * at_worst.mean()


def test_a_clipped_candidate_has_no_upper_bound() -> None:
    """Its clipped probabilities may be 0."""
    log_p = rows(0)
    lower, upper = rounded_kl_bounds(RoundedRows.exactly(log_p), stored(log_p, 0.0, 6.0))
    assert lower.max() < 1e-15
    assert torch.isinf(upper).all()


def test_a_model_that_excludes_a_token_has_an_infinite_kl() -> None:
    """-inf of a known token, and a NaN that is refused."""
    log_q = rows(1)
    log_q[:, 3] = -torch.inf
    lower, upper = rounded_kl_bounds(stored(rows(0), 1e-4, 30.0), RoundedRows.exactly(log_q))
    assert torch.isinf(lower).all()
    assert torch.isinf(upper).all()
    log_q[2, 5] = torch.nan
    with pytest.raises(InvalidValueError, match="row 7 "):
        RoundedRows.exactly(log_q, first_row=5)
