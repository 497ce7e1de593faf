"""Two models' predictions on one device, where they are computed on two.

A recording and llama.cpp give their predictions on the CPU, and a `transformers` model may be on an
accelerator: what is on the CPU is moved there, a window at a time.

Axes: M rows, B rows that are asked for, W columns of the vocabulary V.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.predictions.base import ALL, DensePredictions, FactoredPredictions, Predictions
from kullback.scoring.logit_blocks import device_of, has_float32_logits

__all__ = ["common_device", "on_device"]


def common_device(*models: Predictions) -> torch.device:
    """The first accelerator that one of them is on, or the CPU; all must have a row.

    Apple's GPUs have no float64: there, logits in float64 are compared on the CPU.
    """
    devices = [device_of(model) for model in models]
    device = next((device for device in devices if device.type != "cpu"), devices[0])
    if device.type == "mps" and not all(has_float32_logits(model) for model in models):
        return torch.device("cpu")
    return device


def on_device(predictions: Predictions, device: torch.device) -> Predictions:
    """The predictions with their logits on `device`; themselves where they are there."""
    if device_of(predictions) == device:
        return predictions
    if isinstance(predictions, DensePredictions):
        return DensePredictions(predictions.logits_MV.to(device))
    if isinstance(predictions, FactoredPredictions):
        head = predictions.head.on(device)
        return FactoredPredictions(predictions.hidden_MD.to(device), head)
    return _Moved(predictions, device)


@dataclass(frozen=True, eq=False)
class _Moved:
    """Predictions whose logits are computed on one device and moved to another."""

    predictions: Predictions
    device: torch.device

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.predictions.vocabulary_size

    def logits(self, rows: slice, columns: slice = ALL) -> Float[Tensor, "B W"]:
        """The logits, moved."""
        return self.predictions.logits(rows, columns).to(self.device)

    def select(self, rows_M: Int[Tensor, "M"]) -> Predictions:
        """Some of the rows."""
        return _Moved(self.predictions.select(rows_M.cpu()), self.device)
