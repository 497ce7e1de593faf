"""Checkpoints of a sharded run: `torch.distributed.checkpoint`, a folder of a file per process.

::

    checkpoint-sharded/120/shard-00001-....safetensors   what process 0 keeps, a file of each kind
    checkpoint-sharded/120/state.json                    the rest, and size and CRC-32 of each file

Tensors are named as in :mod:`kullback.training.checkpoint`; a file says which rows of each it has,
so that another number of processes, or one, can read them.  A folder is written under another name
and renamed when it is complete; the last two are kept, and the one before serves where the last one
is damaged.
"""

from __future__ import annotations

import json
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from kullback.errors import RunError
from kullback.runtime.decoding import Count, decode_json, read_bounded
from kullback.runtime.files import draft_folder, explained, remove_leftovers
from kullback.runtime.inputs import open_regular
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup, lost_processes
from kullback.training.checkpoint import optimiser_states
from kullback.training.metrics import Sums
from kullback.training.replicas import Replicas
from kullback.training.run_folder import SHARDED_CHECKPOINTS, without_remedy
from kullback.training.state import TrainingState

__all__ = ["load_last_sharded_checkpoint", "save_sharded_checkpoint"]

COUNTERS = "state.json"
# Of a file that is read for its checksum at a time.
BYTES_AT_ONCE = 1 << 24
# AdamW's count of steps is that of the run.
STEP = "step"


class _File(msgspec.Struct):
    """A file of tensors."""

    size: Count
    crc32: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]


class _Counters(msgspec.Struct):
    """What ``state.json`` contains."""

    step: Count
    tokens: Count
    recent: Sums
    files: dict[Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")], _File]


def save_sharded_checkpoint(state: TrainingState, run: Path, processes: ProcessGroup) -> None:
    """Write the state into the folder of a run, atomically; the last checkpoint stays beside it.

    All processes call it together.  Raises `RunError` where one cannot write.
    """
    target, replicas = run / SHARDED_CHECKPOINTS / str(state.step), Replicas(processes)
    with ExitStack() as writing:
        draft = target
        if processes.is_rank_zero:
            shutil.rmtree(target, ignore_errors=True)  # damaged: the run was resumed before it
            draft = writing.enter_context(draft_folder(target))
        draft = run / SHARDED_CHECKPOINTS / processes.broadcast(draft.name)
        writing.enter_context(explained(target, f"{state.kept_checkpoint}"))
        tensors = dict(_tensors(state))
        # A file for each kind of tensors: the library makes a copy of what is in one.
        kinds = sorted({name.partition("/")[0] for name in tensors})
        file_of = {name: 1 + kinds.index(name.partition("/")[0]) for name in tensors}
        writer = HuggingFaceStorageWriter(str(draft), file_of, save_distributed=True)
        with _failures():
            save(tensors, storage_writer=writer, no_dist=processes.world_size == 1)
        names = processes.broadcast(sorted(path.name for path in draft.iterdir()))
        # About those that this process wrote.
        own = [(name, _checked(draft / name)) for name in names[replicas.share(len(names))]]
        files = dict(replicas.gathered(own))
        counters = _Counters(state.step, state.tokens, state.recent, files)
        if processes.is_rank_zero:
            (draft / COUNTERS).write_bytes(json.dumps(msgspec.to_builtins(counters)).encode())
    if processes.is_rank_zero:
        for step in _steps(run):
            if step not in (state.step, state.checkpoint_step):
                shutil.rmtree(run / SHARDED_CHECKPOINTS / str(step), ignore_errors=True)
    state.checkpoint_step = state.step


def load_last_sharded_checkpoint(
    state: TrainingState, run: Path, progress: Progress, processes: ProcessGroup
) -> None:
    """Read the last checkpoint of a run into `state`, or the one before where it is damaged.

    All processes call it together.  `progress` is told of the latter.  Raises `RunError` where none
    can be read.
    """
    if processes.is_rank_zero:
        remove_leftovers(run / SHARDED_CHECKPOINTS)
    first: RunError | None = None
    for step in processes.broadcast(_steps(run)):
        try:
            _load(state, run / SHARDED_CHECKPOINTS / str(step), processes)
        except RunError as error:
            first = first or error
            continue
        if first is not None:
            progress.note(
                f"the run is resumed from step {state.step}, its checkpoint before the last, since "
                f"{without_remedy(first)}"
            )
        return
    if first is not None:
        raise first


def _load(state: TrainingState, folder: Path, processes: ProcessGroup) -> None:
    """Read a checkpoint; all processes raise the same `RunError` where one cannot."""
    replicas = Replicas(processes)
    counters, reason = None, ""
    if processes.is_rank_zero:
        try:
            counters = decode_json(read_bounded(folder / COUNTERS), _Counters)
            if not 1 <= counters.step <= state.config.steps or folder.name != str(counters.step):
                reason = f"it is of step {counters.step} of {state.config.steps}"
            elif {path.name for path in folder.iterdir()} != {*counters.files, COUNTERS}:
                reason = "it has other files than those that were written"
        except (OSError, ValueError) as error:
            reason = f"{COUNTERS}: {error}"
    counters, reason = processes.broadcast((counters, reason))
    if counters is not None and not reason:
        names = sorted(counters.files)
        own = names[replicas.share(len(names))]
        reasons = [_damage(folder / name, counters.files[name]) for name in own]
        reason = next((text for text in replicas.gathered(reasons) if text), "")
    if counters is not None and not reason:
        _begin_optimisers(state, counters.step)
        reader = HuggingFaceStorageReader(str(folder))
        try:
            with _failures():
                load(
                    dict(_tensors(state)), storage_reader=reader, no_dist=processes.world_size == 1
                )
        except (OSError, ValueError) as error:
            reason = str(error)
    if counters is None or reason:
        raise RunError(
            f"{folder} is damaged, or not a checkpoint of this run ({reason}); restore it, or "
            "train a new run"
        )
    state.step, state.tokens, state.recent = counters.step, counters.tokens, counters.recent
    state.checkpoint_step = state.step


def _tensors(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """The weights and the states of the optimisers, by their names in a checkpoint."""
    for name, weight in zip(state.names, state.weights, strict=True):
        yield f"weight/{name}", weight.detach()
    for optimiser, kinds, weights in optimiser_states(state):
        for name, key in weights.items():
            kept = optimiser.state[key]
            yield from ((f"{kind}/{name}", kept[kind]) for kind in kinds if kind != STEP)


def _begin_optimisers(state: TrainingState, step: int) -> None:
    """Give the optimisers the tensors that a checkpoint of `step` is read into."""
    for optimiser, kinds, weights in optimiser_states(state):
        for weight in weights.values():
            for kind in kinds:
                # A fused AdamW reads its step where the weight is.
                optimiser.state[weight][kind] = (
                    torch.tensor(float(step), device=weight.device)
                    if kind == STEP
                    else torch.zeros_like(weight)
                )


def _steps(run: Path) -> list[int]:
    """The steps of which a run has a checkpoint, the last first."""
    try:
        names = [path.name for path in (run / SHARDED_CHECKPOINTS).iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal() and len(name) < 12)[::-1]


def _checked(path: Path) -> _File:
    """Size and checksum of a file; `OSError` where it cannot be read."""
    size = crc = 0
    with open_regular(path) as file:
        while content := file.read(BYTES_AT_ONCE):
            size, crc = size + len(content), zlib.crc32(content, crc)
    return _File(size, f"{crc:08x}")


def _damage(path: Path, written: _File) -> str:
    """What is wrong with a file, or nothing."""
    try:
        return "" if _checked(path) == written else f"{path.name} is not what was written"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"


@contextmanager
def _failures() -> Iterator[None]:
    """Raise the error of the first process that had one, of which torch makes a trace."""
    try:
        with warnings.catch_warnings(), lost_processes():
            # That one process reads or writes alone, which is meant.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        if isinstance(first, OSError | KeyboardInterrupt):
            raise first from None
        raise ValueError(str(first).partition("\n")[0]) from None
