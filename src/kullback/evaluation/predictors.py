"""Predictors: whatever predicts the scored tokens of a text, a batch of windows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch
from jaxtyping import Int

from kullback.evaluation.batches import Batch
from kullback.models.interface import Sharing, TextModel
from kullback.models.streamed import StreamedModel
from kullback.predictions.base import Predictions
from kullback.runtime.transfers import to_device

__all__ = [
    "ModelPredictor",
    "Predictor",
    "is_exclusive",
    "joint_sharing",
    "prepare",
    "token_budget",
]

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
        device = self.model.device
        inputs_NT = to_device(torch.from_numpy(batch.inputs), device)
        positions_M = to_device(torch.from_numpy(batch.positions), device)
        return self.model.predict(inputs_NT).select(positions_M)


def prepare(predictor: Predictor, inputs: Sequence[Int[np.ndarray, "N T"]], at_once: int) -> bool:
    """Let a model that reads its whole text layer by layer read these batches; else nothing.

    False where it may not read them so, and its `sharing` now says how it may.
    """
    models = [part for part in _chain(predictor) if isinstance(part, StreamedModel)]
    return all(model.prepare(inputs, at_once) for model in models)


def is_exclusive(predictor: object) -> bool:
    """Whether it is, or reads, a model that computes on all cores itself, a window at a time."""
    return any(getattr(part, "exclusive", False) for part in _chain(predictor))


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
        max(getattr(part, "bytes_a_token", 0) for part in _chain(predictor))
        for predictor in predictors
    ]
    return max(1, min(DEVICE_TOKENS, ACTIVATION_BYTES // max(1, sum(widths))))


def _chain(predictor: object) -> Iterator[object]:
    """It, the predictor or model that it reads, and so on."""
    while predictor is not None:
        yield predictor
        predictor = getattr(predictor, "model", None) or getattr(predictor, "predictor", None)
