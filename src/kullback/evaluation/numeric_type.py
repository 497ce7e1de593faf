"""What the arithmetic of a narrower type changes, against float32 on a part of the text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kullback.errors import KullbackError
from kullback.evaluation.passes import (
    ModelPredictor,
    TokenizedText,
    divergence_rows,
    subsample,
)
from kullback.models.interface import TextModel
from kullback.runtime.memory import lacks_memory
from kullback.scoring.divergence import concatenate_divergences, nll_differences
from kullback.uncertainty.intervals import mean_with_interval

__all__ = ["arithmetic_noise"]

# Enough for the noise of a narrower type, which is much the same everywhere.
NOISE_TOKENS = 2048


def arithmetic_noise(
    model: TextModel, load_exact: Callable[[], TextModel], tokenized: TokenizedText
) -> str:
    """What the arithmetic of `model` costs against that of the model that is loaded, as a note.

    Where that cannot be loaded or read beside `model`, the note says why it was not measured.
    """
    try:
        return _measured(model, load_exact(), tokenized)
    except (KullbackError, RuntimeError, MemoryError) as error:
        if not isinstance(error, KullbackError) and not lacks_memory(error):
            raise
        reason = str(error)
        if lacks_memory(error):
            reason = "the memory is too small for a float32 copy beside the model"
    name = str(model.dtype).removeprefix("torch.")
    return f"what {name} changes against float32 was not measured: {reason}"


def _measured(model: TextModel, exact: TextModel, tokenized: TokenizedText) -> str:
    part = subsample(tokenized, NOISE_TOKENS)
    rows = divergence_rows(ModelPredictor(exact), ModelPredictor(model), part)
    divergences = concatenate_divergences(list(rows))
    places = part.places

    def mean(values_M: np.ndarray) -> str:
        weight_M = places.weight_M
        return str(
            mean_with_interval(values_M * weight_M, places.document_M, "nats/token", weight_M)
        )

    difference_M = nll_differences(divergences.reference.nll, divergences.candidate.nll)
    names = [str(reader.dtype).removeprefix("torch.") for reader in (model, exact)]
    distance = float(np.abs(difference_M).mean())
    return (
        f"{names[0]} instead of {names[1]} changes the cross-entropy by {mean(difference_M)}, with "
        f"a KL of {mean(divergences.kl)} and a mean |Δnll| of {distance:.2g} nats a token "
        f"(measured on {len(part):,} tokens)"
    )
