"""Checks that rows of predictions are distributions, and that targets fit them.

Axes: M rows of the predictions, B of them, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError

__all__ = ["check_rows", "check_targets"]


def check_rows(
    largest_B: Float[Tensor, "B"],
    first_row: int,
    owner: str = "the predictions",
    numbers: str = "logits",
) -> None:
    """Raise `InvalidValueError` naming the first row that is no distribution.

    `largest_B` is the largest logit of each row, or its log-sum-exp: NaN where a logit is NaN, inf
    where one is +inf, and -inf where all are.  `first_row` is the number that the message gives to
    the first row; `owner` and `numbers` say whose numbers they are, and which.
    """
    bad_B = ~torch.isfinite(largest_B)
    if bool(bad_B.any()):
        row = int(bad_B.nonzero()[0, 0])
        value = float(largest_B[row])
        content = "only -inf" if value == -torch.inf else "+inf" if value == torch.inf else "NaN"
        raise InvalidValueError(
            f"row {first_row + row} of {owner}: its {numbers} contain {content}; the model is "
            "damaged, or its arithmetic overflows (float16?): try float32"
        )


def check_targets(targets_M: Int[Tensor, "M"], rows: int, vocabulary_size: int) -> None:
    """Raise `InvalidValueError` unless `targets_M` gives one token id for each row."""
    if targets_M.shape != (rows,):
        raise InvalidValueError(
            f"targets_M has shape {tuple(targets_M.shape)}; it must be ({rows},), one token for "
            "each row of the predictions"
        )
    bad_M = (targets_M < 0) | (targets_M >= vocabulary_size)
    if bool(bad_M.any()):
        row = int(bad_M.nonzero()[0, 0])
        raise InvalidValueError(
            f"targets_M[{row}] is {int(targets_M[row])}: it must be in [0, {vocabulary_size}); "
            "does the tokenizer belong to this model?"
        )
