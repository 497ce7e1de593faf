"""Tensors that behave as those of an accelerator do where they are mixed with those of a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kullback.evaluation import predictors
from kullback.models.interface import LanguageModel
from kullback.predictions.base import ALL, Predictions

CUDA = torch.device("cuda")


class OtherTensor(Tensor):
    """A tensor whose numbers the host reads only after `cpu`."""

    def cpu(self, *arguments: object) -> Tensor:
        """The numbers, on the CPU."""
        return self.as_subclass(Tensor).clone()

    def numpy(self, *arguments: object) -> None:
        """Refused, as torch does."""
        raise TypeError("can't convert a tensor of another device to numpy: use Tensor.cpu()")


@dataclass
class OtherPredictions:
    """Predictions whose rows and logits are on the other device."""

    inner: Predictions

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.inner.vocabulary_size

    def logits(self, rows: slice, columns: slice = ALL) -> Tensor:
        """The logits, on the other device."""
        return self.inner.logits(rows, columns).as_subclass(OtherTensor)

    def select(self, rows_M: Tensor) -> OtherPredictions:
        """Some of the rows; their numbers must be on the other device."""
        assert isinstance(rows_M, OtherTensor)
        return OtherPredictions(self.inner.select(rows_M.cpu()))


@dataclass
class OtherModel:
    """A model that is on the other device, "cuda", and takes inputs there alone."""

    inner: LanguageModel
    device: torch.device = CUDA

    @property
    def name(self) -> str:
        """The model's."""
        return self.inner.name

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.inner.vocabulary_size

    def predict(self, inputs_NT: Tensor) -> OtherPredictions:
        """Predictions on the other device."""
        assert isinstance(inputs_NT, OtherTensor)
        return OtherPredictions(self.inner.predict(inputs_NT.cpu()))


def use_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "cuda" be the other device for whatever is moved there."""
    own: Callable[[Tensor, torch.device], Tensor] = predictors.to_device

    def to_device(values: Tensor, device: torch.device) -> Tensor:
        return values.as_subclass(OtherTensor) if device.type == "cuda" else own(values, device)

    monkeypatch.setattr(predictors, "to_device", to_device)
