"""KL of a model from itself when only the rounding changes.

A KL means nothing where it is not above this: the same model, the same text, other shapes of the
arrays or another type of the arithmetic.  Nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from kullback.errors import KullbackError
from kullback.evaluation.measures import weighted_mean
from kullback.evaluation.passes import (
    Batch,
    ModelPredictor,
    Predictor,
    TokenizedText,
    divergence_rows,
    subsample,
)
from kullback.models.interface import Sharing, TextModel
from kullback.models.llama_cpp import LlamaCppModel
from kullback.predictions.base import Predictions, joined
from kullback.results.comparison import BATCH_SHAPE
from kullback.results.measurement import Measurement
from kullback.runtime.memory import lacks_memory
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import concatenate_divergences

__all__ = ["above_noise", "noise_floor", "noise_ratio"]

# Tokens that llama.cpp reads at a time: fewer than in the pass, and more than the 8 up to which its
# CUDA kernels multiply vectors.
LLAMA_CPP_BATCH = 16


@dataclass(frozen=True, eq=False)
class _InABatch:
    """The model itself in other shapes, so with other roundings.

    Windows that share a batch are read one by one, and one that is alone beside a copy of itself.
    """

    model: TextModel

    @property
    def name(self) -> str:
        return f"{self.model.name} in batches of two"

    @property
    def device(self) -> torch.device:
        return self.model.device

    def sharing(self, longest: int) -> Sharing:
        return ModelPredictor(self.model).sharing(longest)

    def predictions(self, batch: Batch) -> Predictions:
        if len(batch.windows) > 1:
            return joined([ModelPredictor(self.model).predictions(one) for one in batch.alone()])
        inputs_1T = torch.from_numpy(batch.inputs).to(self.model.device)
        wanted_M = torch.from_numpy(batch.positions).to(self.model.device)
        return self.model.predict(inputs_1T.expand(2, -1).contiguous()).select(wanted_M)


def noise_floor(
    reference: Predictor,
    model: TextModel,
    tokenized: TokenizedText,
    in_other_type: Sequence[Callable[[], TextModel | None]] = (),
    processes: ProcessGroup | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Measurement]:
    """KL of `model` from itself in another batch shape, and in another type, by what is changed.

    In nats/token on a part of the text: rounding is much the same everywhere.  A model that
    llama.cpp runs reads the text in batches of 16 tokens instead of its own.  `reference` gives the
    model's predictions, which may be kept.  `in_other_type` are ways to load the model in another
    type: the first that works is taken, and the last is for any model.  The `processes` share the
    windows, and non-zero ranks get nothing.  `note` is told where the first way failed, and where
    in a process the model in another type does not fit into memory beside this one.
    """
    processes, progress = processes or ProcessGroup(), progress or Progress()
    part = subsample(tokenized)
    floor = {}

    def measure(name: str, predictor: Predictor) -> None:
        progress.stage(f"noise floor: {name}")
        rows = list(divergence_rows(reference, predictor, part, processes, progress.tokens))
        if processes.is_rank_zero:
            floor[name] = weighted_mean(concatenate_divergences(rows).kl, part.places)

    if isinstance(model, LlamaCppModel):  # which reads rows of a batch one after the other
        measure(BATCH_SHAPE, ModelPredictor(model.in_batches(LLAMA_CPP_BATCH)))
    else:
        measure(BATCH_SHAPE, _InABatch(model))
    if not in_other_type:
        return floor
    *ways, last_way = in_other_type
    for load in ways:
        try:
            if (other := load()) is None:
                continue
            measure(_dtype(other), ModelPredictor(other))
        except KullbackError as error:  # what is found while it is read
            note(
                "the noise floor in another type was measured with a whole copy of the reference "
                f"beside it, since layer by layer it cannot be read: {error}"
            )
        else:
            return floor
    other = _loaded(last_way)
    if all(processes.gather(other is not None)):
        assert other is not None
        measure(_dtype(other), ModelPredictor(other))
    else:
        note(
            "the noise floor of another type was not measured: the memory is too small for the "
            "reference in that type beside it"
        )
    return floor


def _dtype(model: TextModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _loaded(load: Callable[[], TextModel | None]) -> TextModel | None:
    """The model; None where the memory is too small for it."""
    try:
        return load()
    except (KullbackError, RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        return None


def above_noise(kl: Measurement, floor: Mapping[str, Measurement]) -> bool | None:
    """Whether a KL, less its uncertainty, is above what another batch shape alone makes.

    None where that was not measured.

    >>> kl = Measurement(2e-3, "nats/token", 5e-4, 9, 9, "")
    >>> shape = Measurement(1e-10, "nats/token", 1e-10, 9, 9, "")
    >>> above_noise(kl, {"batch shape": shape}), above_noise(kl, {})
    (True, None)
    """
    if BATCH_SHAPE not in floor:
        return None
    shape = floor[BATCH_SHAPE]
    low = kl.interval[0] if kl.has_interval else kl.value
    high = shape.interval[1] if shape.has_interval else shape.value
    return low > high


def noise_ratio(kl: Measurement, floor: Mapping[str, Measurement]) -> float | None:
    """The KL over the largest floor of another type; None where none was measured.

    >>> kl, other = (Measurement(value, "nats/token", 0.0, 9, 9, "") for value in (2e-3, 1e-3))
    >>> noise_ratio(kl, {"bfloat16": other})
    2.0
    """
    types = [floor[name].value for name in floor if name != BATCH_SHAPE]
    return kl.value / max(types) if types and max(types) > 0 else None
