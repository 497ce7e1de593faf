"""Two processes that train tiny models with FSDP, as torchrun would start them.

Run as a program it is one of them: ``sharded_processes.py ACTION FOLDER``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from interrupted_runs import BATCHES, CONFIG
from kullback.errors import KullbackError
from kullback.results.training import StepMetrics
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup, process_group
from kullback.training import muon
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.loop import resume, train
from kullback.training.loss import gradients
from kullback.training.replicas import Replicas
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.sharding import ShardedState
from kullback.training.state import TrainingState
from kullback.training.text_batches import TextBatches
from two_processes import two_processes

#: 26 steps; the vocabulary of the text is odd, so that shards are of unequal size.
SHARDED = replace(CONFIG, shards=1, fsdp=True, dropout=0.2, weight_decay=0.1)


def model(batches: SentenceBatches | TextBatches) -> GPTConfig:
    """Return two blocks, with an MLP that shards divide unequally; tied on a source only."""
    tied = batches.floor is not None
    return GPTConfig(batches.vocabulary_size, batches.context, 12, 2, 2, 17, tied=tied)


def data(kind: str, folder: Path, processes: ProcessGroup) -> SentenceBatches | TextBatches:
    """Return the batches, which one process at a time makes, since it writes their files."""
    if processes.is_rank_zero:
        batches = BATCHES[kind](folder)
    processes.broadcast(None)
    return batches if processes.is_rank_zero else BATCHES[kind](folder)


class Notes(Progress):
    """Writes the notes into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, text: str) -> None:
        """Add a line."""
        with self.path.open("a") as file:
            file.write(text + "\n")


def train_both(folder: Path, processes: ProcessGroup) -> None:
    """Train on the source in two parts, and on the text with checkpointed activations."""
    for kind, changes in (
        ("source", {"accumulate": 2}),
        ("text", {"accumulate": 3, "checkpoint_activations": True, "muon_rows": 6}),
    ):
        config = replace(SHARDED, **changes)  # type: ignore[arg-type]
        batches = data(kind, folder, processes)
        train(folder / kind, batches, model(batches), config, processes=processes)


def compare_gradients(folder: Path, processes: ProcessGroup) -> None:
    """Compute the gradient of a batch on shards, and in one process; they must be equal."""
    batches = data("source", folder, processes)
    sizes, config = model(batches), replace(SHARDED, accumulate=2, processes=2)
    pieces = batches.shards(0, 4)
    total = sum(len(piece.targets_M) for piece in pieces)
    state = ShardedState.begin(sizes, config)
    sums = state.backward(pieces[Replicas(processes).own(4)], total)
    assert len(sums) == 2
    whole = TrainingState.begin(sizes, config)
    parts = [gradients(whole, piece, total)[0] for piece in pieces]
    for weight, initial in zip(state.weights, whole.weights, strict=True):
        assert isinstance(weight, DTensor)
        assert torch.equal(weight.full_tensor(), initial)
    for gradient, *expected in zip(state.gradient, *parts, strict=True):
        assert isinstance(gradient, DTensor)
        torch.testing.assert_close(gradient.full_tensor(), torch.stack(expected).sum(0))


def stop(folder: Path, processes: ProcessGroup) -> None:
    """Train on the source as above, and stop at step 10."""
    config = replace(SHARDED, accumulate=2)
    batches = data("source", folder, processes)
    try:
        train(
            folder / "stopped", batches, model(batches), config,
            stop_at=10, processes=processes,
        )  # fmt: skip
    except Interrupted:
        return
    raise AssertionError("the run was not stopped")


def die(folder: Path, processes: ProcessGroup) -> None:
    """Train on the source as above; rank 0 kills itself at step 9, after the checkpoint of 8."""

    def kill(metrics: StepMetrics) -> None:
        if metrics.step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    batches = data("source", folder, processes)
    config = replace(SHARDED, accumulate=2)
    train(folder / "stopped", batches, model(batches), config, kill, processes=processes)


def go_on(folder: Path, processes: ProcessGroup) -> None:
    """Resume what was stopped."""
    resume(folder / "stopped", progress=Notes(folder / "notes.txt"), processes=processes)


ACTIONS: dict[str, Callable[[Path, ProcessGroup], None]] = {
    "train": train_both,
    "gradients": compare_gradients,
    "stop": stop,
    "die": die,
    "resume": go_on,
}


def started(action: str, folder: Path) -> list[subprocess.Popen[str]]:
    """Start both processes."""
    common = two_processes()
    return [
        subprocess.Popen(
            [sys.executable, __file__, action, str(folder)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def run(action: str, folder: Path) -> list[str]:
    """Run both processes to their end; what they wrote to standard error, where they failed."""
    processes = started(action, folder)
    said = [process.communicate(timeout=200)[1] for process in processes]
    return [text for text, process in zip(said, processes, strict=True) if process.returncode]


if __name__ == "__main__":
    # In float32: Muon's bfloat16 would amplify the last bits of sums in another order.
    muon.multiplies_bfloat16 = lambda: False  # type: ignore[attr-defined]
    with process_group() as both:
        try:
            ACTIONS[sys.argv[1]](Path(sys.argv[2]), both)
        except KullbackError as error:
            sys.exit(f"kullback: {error}")
