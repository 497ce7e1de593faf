"""Tests of kullback.scoring.one_device, with the meta device in place of an accelerator."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from kullback.predictions.base import (
    ALL,
    ComputedPredictions,
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
    StoredHead,
)
from kullback.scoring import divergence
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.one_device import common_device, on_device

META = torch.device("meta")
LOGITS = torch.randn(6, 11, generator=torch.Generator().manual_seed(1))
HEAD = Head(torch.ones(11, 4), bias_V=torch.ones(11))
ON_CPU = [
    DensePredictions(LOGITS),
    FactoredPredictions(torch.ones(6, 4), HEAD),
    ComputedPredictions(torch.arange(6), 11, lambda rows_B: LOGITS[rows_B]),
]


@pytest.mark.parametrize("predictions", ON_CPU, ids=lambda predictions: type(predictions).__name__)
def test_every_kind_is_moved(predictions: Predictions) -> None:
    """Logits of all and of selected rows are on the device; shapes stay."""
    moved = on_device(predictions, META)
    assert (len(moved), moved.vocabulary_size) == (6, 11)
    assert moved.logits(slice(0, 2)).device == META
    chosen = moved.select(torch.tensor([3, 1]))
    assert chosen.logits(slice(0, 2), slice(4, 9)).shape == (2, 5)
    assert chosen.logits(slice(0, 2)).device == META
    assert on_device(predictions, torch.device("cpu")) is predictions


def test_the_head_of_a_recording_is_moved_once() -> None:
    """Every batch multiplies with the same copy; a live head may change and is moved anew."""
    stored = StoredHead(torch.ones(11, 4), torch.ones(11), 0.5, product_dtype=torch.bfloat16)
    for head, is_kept in ((stored, True), (HEAD, False)):
        moved = [on_device(FactoredPredictions(torch.ones(6, 4), head), META) for _ in range(2)]
        first, second = (part.head for part in moved if isinstance(part, FactoredPredictions))
        assert (first.weight_VD is second.weight_VD) == is_kept
        assert (first.scale, first.product_dtype) == (head.scale, head.product_dtype)


def test_the_accelerator_is_taken_wherever_it_is() -> None:
    """As the reference's device or the candidate's; the CPU only where both are there."""
    there = DensePredictions(LOGITS.to(META))
    assert common_device(there, ON_CPU[0]) == common_device(ON_CPU[0], there) == META
    assert common_device(*ON_CPU) == torch.device("cpu")


@dataclass
class _Elsewhere:
    """Predictions of which the test says where they are."""

    logits_MV: Tensor
    moves: list[torch.device] = field(default_factory=list)
    vocabulary_size: int = 11

    def __len__(self) -> int:
        return len(self.logits_MV)

    def logits(self, rows: slice, columns: slice = ALL) -> Tensor:
        return self.logits_MV[rows, columns].clone()

    def select(self, rows_M: Tensor) -> Predictions:
        return _Elsewhere(self.logits_MV[rows_M])


def test_both_models_are_moved_before_they_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums see only predictions that were moved to the common device."""
    moved = []

    def move(predictions: Predictions, device: torch.device) -> Predictions:
        moved.append((predictions, device))
        return DensePredictions(LOGITS)

    monkeypatch.setattr(divergence, "on_device", move)
    reference, candidate = _Elsewhere(LOGITS), _Elsewhere(-LOGITS)
    statistics = divergence_statistics(reference, candidate, torch.zeros(6, dtype=torch.int64))
    assert moved == [(reference, torch.device("cpu")), (candidate, torch.device("cpu"))]
    assert (statistics.kl == 0).all()
