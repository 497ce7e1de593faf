"""The three forms of predictions and their common interface."""

from __future__ import annotations

import pytest
import torch

from kullback.predictions.base import (
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
)

ROWS, COLUMNS, WIDTH = 7, 11, 4


def predictions(kind: str) -> tuple[Predictions, torch.Tensor]:
    """Predictions of a kind, and their logits written out in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(COLUMNS, WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(COLUMNS, generator=generator, dtype=torch.float64)
    logits = 3.0 * torch.tanh(0.5 * (hidden @ weight.T + bias) / 3.0)
    forms: dict[str, Predictions] = {
        "factored": FactoredPredictions(hidden, Head(weight, bias, scale=0.5, softcap=3.0)),
        "dense": DensePredictions(logits.clone()),
        "computed": ComputedPredictions(torch.arange(ROWS), COLUMNS, lambda rows: logits[rows]),
    }
    return forms[kind], logits


KINDS = pytest.mark.parametrize("kind", ["factored", "dense", "computed"])


@KINDS
@pytest.mark.parametrize("rows", [slice(0, ROWS), slice(2, 5), slice(3, 3)])
@pytest.mark.parametrize("columns", [slice(None), slice(4, 9)])
def test_blocks_are_parts_of_the_whole(kind, rows, columns):
    """Any block of rows and columns equals that part of the logits written out."""
    made, logits = predictions(kind)
    assert (len(made), made.vocabulary_size) == (ROWS, COLUMNS)
    torch.testing.assert_close(made.logits(rows, columns), logits[rows, columns])


@KINDS
def test_selected_rows_come_in_the_order_asked_for(kind):
    """Selecting rows, and selecting of what was selected, keeps order and repetition."""
    made, logits = predictions(kind)
    some = made.select(torch.tensor([5, 0, 5, 2]))
    assert len(some) == 4
    torch.testing.assert_close(some.logits(slice(0, 4)), logits[[5, 0, 5, 2]])
    again = some.select(torch.tensor([3, 0]))
    torch.testing.assert_close(again.logits(slice(0, 2)), logits[[2, 5]])


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_a_block_may_be_overwritten(kind):
    """What a caller does to a block of logits does not change the predictions."""
    made, logits = predictions(kind)
    made.logits(slice(0, ROWS)).zero_()
    torch.testing.assert_close(made.logits(slice(0, ROWS)), logits)


def test_a_plain_head_is_one_matmul():
    """Without bias, scale and soft-cap the logits are hidden @ weight.T."""
    hidden, weight = torch.randn(ROWS, WIDTH), torch.randn(COLUMNS, WIDTH)
    torch.testing.assert_close(Head(weight).logits(hidden), hidden @ weight.T)


def test_a_narrow_head_is_widened_to_the_hidden_states():
    """A 16-bit weight and bias with float32 states give float32 logits of the same numbers."""
    hidden = torch.randn(ROWS, WIDTH)
    weight, bias = torch.randn(COLUMNS, WIDTH).bfloat16(), torch.randn(COLUMNS).bfloat16()
    logits = Head(weight, bias).logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden @ weight.float().T + bias.float())


def test_a_softcap_bounds_every_logit():
    """With a soft-cap c no logit is outside [-c, c], however large the hidden states."""
    hidden, weight = 1e4 * torch.randn(ROWS, WIDTH), torch.randn(COLUMNS, WIDTH)
    assert float(Head(weight, softcap=30.0).logits(hidden).abs().max()) <= 30.0
