"""What does a model differ from itself by, when only the rounding changes?

A KL is worth nothing where it does not rise above this: the same model, the same text, other shapes
of the arrays or another type of the arithmetic.  Nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kullback.evaluation.on_text import plain
from kullback.evaluation.passes import (
    ModelPredictor,
    Predictor,
    TokenizedText,
    divergence_rows,
    subsample,
)
from kullback.models.interface import TextModel
from kullback.predictions.base import Predictions
from kullback.results.text import MeasurementData
from kullback.scoring.divergence import concatenate_divergences
from kullback.text.windows import Window
from kullback.uncertainty.intervals import mean_with_interval

__all__ = ["above_noise", "noise_floor"]

BATCH_SHAPE = "batch shape"


@dataclass(frozen=True, eq=False)
class _InABatch:
    """The model itself, reading each window beside a copy: other shapes, other roundings."""

    model: TextModel

    @property
    def name(self) -> str:
        return f"{self.model.name} in batches of two"

    @property
    def device(self) -> torch.device:
        return self.model.device

    def predictions(self, window: Window, rows: slice) -> Predictions:
        inputs_T = torch.from_numpy(window.inputs.astype(np.int64)).to(self.model.device)
        wanted_M = torch.arange(window.rows.start, window.rows.stop, device=self.model.device)
        return self.model.predict(torch.stack([inputs_T, inputs_T])).select(wanted_M)


def noise_floor(
    reference: TextModel,
    tokenized: TokenizedText,
    in_other_type: Callable[[], TextModel] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, MeasurementData]:
    """KL of the reference from itself under another batch shape, and in another type.

    `in_other_type` loads it in that type.  In nats/token, by the name of what changes, on a part of
    the text: rounding is much the same everywhere.
    """
    some = subsample(tokenized)
    others: list[tuple[str, Predictor]] = [(BATCH_SHAPE, _InABatch(reference))]
    if in_other_type is not None:
        other = in_other_type()
        others.append((str(other.dtype).removeprefix("torch."), ModelPredictor(other)))
    floor = {}
    for name, predictor in others:
        rows = divergence_rows(
            ModelPredictor(reference), predictor, some, progress=partial(progress, f"noise: {name}")
        )
        kl_M = concatenate_divergences(list(rows)).kl
        floor[name] = plain(mean_with_interval(kl_M, some.places.document_M, "nats/token"))
    return floor


def above_noise(kl: MeasurementData, floor: Mapping[str, MeasurementData]) -> bool | None:
    """Whether a KL, less its uncertainty, is above what another batch shape alone makes.

    None where that was not measured.

    >>> kl = {"value": 2e-3, "unit": "nats/token", "interval": (1e-3, 3e-3), "n": 9,
    ...       "effective_n": 9.0, "design_effect": 1.0, "method": ""}
    >>> above_noise(kl, {"batch shape": {**kl, "interval": (0.0, 1e-9)}}), above_noise(kl, {})
    (True, None)
    """
    if BATCH_SHAPE not in floor:
        return None
    shape = floor[BATCH_SHAPE]
    low = kl["interval"][0] if kl["interval"] else kl["value"]
    high = shape["interval"][1] if shape["interval"] else shape["value"]
    return low is not None and high is not None and low > high
