"""The settings of a training run as they are given, and the plan that they and the data give."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.models._training_device import Hardware
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.processor import multiplies_bfloat16
from kullback.runtime.ranges import TRAINED_VOCABULARIES
from kullback.runtime.wording import count_of
from kullback.runtime.workers import ProcessGroup, local_processes
from kullback.training.arithmetic import with_native
from kullback.training.batches import Batches
from kullback.training.config import SHARDING, SIZES, TrainingConfig
from kullback.training.description import batches_of_data
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import Plan
from kullback.training.memory import check_memory, training_bytes, with_sharding
from kullback.training.muon_library import SMALL_SIDE
from kullback.training.prepare_text import TextOptions
from kullback.training.probe import (
    STEPS,
    compilation_that_pays,
    faster_type,
    seconds_per_step,
    steps_in,
)
from kullback.training.progress import TrainingProgress
from kullback.training.replicas import check_divides
from kullback.training.run_folder import SHARDED_CHECKPOINTS
from kullback.training.sizes import MINUTES, chinchilla_steps, named

__all__ = ["PreparedRun", "Settings", "shown_time"]

SENTENCES = 256
# Muennighoff et al. 2023, "Scaling data-constrained language models": four passes over a text are
# nearly worth as much new text, and after sixteen more of them are worth nothing.
MANY_PASSES = 16
# Steps of the probe where it decides how many there are.
PROBE_STEPS = 20


@dataclass(frozen=True)
class Settings:
    """The keywords of `train_model` that size a run; None where they are not given."""

    size: str | None = None
    steps: int | None = None
    minutes: float | None = None
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    mlp_width: int | None = None
    rope_theta: float = GPTConfig.rope_theta
    norm_eps: float = GPTConfig.norm_eps
    context: int | None = None
    batch: int | None = None
    vocabulary_size: int | None = None
    fsdp: str = SHARDING[0]
    tied: bool = True

    def check(self, on_text: bool, config: TrainingConfig, device: torch.device) -> None:
        """Raise `InvalidValueError` for sizes out of range or above the memory."""
        named(self.size)
        if self.minutes is not None:
            MINUTES.check("minutes", self.minutes)
            if self.steps is not None:
                raise InvalidValueError(
                    f"steps is {self.steps} and minutes is {self.minutes}: give one of them, since "
                    "each says when the run ends"
                )
        for name in ("batch", "context", "width", "layers", "heads", "mlp_width"):
            value = getattr(self, name)
            if value is not None:
                SIZES[name].check(name, value)
        if self.vocabulary_size is not None:
            TRAINED_VOCABULARIES.check("vocabulary_size", self.vocabulary_size)
        # A text that is short has fewer entries, and a sentence of a source at least one token.
        sequences, context = (
            (self.windows, self.context_of_text) if on_text else (self.sentences, 1)
        )
        check_divides(config, sequences)
        self.check_memory(self.model(1, context), sequences * context, config, device)

    def check_memory(
        self, gpt: GPTConfig, tokens: int, config: TrainingConfig, device: torch.device
    ) -> None:
        """Raise `InvalidValueError` where a run does not fit in memory, sharded or not."""
        local = local_processes()[1]
        config = with_sharding(config, self.fsdp, gpt, tokens, local, device)
        check_memory(gpt, tokens, with_native(config, device), local, device)

    @property
    def windows(self) -> int:
        """Of a batch of a text."""
        return named(self.size).windows if self.batch is None else self.batch

    @property
    def sentences(self) -> int:
        """Of a batch of a source."""
        return SENTENCES if self.batch is None else self.batch

    @property
    def context_of_text(self) -> int:
        """Tokens of a window."""
        return named(self.size).context if self.context is None else self.context

    def tokens(self, on_text: bool) -> float | None:
        """Of a batch of a text, infinite where `check` refuses its sizes; None for a source."""
        if not on_text:
            return None
        of_batch = {"batch": self.windows, "context": self.context_of_text}
        possible = all(value in SIZES[name] for name, value in of_batch.items())
        return math.prod(of_batch.values()) if possible else math.inf

    def text_options(
        self,
        texts: Sequence[str | Path],
        held_out: Sequence[str | Path],
        field: str | None,
        tokenizer: str | Path | None,
        seed: int,
    ) -> TextOptions:
        """What is read of texts, and how."""
        return TextOptions(
            texts,
            held_out,
            "text" if field is None else field,
            tokenizer,
            self.vocabulary_size,
            named(self.size).vocabulary_size,
            self.context_of_text,
            self.windows,
            seed,
        )

    def model(self, vocabulary_size: int, context: int) -> GPTConfig:
        """The sizes of the model."""
        default = named(self.size)
        width = default.width if self.width is None else self.width
        mlp_width = 32 * math.ceil(2.5 * width / 32) if self.mlp_width is None else self.mlp_width
        return GPTConfig(
            vocabulary_size,
            context,
            width,
            default.layers if self.layers is None else self.layers,
            default.heads if self.heads is None else self.heads,
            mlp_width,
            self.rope_theta,
            self.norm_eps,
            self.tied,
        )


class PreparedRun:
    """Makes the data of a run and plans it, when called; keeps what it made.

    The plan is told to `progress` before the first step: parameters, tokens, memory, and the time
    that a probe of a few steps gives.
    """

    batches: Batches
    config: TrainingConfig

    def __init__(
        self,
        run: Path,
        processes: ProcessGroup,
        hardware: Hardware,
        make: Callable[[], Batches],
        settings: Settings,
        config: TrainingConfig,
        progress: TrainingProgress,
    ) -> None:
        self._run, self._processes, self._hardware = run, processes, hardware
        self._make, self._settings, self._progress = make, settings, progress
        self.config = config
        self._start = 0.0

    def __call__(self) -> Plan:
        """Data, sizes and hyperparameters; rank 0 makes the data, the other processes open it."""
        self.batches = batches = self._shared_batches()
        gpt = self._settings.model(batches.vocabulary_size, batches.context)
        local = self._processes.local_world_size
        device = self._hardware.device
        tokens = batches.tokens_per_batch
        # As rank 0 decides: machines may have different memories.
        self.config = self._processes.broadcast(
            with_native(
                with_sharding(self.config, self._settings.fsdp, gpt, tokens, local, device), device
            )
        )
        check_memory(gpt, tokens, self.config, local, device)
        self._progress.stage("timing a few steps")
        probe, chosen = self._timed(gpt)
        steps = self._steps(gpt.parameters, probe)
        self.config = replace(self.config, steps=steps)
        self._tell_plan(gpt, probe, chosen)
        self._progress.begin(steps, batches.floor)
        self._start = time.perf_counter()
        return batches, gpt, self.config

    def _tell_plan(self, gpt: GPTConfig, step_seconds: float, chosen: Sequence[str]) -> None:
        """Tell sizes, steps, memory and time, and what was chosen for this machine."""
        batches, steps, processes = self.batches, self.config.steps, self.config.processes
        tokens = steps * batches.tokens_per_batch
        memory = shown_bytes(training_bytes(gpt, batches.tokens_per_batch, self.config))
        own = " above the program's own 300 MB" if self._hardware.device.type == "cpu" else ""
        self._progress.tell(
            f"{gpt.parameters:,} parameters ({count_of(gpt.layers, 'layer')} of width {gpt.width}, "
            f"{count_of(gpt.heads, 'head')}, vocabulary {gpt.vocabulary_size:,}, context "
            f"{gpt.context})"
        )
        self._progress.tell(
            f"{count_of(steps, 'step')} of {batches.tokens_per_batch:,} tokens: {tokens:,} tokens, "
            f"{tokens / gpt.parameters:.1f} a parameter; about {memory} of memory{own}"
            f"{' in each process' if self._processes.world_size > 1 else ''} and "
            f"{shown_time(steps * step_seconds)}"
        )
        self._progress.tell(_shown_recipe(self.config, gpt))
        self._note_passes(tokens)
        shares = [f"{processes} processes"] * (processes > 1)
        shares += [f"{self.config.accumulate} parts, one after another"] * (
            self.config.accumulate > 1
        )
        for fact in chosen:
            self._progress.tell(fact)
        if shares:
            self._progress.tell(f"each batch is divided: {', each with '.join(shares)}")
        if self.config.fsdp:
            whole = replace(self.config, fsdp=False)
            self._tell_sharding(training_bytes(gpt, batches.tokens_per_batch, whole))

    def _timed(self, gpt: GPTConfig) -> tuple[float, list[str]]:
        """The seconds of a step in the arithmetic that is chosen here, and what is told of it."""
        batches, processes, device = self.batches, self._processes, self._hardware.device
        minutes, facts = self._settings.minutes, []
        if device.type != "cpu":
            facts.append(f"on {device}, products in {self.config.dtype}")
        if self._hardware.dtype == "auto":
            self.config, why = faster_type(batches, gpt, self.config, processes)
            facts += [why] if why is not None else []
        elif device.type == "cpu" and self.config.dtype == "bfloat16" and not multiplies_bfloat16():
            self._progress.note(
                "this processor does not multiply bfloat16 (dtype): float32 would be faster"
            )
        steps = STEPS if minutes is None else PROBE_STEPS
        seconds = seconds_per_step(batches, gpt, self.config, steps, processes, device)
        of_run = self._steps(gpt.parameters, seconds) * seconds if minutes is None else 60 * minutes
        self.config, seconds, why = compilation_that_pays(
            batches, gpt, self.config, (seconds, of_run), processes, device
        )
        if why is not None and self.config.compiled:
            facts.append(why)
        elif why is not None:
            self._progress.note(why)
        return seconds, facts

    def _note_passes(self, tokens: int) -> None:
        """Note where a text is read so often that more steps hardly help."""
        if self.batches.floor is not None:  # a source draws new sentences
            return
        passes = tokens / self.batches.training_rows(1, 1).total
        if passes > MANY_PASSES:
            regularised = "" if self.config.dropout else "--dropout 0.1 makes that later, "
            self._progress.note(
                f"the text is read {passes:,.0f} times: beyond about {MANY_PASSES} the validation "
                f"may get worse while training (Muennighoff et al. 2023); {regularised}--steps or "
                "--minutes give a shorter run, more text or a smaller size a better one"
            )

    def _tell_sharding(self, replica: int) -> None:
        """Say that the processes share the model; `replica` are the bytes of one that did not."""
        automatic = self._settings.fsdp == "auto"
        reason = f", since a replica takes {shown_bytes(replica)} (--fsdp never keeps replicas)"
        self._progress.tell(
            "weights, gradients and optimisers are sharded over the processes (FSDP)"
            f"{reason * automatic}; checkpoints are in {self._run / SHARDED_CHECKPOINTS}"
        )

    def _shared_batches(self) -> Batches:
        if self._processes.is_rank_zero:
            batches = self._make()
            self._processes.broadcast((dict(batches.spec), batches.tokenizer.to_str()))
            return batches
        nothing: tuple[dict[str, Any], str] = ({}, "")
        spec, tokenizer = self._processes.broadcast(nothing)
        return batches_of_data(self._run, spec, Tokenizer.from_str(tokenizer))

    @property
    def seconds(self) -> float:
        """Since the first step began."""
        return time.perf_counter() - self._start

    def _steps(self, parameters: int, step_seconds: float) -> int:
        settings = self._settings
        if settings.minutes is not None:
            return steps_in(settings.minutes, step_seconds)
        if settings.steps is None and settings.size is not None:
            return chinchilla_steps(parameters, self.batches.tokens_per_batch)
        return self.config.steps


def _shown_recipe(config: TrainingConfig, gpt: GPTConfig) -> str:
    rows = (
        f"blocks of {count_of(config.muon_rows, 'row')}" if config.muon_rows else "whole matrices"
    )
    side = min(config.muon_rows or gpt.width, gpt.width, gpt.mlp_width)
    rows += " in three steps" * (config.muon_steps == 3 and side > SMALL_SIDE)
    more = f"; weight decay {config.weight_decay:g}" if config.weight_decay else ""
    more += f"; dropout {config.dropout:g}" if config.dropout else ""
    return (
        f"learning rates {config.muon_lr:g} (Muon, {rows}) and {config.adamw_lr:g} (AdamW): "
        f"{count_of(config.warmup_steps, 'step')} of warm-up, to zero over the last "
        f"{100 * config.decay_fraction:g} %{more}"
    )


def shown_time(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> shown_time(40), shown_time(4000), shown_time(400_000)
    ('40 s', '67 min', '4.6 days')
    """
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 100_000 else f"{seconds / 86_400:.1f} days"
