"""Checkpoints: ``checkpoint.safetensors``, the complete state of a run after a step.

It contains the weights, Muon's momenta, AdamW's moments and counts as tensors named
``kind/parameter``, and in its metadata the step, the number of tokens and the sums since the last
line of metrics.  Batches are a function of the step and there is no dropout, so no state of a
random generator belongs to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from kullback.errors import RunError
from kullback.training.metrics import Sums
from kullback.training.run_folder import load_tensors, load_weights, save_tensors
from kullback.training.state import TrainingState

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(state: TrainingState, path: Path) -> None:
    """Write the state atomically."""
    tensors = {f"weight/{n}": w for n, w in zip(state.names, state.weights, strict=True)}
    for name, weight in zip(state.names, state.weights, strict=True):
        for optimiser in (state.muon, state.adamw):
            for kind, value in optimiser.state.get(weight, {}).items():
                tensors[f"{kind}/{name}"] = value
    # JSON writes floats so that they read back the same to the last bit.
    counters = {"step": state.step, "tokens": state.tokens, "recent": asdict(state.recent)}
    save_tensors(path, tensors, {"state": json.dumps(counters)})


def load_checkpoint(state: TrainingState, path: Path) -> None:
    """Read a checkpoint into `state`; `RunError` where it does not match the model."""
    tensors, metadata = load_tensors(path)
    weights = {
        name.removeprefix("weight/"): value
        for name, value in tensors.items()
        if name.startswith("weight/")
    }
    load_weights(state.model, weights, path)
    by_name = dict(zip(state.names, state.weights, strict=True))
    try:
        for full_name, value in tensors.items():
            kind, name = full_name.split("/", 1)
            if kind != "weight":
                optimiser = state.muon if kind == "momentum_buffer" else state.adamw
                optimiser.state[by_name[name]][kind] = value
        counters = json.loads(metadata["state"])
        state.step, state.tokens = counters["step"], counters["tokens"]
        state.recent = Sums(**counters["recent"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is not a checkpoint of kullback ({error!r}); restore it, or train a new run"
        ) from None
