"""Checkpoints: the complete state of a run after a step.

The last one is ``checkpoint.safetensors``, the one before ``checkpoint.before.safetensors``, which
serves where the last one is damaged.  A checkpoint contains the weights, Muon's momenta, AdamW's
moments and counts as tensors named ``kind/parameter``, and in its metadata the step, the number of
tokens, the sums since the last line of metrics, and the CRC-32 of the tensors.  Batches
and dropout are functions of seed and step, so no state of a random generator belongs to it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from kullback.errors import RunError
from kullback.runtime.decoding import Count, decode_json
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.training.metrics import Sums
from kullback.training.run_folder import (
    load_tensors,
    load_weights,
    save_tensors,
    without_remedy,
)
from kullback.training.state import TrainingState

__all__ = [
    "broadcast_state",
    "has_checkpoint",
    "load_checkpoint",
    "load_last_checkpoint",
    "optimiser_states",
    "save_checkpoint",
]

LAST, BEFORE = "checkpoint.safetensors", "checkpoint.before.safetensors"

# What each optimiser keeps of a weight.
MUON = ("momentum_buffer",)
ADAMW = ("exp_avg", "exp_avg_sq", "step")


class _Counters(msgspec.Struct):
    """The entry ``state`` of the metadata."""

    step: Count
    tokens: Count
    recent: Sums
    crc32: str | None = None
    """Of the tensors; None in files of version 0.1."""


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint."""
    return (run / LAST).exists() or (run / BEFORE).exists()


def save_checkpoint(state: TrainingState, run: Path) -> None:
    """Write the state into the folder of a run, atomically; the last checkpoint stays beside it.

    Where that was damaged, the one before stays, which the run was resumed from.
    """
    tensors = {f"weight/{n}": w.detach() for n, w in zip(state.names, state.weights, strict=True)}
    for name, weight in zip(state.names, state.weights, strict=True):
        for optimiser in (state.muon, state.adamw):
            for kind, value in optimiser.state.get(weight, {}).items():
                tensors[f"{kind}/{name}"] = value
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    # JSON writes floats so that they read back the same to the last bit.
    counters = {"step": state.step, "tokens": state.tokens, "recent": asdict(state.recent)}
    # One entry: the library does not keep the order of several.
    described = json.dumps({**counters, "crc32": _crc32(tensors)})

    def keep() -> None:
        if not state.last_is_damaged:
            _keep(run / LAST, run / BEFORE)

    save_tensors(run / LAST, tensors, {"state": described}, keep)
    state.checkpoint_step, state.last_is_damaged = state.step, False


def load_last_checkpoint(state: TrainingState, run: Path, progress: Progress) -> None:
    """Read the last checkpoint of a run into `state`, or the one before where it is damaged.

    `progress` is told of the latter.  Raises `RunError` where neither can be read.
    """
    try:
        load_checkpoint(state, run / LAST)
    except RunError as error:
        if not (run / BEFORE).exists():
            raise
        load_checkpoint(state, run / BEFORE)
        state.last_is_damaged = True
        progress.note(
            f"the run is resumed from step {state.step}, its checkpoint before the last, since "
            f"{without_remedy(error)}"
        )


def load_checkpoint(state: TrainingState, path: Path) -> None:
    """Read a checkpoint into `state`.

    Raises `RunError` where it does not match the model, where a state of an optimiser is missing,
    and where a number is not finite.
    """
    tensors, metadata = load_tensors(path)
    weights = {
        name.removeprefix("weight/"): value
        for name, value in tensors.items()
        if name.startswith("weight/")
    }
    load_weights(state.model, weights, path)
    try:
        counters = decode_json(metadata.get("state", ""), _Counters)
        if not 1 <= counters.step <= state.config.steps:
            raise ValueError(f"it is of step {counters.step} of {state.config.steps}")
        _check_optimisers(state, tensors, counters.step)
        if counters.crc32 not in (None, _crc32(tensors)):
            raise ValueError("its checksum is another")
    except ValueError as error:
        raise RunError(
            f"{path} is not a checkpoint of kullback ({error}); restore it, or train a new run"
        ) from None
    for optimiser, kinds, weights_of in optimiser_states(state):
        for name, weight in weights_of.items():
            for kind in kinds:
                optimiser.state[weight][kind] = tensors[f"{kind}/{name}"].to(weight.device)
    state.step, state.tokens, state.recent = counters.step, counters.tokens, counters.recent
    state.checkpoint_step = state.step


def broadcast_state(state: TrainingState, processes: ProcessGroup) -> None:
    """Give all processes the state that rank 0 has read, or the initial one."""
    if processes.world_size == 1:
        return
    counters = state.step, state.tokens, state.recent, state.checkpoint_step
    (state.step, state.tokens, state.recent, state.checkpoint_step) = processes.broadcast(counters)
    tensors = [weight.detach() for weight in state.weights]
    for optimiser, kinds, weights_of in optimiser_states(state) if state.step else ():
        for weight in weights_of.values():
            kept = optimiser.state[weight]
            for kind in kinds:
                if kind not in kept:  # in the other ranks
                    of_step = kind == "step"
                    kept[kind] = weight.new_zeros(()) if of_step else torch.zeros_like(weight)
                tensors.append(kept[kind])
    for tensor in tensors:
        processes.broadcast_tensor(tensor)


def _keep(path: Path, before: Path) -> None:
    """Give the checkpoint `path` the name `before`, too."""
    if not path.exists():
        return
    temporary = before.with_name(f".{before.name}.00000000.part")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, before)
        # Where both names are of one file, as after a run was killed here, nothing was renamed.
        temporary.unlink(missing_ok=True)
    except OSError:
        # A file system without links: until the new one is written, only `before` is there.
        os.replace(path, before)


def _crc32(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of names and values in hexadecimal."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].detach().cpu().contiguous().numpy().data, crc)
    return f"{crc:08x}"


def optimiser_states(
    state: TrainingState,
) -> list[tuple[torch.optim.Optimizer, tuple[str, ...], dict[str, Tensor]]]:
    """Each optimiser with the kinds of its state and its weights by name."""
    names = {weight: name for name, weight in zip(state.names, state.weights, strict=True)}
    optimisers: list[tuple[torch.optim.Optimizer, tuple[str, ...], dict[str, Tensor]]] = []
    for optimiser, kinds in ((state.muon, MUON), (state.adamw, ADAMW)):
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        optimisers.append((optimiser, kinds, {names[weight]: weight for weight in weights}))
    return optimisers


def _check_optimisers(state: TrainingState, tensors: Mapping[str, Tensor], step: int) -> None:
    """Raise `ValueError` where the tensors are not the states of the optimisers after a step."""
    left = {name for name in tensors if not name.startswith("weight/")}
    for _, kinds, weights in optimiser_states(state):
        for name, weight in weights.items():
            for kind in kinds:
                key = f"{kind}/{name}"
                if key not in tensors:
                    raise ValueError(f"it has no {key}, a state of its optimiser")
                value, shape = tensors[key], () if kind == "step" else tuple(weight.shape)
                if tuple(value.shape) != shape or not value.is_floating_point():
                    raise ValueError(f"{key} is {value.dtype} of the shape {tuple(value.shape)}")
                if not torch.isfinite(value).all():
                    raise ValueError(f"{key} contains NaN or infinity")
                if kind == "step" and float(value) != step:
                    raise ValueError(f"{key} is {float(value):g}, and it is of step {step}")
                left.discard(key)
    if left:
        raise ValueError(f"{min(left)} is no state of an optimiser")
