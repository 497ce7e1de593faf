"""The one check of rows and targets that recording and scoring share."""

from __future__ import annotations

import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.predictions.checks import check_rows, check_targets


@pytest.mark.parametrize(
    ("value", "content"), [(torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "only -inf")]
)
def test_the_first_bad_row_is_named(value: float, content: str) -> None:
    """The message names row, owner, numbers and what they contain."""
    largest = torch.tensor([1.0, value, value])
    check_rows(largest[:1], 40)
    with pytest.raises(InvalidValueError, match=f"row 41 of the candidate.* weights .*{content}"):
        check_rows(largest, 40, "the candidate", "weights")


def test_targets_fit_rows_and_vocabulary() -> None:
    """A wrong number of targets, and an id outside the vocabulary, are named."""
    check_targets(torch.tensor([0, 4]), 2, 5)
    with pytest.raises(InvalidValueError, match=r"shape \(2,\).*\(3,\)"):
        check_targets(torch.tensor([0, 4]), 3, 5)
    for token in (5, -1):
        with pytest.raises(InvalidValueError, match=rf"targets_M\[1\] is {token}.*\[0, 5\)"):
            check_targets(torch.tensor([0, token]), 2, 5)
