"""What the folder of a run has of its state: a checkpoint, or the model of a finished run."""

from __future__ import annotations

from pathlib import Path

import torch

from kullback.errors import RunError
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.training.arithmetic import Arithmetic
from kullback.training.checkpoint import broadcast_state, has_checkpoint, load_last_checkpoint
from kullback.training.description import RunDescription
from kullback.training.gpt import GPT
from kullback.training.metrics import read_metrics
from kullback.training.run_folder import SHARDED_CHECKPOINTS, load_model
from kullback.training.state import TrainingState

__all__ = ["finished_model", "is_checkpointed", "load_checkpoint_of_run", "whole_model"]


def finished_model(
    run: Path, description: RunDescription, processes: ProcessGroup, device: torch.device
) -> GPT:
    """The model of a finished run, whether its checkpoints are still there or not.

    Without its weights in the processes that do not measure it.
    """
    if not processes.is_rank_zero:
        return GPT(description.model, on_meta=True)
    try:
        return whole_model(run, Arithmetic.of(description.config, device))
    except RunError as error:
        sharded = description.config.fsdp
        if not ((run / SHARDED_CHECKPOINTS).is_dir() if sharded else has_checkpoint(run)):
            raise
        raise RunError(
            f"{error}; or remove model.safetensors: resuming then writes it from the checkpoint"
        ) from None


def is_checkpointed(run: Path) -> bool:
    """Whether a run has a checkpoint, in one piece or sharded."""
    return has_checkpoint(run) or (run / SHARDED_CHECKPOINTS).is_dir()


def load_checkpoint_of_run(
    state: TrainingState, run: Path, progress: Progress, processes: ProcessGroup
) -> None:
    """Read the last checkpoint of a run in all processes, if it has one."""
    _read_checkpoint(state, run, progress, processes)
    lines = read_metrics(run / "metrics.jsonl") if processes.is_rank_zero and not state.step else []
    if lines:
        step = lines[-1]["step"]
        progress.note(
            f"{run} has no checkpoint, and {step} step{'s' * (step != 1)} in metrics.jsonl: it is "
            "trained from its first step again"
        )


def _read_checkpoint(
    state: TrainingState, run: Path, progress: Progress, processes: ProcessGroup
) -> None:
    if state.config.fsdp:
        from kullback.training.sharded_checkpoint import load_last_sharded_checkpoint

        load_last_sharded_checkpoint(state, run, progress, processes)
    else:
        if processes.is_rank_zero and has_checkpoint(run):
            load_last_checkpoint(state, run, progress)
        broadcast_state(state, processes)


def whole_model(run: Path, arithmetic: Arithmetic) -> GPT:
    """The model in a run's folder, on the device that measures it, or on the CPU.

    On the CPU where it does not fit there: beside the shards, where a sharded run has just ended.
    """
    try:
        return load_model(run).compute_with(arithmetic)
    except torch.OutOfMemoryError:
        return load_model(run)
