"""The training loop.

Every step minimises the mean negative log-likelihood of a batch.  On a source each token has its
true surprisal ``-log p``, so ``mean(nll - surprisal)`` is an unbiased estimate of KL(p‖q) with
much less variance than the loss, at no cost: the progress line and ``metrics.jsonl`` report it with
its standard error.

Each shard of a batch is processed by one thread, which computes the shard's gradient.  The
processes of torchrun share the shards of every batch, and each processes its own a few at a time
(gradient accumulation).  The gradients are added in a fixed order
(:mod:`kullback.training.replicas`), so a run is reproducible to the last bit.  Where a replica does
not fit in memory, the processes share the state, too (:mod:`kullback.training.sharding`).

A run can be stopped at any time.  A checkpoint is the complete state
(:mod:`kullback.training.checkpoint`) and the batches are a function of the step
(:mod:`kullback.training.batches`), so a resumed run ends with exactly the weights and the curve of
an uninterrupted one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch

from kullback.errors import InvalidValueError, RunError
from kullback.results.training import StepMetrics
from kullback.runtime.files import UnwritableError
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.text.tokenizer_training import tokenizer_config
from kullback.training.arithmetic import CPU, note_other_bits, with_native
from kullback.training.batches import Batches
from kullback.training.batches_ahead import batches_ahead
from kullback.training.checkpoint import save_checkpoint
from kullback.training.compilation import check_compilation
from kullback.training.config import TrainingConfig
from kullback.training.description import (
    batches_of_run,
    check_is_new,
    preparing,
    read_description,
    write_description,
)
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.initial_state import initial_state, training_workers
from kullback.training.interruption import Interrupted, resume_command, stop_on_signal
from kullback.training.lock import locked
from kullback.training.memory import check_memory
from kullback.training.metrics import MetricsFile, Sums
from kullback.training.out_of_memory import explained_out_of_memory
from kullback.training.replicas import ALONE, Replicas, check_divides, check_shares
from kullback.training.run_folder import load_tokenizer, save_model
from kullback.training.state import TrainingState
from kullback.training.steps import check_pending_step, train_step, validate
from kullback.training.stored_state import finished_model, load_checkpoint_of_run, whole_model

__all__ = ["Plan", "resumable", "resume", "train", "train_prepared", "validation_tokens"]

OnMetrics = Callable[[StepMetrics], None]
#: Data, sizes and hyperparameters of a run.
Plan: TypeAlias = tuple[Batches, GPTConfig, TrainingConfig]

# Tokens of the validation split of a text that are scored at least, where it has as many.
FEWEST_VALIDATED = 65_536


def train(
    run: Path,
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    on_metrics: OnMetrics = lambda metrics: None,
    stop_at: int | None = None,
    processes: ProcessGroup = ALONE,
    device: torch.device = CPU,
) -> GPT:
    """Train a new model into the folder `run` and return it.

    `on_metrics` is called every ``config.log_every`` steps.  Ctrl-C (SIGINT) or SIGTERM finishes
    the step, writes a checkpoint, after the last step the model, and raises `Interrupted`; so does
    reaching step `stop_at` before the last.
    Raises `RunError` when `run` already contains a run or a model, is locked by another process,
    cannot be written, or training diverges; `InvalidValueError` when model and data do not fit.
    """
    config = replace(config, processes=processes.world_size, device=device.type)
    _check(batches, gpt, config, processes, device)
    return train_prepared(
        run, lambda: (batches, gpt, config), on_metrics, stop_at, processes, device
    )


def train_prepared(
    run: Path,
    prepare: Callable[[], Plan],
    on_metrics: OnMetrics = lambda metrics: None,
    stop_at: int | None = None,
    processes: ProcessGroup = ALONE,
    device: torch.device = CPU,
) -> GPT:
    """As `train`, with data that `prepare` makes while the folder is locked, perhaps in it.

    Where it fails or is interrupted, no run has begun.  Each of the `processes` calls it; rank 0
    alone locks the folder and writes.
    """
    with ExitStack() as held:
        if processes.is_rank_zero:
            held.enter_context(locked(run))
            check_is_new(run)
        with preparing(run) if processes.is_rank_zero else nullcontext():
            with explained_out_of_memory(device, lambda: "no run has begun"):
                batches, gpt, config = prepare()
                # As rank 0 decides: machines may have different compilers.
                config = processes.broadcast(with_native(config, device))
                _check(batches, gpt, config, processes, device)
                state = initial_state(gpt, config, processes, device)
            stop_requested = held.enter_context(stop_on_signal())
            if processes.is_rank_zero:
                write_description(run, batches, gpt, config)
        loop = _Loop(run, batches, state, on_metrics, stop_requested, stop_at, processes)
        with resumable(run):
            return loop.run_to_end()


def _check(
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    processes: ProcessGroup,
    device: torch.device,
) -> None:
    """Raise `InvalidValueError` where model, data and processes do not fit, or the memory."""
    if batches.vocabulary_size != gpt.vocabulary_size or batches.context > gpt.context:
        raise InvalidValueError(
            f"the model has a vocabulary of {gpt.vocabulary_size} and a context of {gpt.context}: "
            f"the data needs {batches.vocabulary_size} and at least {batches.context}"
        )
    check_divides(config, batches.sequences)
    local, sharding = processes.local_world_size, processes.world_size
    check_memory(gpt, batches.tokens_per_batch, config, local, device, sharding)


def resume(
    run: Path,
    on_metrics: OnMetrics = lambda metrics: None,
    stop_at: int | None = None,
    progress: Progress | None = None,
    processes: ProcessGroup = ALONE,
    device: torch.device = CPU,
) -> GPT:
    """Resume the run in the folder `run`; the model of a finished run is returned, unchanged.

    Bit for bit on a CPU, where it began on one of the same kind, with the same torch.

    `progress` is told where the last checkpoint is damaged or all are missing, a text is no longer
    there, or another device, processor, torch or number of processes changes the last bits.  Raises
    `RunError` when the folder is not a run, is damaged or locked, or its data has changed;
    `InvalidValueError` where the processes cannot share its batches.
    """
    progress = progress or Progress()
    read_description(run)  # before locking, which would create the folder
    with ExitStack() as held:
        if processes.is_rank_zero:
            held.enter_context(locked(run))
        stop_requested = held.enter_context(stop_on_signal())
        description = read_description(run)
        batches = batches_of_run(description, load_tokenizer(run / "tokenizer.json"), progress)
        config = description.config
        if processes.broadcast((run / "model.safetensors").exists()):
            with explained_out_of_memory(device, lambda: "the run is as it was"):
                return finished_model(run, description, processes, device)
        _check(batches, description.model, config, processes, device)
        check_shares(config, batches.sequences, processes, progress)
        with explained_out_of_memory(device, lambda: "the run is as it was"):
            state = initial_state(description.model, config, processes, device)
            load_checkpoint_of_run(state, run, progress, processes)
            if state.step < config.steps:
                began = description.torch, description.processor
                note_other_bits(config, device, progress, began)
                check_compilation(state, batches, Replicas(processes), progress)
        loop = _Loop(run, batches, state, on_metrics, stop_requested, stop_at, processes)
        with resumable(run):
            return loop.run_to_end()


class _Loop:
    """Steps, metrics, validation and checkpoints of one process's part of a run."""

    def __init__(
        self,
        run: Path,
        batches: Batches,
        state: TrainingState,
        on_metrics: OnMetrics,
        stop_requested: Callable[[], bool],
        stop_at: int | None,
        processes: ProcessGroup,
    ) -> None:
        self.replicas = Replicas(processes)
        self.run, self.batches, self.state = run, batches, state
        self.on_metrics, self.stop_requested, self.stop_at = on_metrics, stop_requested, stop_at
        self.writes = processes.is_rank_zero
        self.metrics = MetricsFile(run / "metrics.jsonl", state.step) if self.writes else None
        self.clock = _Clock(state)
        self.validation = batches.validation(
            validation_tokens(state.config.evaluate_every, batches)
        )

    def run_to_end(self) -> GPT:
        """Train to the last step and save the model; `Interrupted` where a stop is requested."""
        state, config, replicas = self.state, self.state.config, self.replicas
        pieces = config.pieces(self.batches.sequences)
        own = replicas.own(pieces)
        arithmetic = state.model.arithmetic
        end, asked = config.steps, False
        if self.stop_at is not None and state.step < self.stop_at:
            end = min(end, self.stop_at)
        with (
            explained_out_of_memory(arithmetic.device, lambda: _kept(state)),
            training_workers(state) as pool,
            batches_ahead(
                lambda step: self.batches.shards(step, pieces, own), state.step, end,
                arithmetic.device,
            ) as next_batch,
        ):  # fmt: skip
            if not arithmetic.accelerated:
                state.muon.pool, state.muon.parts = pool, config.shards
            while state.step < config.steps:
                train_step(state, next_batch(), pool, replicas)
                self._report(pool)
                asked = replicas.agree(self.stop_requested())
                stop = asked or state.step == self.stop_at
                last = state.step == config.steps
                if stop or last or state.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if stop and not last:
                    raise Interrupted(self.run, state.step)
            _save(self.run, state, self.batches, self.writes)
        if asked or self.stop_requested():  # in the last step, or since
            raise Interrupted(self.run, state.step, trained=True)
        return whole_model(self.run, arithmetic) if state.sharded and self.writes else state.model

    def _checkpoint(self) -> None:
        """Write a checkpoint, which all processes wait for."""
        check_pending_step(self.state, self.replicas)
        if not self.state.config.fsdp:
            self.replicas.check_equal(self.state)
        if self.metrics is not None:
            # Metrics first: resuming drops lines beyond the checkpoint, but cannot recover lines
            # that were never written.
            self.metrics.flush()
        if self.state.config.fsdp:
            from kullback.training.sharded_checkpoint import save_sharded_checkpoint

            save_sharded_checkpoint(self.state, self.run, self.replicas.processes)
        elif self.writes:
            save_checkpoint(self.state, self.run)
        self.replicas.agree(True)

    def _report(self, pool: ThreadPoolExecutor) -> None:
        """Append a line of metrics, and validate, where this step is due for it."""
        state, config = self.state, self.state.config
        validating = state.step % config.evaluate_every == 0 or state.step == config.steps
        if not (validating or state.step % config.log_every == 0 or state.step == 1):
            return
        check_pending_step(state, self.replicas)
        if state.step == config.steps:
            # What the result is of; the split may have more tokens than the steps since.
            self.validation = self.batches.validation(validation_tokens(config.steps, self.batches))
        validation = validate(state, self.validation, pool, self.replicas) if validating else None
        metrics = _metrics(state, self.clock, validation)
        state.recent = Sums()
        if self.metrics is not None:
            self.metrics.append(metrics)
            self.on_metrics(metrics)


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Say how the run is resumed where a file of it cannot be written: the disk is full, say."""
    try:
        yield
    except UnwritableError as error:
        raise RunError(
            f"{error.what}. Free some space, then resume the run: {resume_command(run)}"
        ) from error


def _kept(state: TrainingState) -> str:
    return f"{state.kept_checkpoint}, and the run can be resumed (--resume) when memory is free"


def _save(run: Path, state: TrainingState, batches: Batches, writes: bool) -> None:
    """Write the finished model with the tokenizer of its data; shards are gathered for it."""
    weights = None
    if state.sharded is not None:
        weights = state.sharded.whole_weights(sorted(state.names))
        if not writes:
            deque(weights, maxlen=0)
    if not writes:
        return
    bos, eos = batches.special_tokens
    tokenizer = batches.tokenizer
    special_ids = tuple(
        None if name is None else tokenizer.token_to_id(name) for name in (bos, eos)
    )
    save_model(
        run, state.model, tokenizer.to_str(pretty=True), tokenizer_config(bos, eos),
        (special_ids[0], special_ids[1]), weights,
    )  # fmt: skip


def validation_tokens(steps: int, batches: Batches) -> int:
    """How many tokens of a text are scored after `steps` steps: a tenth of those that trained."""
    return max(FEWEST_VALIDATED, steps * batches.tokens_per_batch // 10)


class _Clock:
    """Speed of this process since it started or resumed the run."""

    def __init__(self, state: TrainingState) -> None:
        self.tokens, self.step, self.start = state.tokens, state.step, time.perf_counter()

    def speed(self, state: TrainingState) -> tuple[float, float]:
        """Tokens per second, and seconds left."""
        seconds = time.perf_counter() - self.start
        step_seconds = seconds / (state.step - self.step)
        left = state.config.steps - state.step
        return (state.tokens - self.tokens) / seconds, left * step_seconds


def _metrics(state: TrainingState, clock: _Clock, validation: Sums | None) -> StepMetrics:
    """A line of metrics; `validation` are the sums over its shards, where they were scored."""
    tokens_per_second, seconds_left = clock.speed(state)
    return StepMetrics(
        step=state.step,
        tokens=state.tokens,
        cross_entropy=state.recent.cross_entropy,
        entropy=state.recent.entropy,
        kl=state.recent.kl,
        kl_standard_error=state.recent.kl_standard_error,
        tokens_per_second=tokens_per_second,
        seconds_left=seconds_left,
        learning_rate=state.config.muon_lr * state.config.learning_rate_factor(state.step - 1),
        validation_cross_entropy=None if validation is None else validation.cross_entropy,
        validation_kl=None if validation is None else validation.kl,
        validation_bits_per_byte=None if validation is None else validation.bits_per_byte,
    )
