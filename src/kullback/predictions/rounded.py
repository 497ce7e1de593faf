"""Rows of log-probabilities that were rounded and clipped when they were stored.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from kullback.predictions.checks import check_rows

__all__ = ["RoundedRows"]


@dataclass(frozen=True, eq=False)
class RoundedRows:
    """Log-probabilities in float64, each to within its row's rounding; nats.

    They are those of a distribution that sums to 1, which these numbers do not.
    """

    log_p_BV: Float[Tensor, "B V"]
    rounding_B: Float[Tensor, "B"]
    """The largest difference from the true logarithm; 0 where the numbers are exact."""
    clipped_BV: Bool[Tensor, "B V"] | None = None
    """Where the true logarithm is at most this one; None where that is nowhere."""

    @classmethod
    def exactly(cls, logits_BV: Float[Tensor, "B V"], first_row: int = 0) -> RoundedRows:
        """The rows of a model, which are exact; `InvalidValueError` for NaN and infinity.

        >>> import torch
        >>> RoundedRows.exactly(torch.zeros(1, 2)).log_p_BV.exp().tolist()
        [[0.5, 0.5]]
        """
        logits_BV = logits_BV.double()
        check_rows(logits_BV.amax(dim=1), first_row)
        return cls(logits_BV.log_softmax(dim=1), logits_BV.new_zeros(len(logits_BV)))
