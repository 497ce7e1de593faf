"""Predictors: whatever predicts the scored tokens of a text, a batch of windows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kullback.evaluation.batches import Batch
from kullback.models.interface import LanguageModel, Sharing, TextModel
from kullback.models.streamed import StreamedModel
from kullback.predictions.base import Predictions
from kullback.runtime.threads import cores
from kullback.runtime.transfers import to_device

__all__ = [
    "ModelPredictor",
    "Predictor",
    "inputs_at_once",
    "is_exclusive",
    "is_streamed",
    "joint_sharing",
    "parts_of",
    "predict_rows",
    "prepare",
    "token_budget",
]

CPU = torch.device("cpu")
# Tokens of a batch, padding included.  A CPU is at its best with a few hundred, and one thread a
# core reads a batch; an accelerator has to be filled.
CPU_TOKENS, DEVICE_TOKENS = 1024, 16_384
# What the activations of a batch may take on an accelerator, beside the logits of some rows: the
# model that reads first leaves its hidden states to the other.
ACTIVATION_BYTES = 768 << 20
# From the most to the least that may share a batch.
SHARINGS: Sequence[Sharing] = ("padded", "equal lengths", "alone")


class Predictor(Interface):
    """Whatever predicts the scored tokens of a text: a model, or a recording of one."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def device(self) -> torch.device:
        """Where the predictions are made."""

    def sharing(self, longest: int) -> Sharing:
        """How windows of at most `longest` tokens may share a batch."""

    def predictions(self, batch: Batch) -> Predictions:
        """The predictions of the scored tokens of the windows, one window after the other."""


@dataclass(frozen=True, eq=False)
class ModelPredictor:
    """A model that reads the windows now."""

    model: TextModel

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    def sharing(self, longest: int) -> Sharing:
        """The model's; alone where a model of the caller's own does not say."""
        own = getattr(self.model, "sharing", None)
        return "alone" if own is None else own(longest)

    def predictions(self, batch: Batch) -> Predictions:
        """Read the windows' tokens, keep the scored positions."""
        return predict_rows(
            self.model, torch.from_numpy(batch.inputs), torch.from_numpy(batch.positions)
        )


def predict_rows(
    model: LanguageModel, inputs_NT: Int[Tensor, "N T"], rows_M: Int[Tensor, "M"]
) -> Predictions:
    """Predictions at some of the N·T positions, where the model is; it may be on an accelerator."""
    device = _device_of(model)
    return model.predict(to_device(inputs_NT, device)).select(to_device(rows_M, device))


def inputs_at_once(*predictors: object) -> int:
    """How many inputs threads may read at a time with all of these predictors or models.

    One where one of them computes on all cores itself or on an accelerator, which a batch fills.
    """
    parts = [part for predictor in predictors for part in parts_of(predictor)]
    on_cpu = all(_device_of(part).type == "cpu" for part in parts)
    return cores() if on_cpu and not any(map(is_exclusive, predictors)) else 1


def prepare(predictor: Predictor, inputs: Sequence[Int[np.ndarray, "N T"]], at_once: int) -> bool:
    """Let a model that reads its whole text layer by layer read these batches; else nothing.

    False where it may not read them so, and its `sharing` now says how it may.
    """
    models = [part for part in parts_of(predictor) if isinstance(part, StreamedModel)]
    return all(model.prepare(inputs, at_once) for model in models)


def is_streamed(predictor: object) -> bool:
    """Whether it is, or reads, a model that knows the batches of its text, and not their parts."""
    return any(isinstance(part, StreamedModel) for part in parts_of(predictor))


def is_exclusive(predictor: object) -> bool:
    """Whether it is, or reads, a model that computes on all cores itself, a window at a time."""
    return any(getattr(part, "exclusive", False) for part in parts_of(predictor))


def joint_sharing(longest: int, *predictors: Predictor) -> Sharing:
    """How windows may share a batch that all of these read."""
    return max((predictor.sharing(longest) for predictor in predictors), key=SHARINGS.index)


def token_budget(*predictors: Predictor) -> int:
    """The tokens of a batch that all of these read, padding included.

    It depends on the devices and the widths of the models, not on the memory that is free: the
    same command reads the same batches each time.
    """
    if all(predictor.device.type == "cpu" for predictor in predictors):
        return CPU_TOKENS
    widths = [
        max(getattr(part, "bytes_a_token", 0) for part in parts_of(predictor))
        for predictor in predictors
    ]
    return max(1, min(DEVICE_TOKENS, ACTIVATION_BYTES // max(1, sum(widths))))


def _device_of(model: object) -> torch.device:
    """Where it takes inputs; a model that does not say is on the CPU."""
    device: torch.device = getattr(model, "device", CPU)
    return device


def parts_of(predictor: object) -> Iterator[object]:
    """It, the predictor or model that it reads, and so on."""
    while predictor is not None:
        yield predictor
        predictor = getattr(predictor, "model", None) or getattr(predictor, "predictor", None)
