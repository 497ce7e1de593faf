"""KL of quantising one group of layers at a time, ranked.

A group is what one module holds of linear layers (``model.layers.3.mlp``).  Each is quantised by
itself, the rest of the model left as it is, and KL(original‖quantised) measured on a part of the
text; then the weights are put back.  The costs of parts do not add up to that of the whole: errors
meet further up, so their sum is set beside it.

Axes: M scored tokens, K groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from kullback.comparison.kept_predictions import KeptPredictions
from kullback.errors import InvalidValueError
from kullback.evaluation.passes import (
    ModelPredictor,
    Predictor,
    TokenizedText,
    divergence_rows,
    subsample,
)
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.quantization import Scheme, linear_weights, quantise_layers
from kullback.results.measurement import Measurement
from kullback.runtime.progress import Tokens
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import concatenate_divergences
from kullback.uncertainty.intervals import simultaneous_means

__all__ = ["GroupCost", "Sensitivity", "measure_sensitivity"]


@dataclass(frozen=True)
class GroupCost:
    """What quantising one group costs."""

    group: str
    kl: Measurement
    bytes_saved: int


@dataclass(frozen=True)
class Sensitivity:
    """All groups, the costliest first, and the whole."""

    groups: list[GroupCost]
    """With intervals that hold for all groups at once."""
    sum_of_parts: float
    whole: float
    """KL with everything quantised together, on the same part of the text."""


def measure_sensitivity(
    model: TextModel,
    scheme: Scheme,
    tokenized: TokenizedText,
    source: Predictor | None = None,
    processes: ProcessGroup | None = None,
    progress: Tokens = lambda done, total: None,
) -> Sensitivity | None:
    """The cost of each group of `model` under `scheme`; the model is as before afterwards.

    `source` gives the model's predictions as it is now, where they are kept already.  The
    `processes` share the windows, and non-zero ranks get None.
    Raises `InvalidValueError` where the model has no linear layers here to quantise.
    """
    module, processes = _module(model), processes or ProcessGroup()
    groups: dict[str, list[str]] = {}
    for name, _ in linear_weights(module):
        groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
    if not groups:
        raise InvalidValueError(f"{model.name} has no linear layers: there is nothing to quantise")
    part = subsample(tokenized)
    original = KeptPredictions(source or ModelPredictor(model), part, dense=True)
    # Kept before any weight changes; each process keeps those of its own windows.
    list(divergence_rows(original, original, part, processes))
    rows, saved = [], []
    chosen = [*(frozenset(names) for names in groups.values()), frozenset().union(*groups.values())]
    for done, names in enumerate(chosen):
        progress(done * len(part), len(chosen) * len(part))
        with _quantised(module, scheme, names) as bytes_saved:
            passed = list(divergence_rows(original, ModelPredictor(model), part, processes))
        if processes.is_rank_zero:
            rows.append(concatenate_divergences(passed).kl)
        saved.append(bytes_saved)
    progress(len(chosen) * len(part), len(chosen) * len(part))
    if not processes.is_rank_zero:
        return None
    document_M, weight_M = part.places.document_M, part.places.weight_M
    weighted = np.stack(rows) * weight_M
    means = simultaneous_means(weighted[:-1], document_M, "nats/token", weight_M)
    costs = [
        GroupCost(group, mean, size)
        for group, mean, size in zip(groups, means, saved, strict=False)
    ]
    costs.sort(key=lambda cost: -cost.kl.value)
    whole = float(weighted[-1].sum() / weight_M.sum())
    return Sensitivity(costs, sum(cost.kl.value for cost in costs), whole)


def _module(model: TextModel) -> nn.Module:
    if isinstance(model, GPTTextModel):
        return model.gpt
    if isinstance(model, HuggingFaceModel):
        return model.model
    raise InvalidValueError(f"{model.name} cannot be quantised: its weights are not here")


@contextmanager
def _quantised(module: nn.Module, scheme: Scheme, names: frozenset[str]) -> Iterator[int]:
    """The layers `names` quantised for a while; yields the bytes that this saves."""
    matrices = {name: matrix for name, matrix in linear_weights(module) if name in names}
    before = {name: matrix.clone() for name, matrix in matrices.items()}
    try:
        with torch.no_grad():
            quantise_layers(module, scheme, names.__contains__)
        yield sum(
            matrix.element_size() * matrix.numel() - scheme.size_in_bytes(matrix.shape)
            for matrix in matrices.values()
        )
    finally:
        with torch.no_grad():
            for name, matrix in matrices.items():
                matrix.copy_(before[name])
