"""Predictions: three forms, one interface."""

from __future__ import annotations

import pytest
import torch

from kullback.predictions.base import (
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
    weights_fingerprint,
)

ROWS, WORDS, WIDTH = 7, 11, 4


def predictions(kind: str) -> tuple[Predictions, torch.Tensor]:
    """Predictions of a kind, and their logits written out in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(WORDS, generator=generator, dtype=torch.float64)
    logits = 3.0 * torch.tanh(0.5 * (hidden @ weight.T + bias) / 3.0)
    made: dict[str, Predictions] = {
        "factored": FactoredPredictions(hidden, Head(weight, bias, scale=0.5, softcap=3.0)),
        "dense": DensePredictions(logits.clone()),
        "computed": ComputedPredictions(torch.arange(ROWS), WORDS, lambda rows: logits[rows]),
    }
    return made[kind], logits


KINDS = pytest.mark.parametrize("kind", ["factored", "dense", "computed"])


@KINDS
@pytest.mark.parametrize("rows", [slice(0, ROWS), slice(2, 5), slice(3, 3)])
@pytest.mark.parametrize("words", [slice(None), slice(4, 9)])
def test_blocks_are_parts_of_the_whole(kind, rows, words):
    """Any block of rows and words equals that part of the logits written out."""
    found, logits = predictions(kind)
    assert (len(found), found.vocabulary_size) == (ROWS, WORDS)
    torch.testing.assert_close(found.logits(rows, words), logits[rows, words])


@KINDS
def test_selected_rows_come_in_the_order_asked_for(kind):
    """Selecting rows, and selecting of what was selected, keeps order and repetition."""
    found, logits = predictions(kind)
    some = found.select(torch.tensor([5, 0, 5, 2]))
    assert len(some) == 4
    torch.testing.assert_close(some.logits(slice(0, 4)), logits[[5, 0, 5, 2]])
    again = some.select(torch.tensor([3, 0]))
    torch.testing.assert_close(again.logits(slice(0, 2)), logits[[2, 5]])


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_a_block_may_be_overwritten(kind):
    """What a caller does to a block of logits does not change the predictions."""
    found, logits = predictions(kind)
    found.logits(slice(0, ROWS)).zero_()
    torch.testing.assert_close(found.logits(slice(0, ROWS)), logits)


def test_a_plain_head_is_one_matmul():
    """Without bias, scale and soft-cap the logits are hidden @ weight.T."""
    hidden, weight = torch.randn(ROWS, WIDTH), torch.randn(WORDS, WIDTH)
    torch.testing.assert_close(Head(weight).logits(hidden), hidden @ weight.T)


def test_a_narrow_head_is_widened_to_the_hidden_states():
    """A 16-bit weight and bias with float32 states give float32 logits of the same numbers."""
    hidden = torch.randn(ROWS, WIDTH)
    weight, bias = torch.randn(WORDS, WIDTH).bfloat16(), torch.randn(WORDS).bfloat16()
    found = Head(weight, bias).logits(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, hidden @ weight.float().T + bias.float())


def test_a_softcap_bounds_every_logit():
    """With a soft-cap c no logit lies outside of [-c, c], however large the hidden states."""
    hidden, weight = 1e4 * torch.randn(ROWS, WIDTH), torch.randn(WORDS, WIDTH)
    assert float(Head(weight, softcap=30.0).logits(hidden).abs().max()) <= 30.0


def test_tied_weights_are_told_from_equal_ones():
    """Two names for one tensor and two equal tensors have different fingerprints."""
    weight = torch.ones(3, 2)
    tied = weights_fingerprint({"in": weight, "out": weight})
    assert tied == weights_fingerprint({"out": weight, "in": weight})
    assert tied != weights_fingerprint({"in": weight, "out": weight.clone()})
