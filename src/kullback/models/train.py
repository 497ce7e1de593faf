"""Training from files or a source to a result: the run, its validation, and its n-gram baseline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kullback.errors import InvalidValueError
from kullback.models._training_device import (
    Hardware,
    device_of_resumed,
    training_hardware,
)
from kullback.models.training_plan import PreparedRun, Settings
from kullback.results.evaluation import NonZeroRank
from kullback.results.training import TrainingRun
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.wording import count_of, with_article
from kullback.runtime.workers import ProcessGroup, process_group
from kullback.text.documents import STANDARD_INPUT, Document
from kullback.training.batches import Batches
from kullback.training.config import TrainingConfig
from kullback.training.description import batches_of_run, read_description
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import Interrupted
from kullback.training.loggers import LoggedProgress, check_loggers
from kullback.training.loop import resumable, resume, train_prepared
from kullback.training.new_run import check_no_run
from kullback.training.prepare_text import CHARACTERS, TextOptions, check_text, prepare_text
from kullback.training.progress import SilentProgress, TrainingProgress
from kullback.training.run_folder import load_tokenizer
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.shared_tokens import share_tokens
from kullback.training.sizes import recipe_of
from kullback.training.state import DivergedError
from kullback.training.stored_state import is_checkpointed

if TYPE_CHECKING:
    from kullback.sources.catalogue import Source

__all__ = ["given_text", "resume_training", "train_model"]


def train_model(
    output: str | Path,
    *,
    text: str | Path | Sequence[str | Path] | None = None,
    source: str | Source | None = None,
    holdout: int | None = None,
    validation: str | Path | Sequence[str | Path] | None = None,
    tokens_of: str | Path | None = None,
    field: str | None = None,
    tokenizer: str | Path | None = None,
    vocabulary_size: int | None = None,
    context: int | None = None,
    batch: int | None = None,
    size: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    mlp_width: int | None = None,
    tied: bool | None = None,
    rope_theta: float = GPTConfig.rope_theta,
    norm_eps: float = GPTConfig.norm_eps,
    muon_lr: float | None = None,
    adamw_lr: float | None = None,
    warmup_steps: int | None = None,
    decay_fraction: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float = TrainingConfig.clip_norm,
    dropout: float = TrainingConfig.dropout,
    log_every: int = TrainingConfig.log_every,
    evaluate_every: int = TrainingConfig.evaluate_every,
    checkpoint_every: int = TrainingConfig.checkpoint_every,
    muon_rows: int | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    threads: int | None = None,
    accumulate: int = TrainingConfig.accumulate,
    checkpoint_activations: bool = TrainingConfig.checkpoint_activations,
    fsdp: str = Settings.fsdp,
    seed: int = TrainingConfig.seed,
    log: Sequence[str] = (),
    progress: TrainingProgress | None = None,
) -> TrainingRun | NonZeroRank:
    """Train a mini-GPT on the files `text` or on a `source`, into the folder `output`.

    `text` are files, folders and patterns (``*.jsonl``), with the column `field` where they have
    rows; `validation` are held out; `tokens_of` is a run on the same text, whose tokens are linked.
    `tokenizer` is "characters", a ``tokenizer.json`` or its folder; None trains a byte-level BPE.
    `size` is in `kullback.training.sizes.NAMED_SIZES` (nano); what is given replaces its fields.
    The head is `tied`, except with characters.  A run has `steps`, or as many as fit into
    `minutes`, or with `size` 20 tokens a parameter, else 800.  `log` are loggers.  Ctrl-C writes a
    checkpoint and raises `kullback.training.interruption.Interrupted`.  Raises `InvalidValueError`
    for what cannot be given, `RunError` for a folder that has a run or cannot be written.
    """
    run, files, held_out = Path(output), given_text(text), given_text(validation)
    settings = Settings(
        size, steps, minutes, width, layers, heads, mlp_width, rope_theta, norm_eps, context, batch,
        vocabulary_size, fsdp, tokenizer != CHARACTERS if tied is None else tied)  # fmt: skip
    with process_group() as processes, training_hardware(device, dtype) as hardware:
        progress = _progress(processes, progress)
        _check_data(run, text, source, [*files, *held_out], log, processes)
        rates = muon_lr, adamw_lr, muon_rows, warmup_steps, decay_fraction, weight_decay
        config = TrainingConfig(
            TrainingConfig.steps if steps is None else steps, clip_norm=clip_norm, dropout=dropout,
            **asdict(recipe_of(size, settings.tokens(text is not None), *rates)), seed=seed,
            shards=hardware.shards(threads), accumulate=accumulate, processes=processes.world_size,
            dtype=hardware.first_dtype, device=hardware.device.type, evaluate_every=evaluate_every,
            log_every=log_every, checkpoint_every=checkpoint_every,
            checkpoint_activations=checkpoint_activations)  # fmt: skip
        settings.check(text is not None, config, hardware.device)
        if source is not None:
            _refuse("source", vocabulary_size=vocabulary_size, context=context, tokenizer=tokenizer,
                    validation=validation, field=field, tokens_of=tokens_of)  # fmt: skip
            make = _sentences(source, holdout, settings, config, hardware.device)
        else:
            read = settings.text_options(files, held_out, field, tokenizer, seed)
            make = _windows(run, read, holdout, tokens_of, progress)
        with _kept_run(run, processes):
            return _trained(run, processes, hardware, make, settings, config, log, progress)


@contextmanager
def _kept_run(run: Path, processes: ProcessGroup) -> Iterator[None]:
    """Say what of a new run is on disk where it is interrupted outside of its loop.

    A second Ctrl-C ends the loop, and one may arrive while loggers are closed.
    """
    try:
        yield
    except KeyboardInterrupt:
        if processes.is_rank_zero and (run / "training.json").exists():
            step = None if is_checkpointed(run) else 0
            raise Interrupted(run, step, (run / "model.safetensors").exists()) from None
        raise


def _trained(
    run: Path,
    processes: ProcessGroup,
    hardware: Hardware,
    make: Callable[[], Batches],
    settings: Settings,
    config: TrainingConfig,
    log: Sequence[str],
    progress: TrainingProgress,
) -> TrainingRun | NonZeroRank:
    """Train, and measure on rank 0, which sends the metrics to the loggers."""
    log = log if processes.is_rank_zero else ()
    prepared: PreparedRun

    def hyperparameters() -> dict[str, object]:
        return asdict(settings) | asdict(prepared.config)

    with LoggedProgress(progress, log, run, hyperparameters) as logged:
        prepared = PreparedRun(run, processes, hardware, make, settings, config, logged)
        model = _on_rank_zero(
            processes,
            lambda: train_prepared(run, prepared, logged.step, None, processes, hardware.device),
        )
        seconds = prepared.seconds
    if isinstance(model, NonZeroRank):
        return model
    return _measured(run, prepared.batches, model, prepared.config, seconds, progress)


def _measured(
    run: Path,
    batches: Batches,
    model: GPT,
    config: TrainingConfig,
    seconds: float,
    progress: TrainingProgress,
) -> TrainingRun:
    """The result of a trained run; `Interrupted` says that measuring it was stopped."""
    try:
        from kullback.models._training_result import training_result  # and SciPy, after training

        with resumable(run):
            return training_result(run, batches, model, config, seconds, progress)
    except KeyboardInterrupt:
        raise Interrupted(run, config.steps, trained=True) from None


def _check_data(
    run: Path,
    text: object,
    source: object,
    files: Sequence[str | Path],
    log: Sequence[str],
    processes: ProcessGroup,
) -> None:
    """Raise `InvalidValueError` or `RunError` unless there is one kind of data, and a new run.

    On rank 0: when another process looks, the run may have begun.
    """
    if not processes.is_rank_zero:
        return
    check_loggers(log)
    if (text is None) == (source is None):
        raise InvalidValueError("text and source: give either files of text, or a source")
    read = [*files, *([source] if isinstance(source, str) else [])]
    check_outputs(Output("the run folder (-o)", run, "folder"), inputs=read)
    check_no_run(run)


def _windows(
    run: Path,
    options: TextOptions,
    holdout: int | None,
    tokens_of: str | Path | None,
    progress: TrainingProgress,
) -> Callable[[], Batches]:
    """Batches of a text whose files exist; it is read when they are made, or has been before."""
    _refuse("text", holdout=holdout)
    check_text(options)
    if tokens_of is None:
        return partial(prepare_text, run, options, progress)
    _refuse(
        "text whose tokens another run has (tokens_of)", vocabulary_size=options.vocabulary_size,
        tokenizer=options.tokenizer, validation=options.validation or None,
    )  # fmt: skip
    return partial(share_tokens, run, Path(tokens_of), options, progress)


def _sentences(
    source: str | Source,
    holdout: int | None,
    settings: Settings,
    config: TrainingConfig,
    device: torch.device,
) -> Callable[[], Batches]:
    """Batches of a source, for which the memory is enough."""
    from kullback.sources.catalogue import Source, open_source  # and SciPy

    if isinstance(source, Source):
        _refuse("source that is open already", holdout=holdout)
        if not source.spec:
            raise InvalidValueError(
                f"source is {source.name}, made by hand or read from an export, which a resumed "
                "run could not make again: give the name of a source, a grammar or a text"
            )
    else:
        source = open_source(source, holdout or 0, config.seed)
    batches = SentenceBatches(source, settings.sentences, config.seed)
    gpt = settings.model(batches.vocabulary_size, batches.context)
    settings.check_memory(gpt, batches.tokens_per_batch, config, device)
    return lambda: batches


def resume_training(
    run: str | Path,
    *,
    device: str | torch.device = "auto",
    log: Sequence[str] = (),
    progress: TrainingProgress | None = None,
) -> TrainingRun | NonZeroRank:
    """Train the run in a folder to its last step; a finished run is measured and left unchanged.

    `device` is by default of the kind that the run began on.  Under torchrun non-zero ranks get a
    `NonZeroRank`.  Raises `RunError` when the folder is not a run, is damaged or in use, or its
    data has changed; `InvalidValueError` where the device is not here, or the processes cannot
    share its batches.
    """
    run = Path(run)
    check_loggers(log)
    try:
        return _resumed(run, device, log, progress)
    except KeyboardInterrupt as error:
        error.add_note(f"what is in {run} is kept")
        raise


def _resumed(
    run: Path,
    device: str | torch.device,
    log: Sequence[str],
    progress: TrainingProgress | None,
) -> TrainingRun | NonZeroRank:
    """Resume the run, and measure it on rank 0."""
    description = read_description(run)
    config = description.config
    if device == "auto":
        device = device_of_resumed(config.device)
    with process_group() as processes, training_hardware(device, config.dtype) as hardware:
        progress = _progress(processes, progress)
        settings = asdict(description.model) | asdict(config)
        finished = (run / "model.safetensors").exists()
        if finished:
            progress.note(
                f"{run} has finished its {count_of(config.steps, 'step')}: it is measured, not "
                "trained"
            )
        if finished or not processes.is_rank_zero:
            log = ()
        start = time.perf_counter()
        with LoggedProgress(progress, log, run, lambda: settings, resumed=True) as logged:
            if not finished:
                logged.begin(config.steps, description.floor)
            model = _on_rank_zero(
                processes,
                lambda: resume(
                    run, logged.step, None, progress, processes=processes, device=hardware.device
                ),
            )
        seconds = time.perf_counter() - start
        if isinstance(model, NonZeroRank):
            return model
        # Checked just now, with its notes.
        batches = batches_of_run(
            description, load_tokenizer(run / "tokenizer.json"), SilentProgress()
        )
        return _measured(run, batches, model, config, seconds, progress)


def _on_rank_zero(processes: ProcessGroup, trained: Callable[[], GPT]) -> GPT | NonZeroRank:
    """The trained model on rank 0, which alone says how training ended."""
    try:
        model = trained()
    except (DivergedError, Interrupted):
        if processes.is_rank_zero:
            raise
    else:
        if processes.is_rank_zero:
            return model
    return NonZeroRank(rank=processes.rank, world_size=processes.world_size)


def _progress(processes: ProcessGroup, progress: TrainingProgress | None) -> TrainingProgress:
    """Rank 0's; a non-zero rank tells nothing."""
    return (progress or TrainingProgress()) if processes.is_rank_zero else SilentProgress()


def given_text(text: object) -> list[str | Path]:
    """The files and folders that `text` is; `InvalidValueError` where it is something else."""
    names: list[str | Path] = []
    items = list(text) if isinstance(text, list | tuple) else [text]
    for item in items if text is not None else ():
        if isinstance(item, Document):
            raise InvalidValueError(
                f"text is the document {item.name!r}: training reads files, which a resumed run "
                "reads again; write its text to a file, and give the name of that"
            )
        if not isinstance(item, str | Path):
            raise InvalidValueError(
                f"text is {with_article(type(item).__name__)}: give the name of a file or folder, "
                "or a list of names"
            )
        if str(item) == STANDARD_INPUT:
            raise InvalidValueError(
                f"text is {item}, standard input: training reads files, which a resumed run reads "
                "again; write it to a file, and give the name of that"
            )
        names.append(item)
    return names


def _refuse(data: str, **options: object) -> None:
    """Raise `InvalidValueError` for an option that is given and does not apply to the data."""
    for name, value in options.items():
        if value is not None:
            raise InvalidValueError(f"{name} is {value}: it does not apply to a {data}; remove it")
