"""The training loop: cross-entropy falls, and beside it stands what is left to gain.

Every step minimises the mean negative log-likelihood of a batch.  On a source each token carries
its true surprisal ``-log p``, so ``mean(nll - surprisal)`` is an unbiased estimate of KL(p‖q), with
far less noise than the loss itself, and it costs nothing: the progress line and ``metrics.jsonl``
show it with its standard error.

The matrices of the blocks learn by Muon, everything else by AdamW; the learning rates warm up,
stay, and fall linearly to zero.  A batch is worked on by one thread a shard, each computing its own
gradient; the gradients are added in a fixed order, so a run is the same to the last bit every time.

A run can stop at any time.  ``checkpoint.safetensors`` holds the weights, the optimisers' state,
the step, and the sums since the last line of metrics; the batches are a function of the step
(:mod:`kullback.training.batches`) and there is no dropout.  That is all the state there is, and a
resumed run ends with the very weights, and the very curve, of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.files import write_atomically
from kullback.runtime.threads import workers
from kullback.text.tokenizer_training import tokenizer_config
from kullback.training.batches import Batches, Shard, batches_from_spec
from kullback.training.gpt import GPT, GPTConfig
from kullback.training.linear_cross_entropy import linear_cross_entropy
from kullback.training.metrics import MetricsFile, StepMetrics, Sums, read_metrics
from kullback.training.muon import Muon
from kullback.training.run_folder import (
    load_tensors,
    load_tokenizer,
    locked,
    read_json,
    restore,
    save_model,
    save_tensors,
)

__all__ = [
    "Interrupted",
    "StepMetrics",
    "TrainingConfig",
    "read_metrics",
    "resume",
    "train",
    "training_description",
]

# What a run writes, but for tokenizer.json, which is there first.
RUN_FILES = (
    "training.json",
    "checkpoint.safetensors",
    "config.json",
    "model.safetensors",
    "metrics.jsonl",
)
# A uniform guess costs log V.  Rates that are too high make a model that is wrong with conviction,
# and costs tens to thousands of nats before, if ever, an infinity shows.
HOPELESS = 10.0


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults are those that `docs/log.md` found."""

    steps: int = 800
    muon_lr: float = 0.02
    adamw_lr: float = 0.003
    warmup_steps: int = 20
    decay_fraction: float = 0.7
    """The last part of the steps, over which the learning rates fall to zero."""
    clip_norm: float = 1.0
    shards: int = 2
    """Threads at work; part of the result, since sums round by their order."""
    seed: int = 0
    """Of the initial weights."""
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("seed", "warmup_steps"):
                if value < 0:
                    raise InvalidValueError(f"{name} is {value}: it must be at least 0")
            elif not value > 0:
                raise InvalidValueError(f"{name} is {value}: it must be positive")
        if not self.decay_fraction <= 1:
            raise InvalidValueError(
                f"decay_fraction is {self.decay_fraction}: it must lie in (0, 1]"
            )

    def rate(self, step: int) -> float:
        """The factor on the learning rates at `step`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / (self.decay_fraction * self.steps)
        return min(warm, 1.0, left)


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training stopped at the user's wish; the checkpoint at `step` is on disk."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped at step {step}; go on with: {_resume_command(run)}")
        self.run, self.step = run, step


def _resume_command(run: Path) -> str:
    return f"kullback train --resume {shlex.quote(str(run))}"


Report = Callable[[StepMetrics], None]


def train(
    run: Path,
    batches: Batches,
    gpt: GPTConfig,
    config: TrainingConfig,
    report: Report = lambda metrics: None,
    stop_at: int | None = None,
) -> GPT:
    """Train a new model into the folder `run` and return it.

    `report` is called every ``config.log_every`` steps.  Ctrl-C (SIGINT) or SIGTERM finishes the
    step, writes a checkpoint and raises `Interrupted`; so does reaching step `stop_at`.
    Raises `RunError` when `run` already holds a run or a model, another process is in it, it cannot
    be written, or training diverges; `InvalidValueError` when model and data do not fit.
    """
    if batches.vocabulary_size != gpt.vocabulary_size or batches.context > gpt.context:
        raise InvalidValueError(
            f"the model has a vocabulary of {gpt.vocabulary_size} and a context of {gpt.context}: "
            f"the data needs {batches.vocabulary_size} and at least {batches.context}"
        )
    description = {
        "data": dict(batches.spec),
        "floor": batches.floor,
        "config": asdict(config),
        "model": asdict(gpt),
        "torch": torch.__version__,
    }
    tokenizer = batches.tokenizer.to_str(pretty=True).encode()
    model = GPT(gpt, seed=config.seed)
    with locked(run), _stop_on_signal() as stopping:
        _check_new(run, tokenizer)
        write_atomically(run / "tokenizer.json", tokenizer)
        # From here on it is a run that can be resumed.
        write_atomically(
            run / "training.json", json.dumps(description, indent=2, ensure_ascii=False).encode()
        )
        return _loop(run, batches, _State(model, config), report, stopping, stop_at)


def _check_new(run: Path, tokenizer: bytes) -> None:
    """Raise `RunError` where training into `run` would overwrite something."""
    if (run / "training.json").exists():
        raise RunError(
            f"{run} already holds a run; go on with it ({_resume_command(run)}), or choose "
            "another folder"
        )
    found = [name for name in RUN_FILES if (run / name).exists()]
    # A run that was killed at its very beginning leaves a tokenizer.json, the same as ours.
    before = run / "tokenizer.json"
    if before.exists() and before.read_bytes() != tokenizer:
        found.append("tokenizer.json")
    if found:
        raise RunError(
            f"{run} already holds {' and '.join(found)}, which training would overwrite; choose "
            "another folder with -o"
        )


def resume(run: Path, report: Report = lambda metrics: None, stop_at: int | None = None) -> GPT:
    """Go on with the run in the folder `run`, bit for bit; a finished run is returned as it is.

    Raises `RunError` when the folder is no run, is damaged, is in use, or its data has changed.
    """
    training_description(run)  # or there is no folder to lock
    with locked(run), _stop_on_signal() as stopping:
        description = training_description(run)
        tokenizer = load_tokenizer(run / "tokenizer.json")
        try:
            batches = batches_from_spec(description["data"], tokenizer)
        except (KeyError, TypeError) as error:
            raise _no_description(run, error) from None
        config = TrainingConfig(**description["config"])
        state = _State(GPT(GPTConfig(**description["model"]), seed=config.seed), config)
        if (run / "checkpoint.safetensors").exists():
            state.load(run / "checkpoint.safetensors")
        return _loop(run, batches, state, report, stopping, stop_at)


@dataclass
class _State:
    """All that changes from step to step."""

    model: GPT
    config: TrainingConfig
    step: int = 0
    tokens: int = 0
    recent: Sums = field(default_factory=Sums)
    """Of the steps since the last line of metrics."""
    muon: Muon = field(init=False)
    adamw: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.names = [name for name, _ in self.model.named_parameters()]
        self.weights = list(self.model.parameters())
        hidden = [w.ndim == 2 and ".layers." in n for n, w in self.model.named_parameters()]
        matrices = [w for w, is_hidden in zip(self.weights, hidden, strict=True) if is_hidden]
        others = [w for w, is_hidden in zip(self.weights, hidden, strict=True) if not is_hidden]
        self.muon = Muon(matrices)
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def update(self, gradients: list[Tensor]) -> None:
        """Clip the gradient and take one step of both optimisers."""
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        if not torch.isfinite(norm):
            raise self.diverged(f"the gradient's norm is {norm}")
        rate = self.config.rate(self.step)
        for optimiser, lr in (
            (self.muon, self.config.muon_lr),
            (self.adamw, self.config.adamw_lr),
        ):
            for group in optimiser.param_groups:
                group["lr"] = lr * rate
            optimiser.step()

    def check(self, loss: float) -> None:
        """Raise `RunError` for a mean nll that shows that training has diverged."""
        uniform = math.log(self.model.config.vocabulary_size)
        if not loss <= HOPELESS * max(uniform, 1.0):
            raise self.diverged(f"the loss is {loss:.4g} nats, where guessing costs {uniform:.4g}")

    def diverged(self, what: str) -> RunError:
        """The error that says so."""
        return RunError(
            f"training diverged: {what} at step {self.step}; train a new run with lower learning "
            f"rates (now muon_lr {self.config.muon_lr:g} and adamw_lr {self.config.adamw_lr:g})"
        )

    def save(self, path: Path) -> None:
        """Write everything; atomic."""
        tensors = {f"weight/{n}": w for n, w in zip(self.names, self.weights, strict=True)}
        for name, weight in zip(self.names, self.weights, strict=True):
            for optimiser in (self.muon, self.adamw):
                for key, value in optimiser.state.get(weight, {}).items():
                    tensors[f"{key}/{name}"] = value
        # JSON writes floats so that they read back the same to the last bit.
        rest = {"step": self.step, "tokens": self.tokens, "recent": asdict(self.recent)}
        save_tensors(path, tensors, {"state": json.dumps(rest)})

    def load(self, path: Path) -> None:
        """Read what `save` wrote; `RunError` where it does not fit this model."""
        tensors, metadata = load_tensors(path)
        weights = {
            name.removeprefix("weight/"): value
            for name, value in tensors.items()
            if name.startswith("weight/")
        }
        restore(self.model, weights, path)
        by_name = dict(zip(self.names, self.weights, strict=True))
        try:
            for full_name, value in tensors.items():
                key, name = full_name.split("/", 1)
                if key != "weight":
                    optimiser = self.muon if key == "momentum_buffer" else self.adamw
                    optimiser.state[by_name[name]][key] = value
            rest = json.loads(metadata["state"])
            self.step, self.tokens = rest["step"], rest["tokens"]
            self.recent = Sums(**rest["recent"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is not a checkpoint of this program ({error!r}); restore it, or train a "
                "new run"
            ) from None


def _loop(
    run: Path,
    batches: Batches,
    state: _State,
    report: Report,
    stopping: Callable[[], bool],
    stop_at: int | None,
) -> GPT:
    config = state.config
    metrics = MetricsFile(run / "metrics.jsonl", state.step)
    clock = _Clock(state)
    validation = batches.validation()
    with workers(config.shards) as pool:
        state.muon.pool, state.muon.parts = pool, config.shards
        while state.step < config.steps:
            _step(state, batches.shards(state.step, config.shards), pool)
            evaluating = state.step % config.evaluate_every == 0 or state.step == config.steps
            if state.step % config.log_every == 0 or evaluating or state.step == 1:
                measured = _validate(state, validation, pool) if evaluating else None
                now = _metrics(state, clock, measured)
                metrics.append(now)
                report(now)
                state.recent = Sums()
            stop = stopping() or state.step == stop_at
            if stop or state.step % config.checkpoint_every == 0 or state.step == config.steps:
                # In this order: lines beyond the checkpoint are dropped, missing ones are lost.
                metrics.flush()
                state.save(run / "checkpoint.safetensors")
            if stop and state.step < config.steps:
                raise Interrupted(run, state.step)
        tokenizer = batches.tokenizer.to_str(pretty=True)
        save_model(run, state.model, tokenizer, tokenizer_config())
    return state.model


def _step(state: _State, shards: list[Shard], pool: ThreadPoolExecutor) -> None:
    """One batch: gradients of its shards side by side, then one update."""
    total = sum(len(shard.targets_M) for shard in shards)
    results = list(pool.map(lambda shard: _gradients(state, shard, total), shards))
    batch = sum((sums for _, sums in results), Sums())
    state.check(batch.cross_entropy)
    gradients = zip(*(found for found, _ in results), strict=True)
    state.update([torch.stack(parts).sum(0) for parts in gradients])
    state.recent += batch
    state.step += 1
    state.tokens += total


def _gradients(state: _State, shard: Shard, total: int) -> tuple[tuple[Tensor, ...], Sums]:
    """One shard's part of the gradient of the batch's mean nll, and its sums."""
    hidden_MD = state.model.hidden_packed(shard.inputs_M, shard.layout)
    share_M = hidden_MD.new_full((len(hidden_MD),), 1.0 / total)
    loss, nll_M = linear_cross_entropy(hidden_MD, state.model.head_weight, shard.targets_M, share_M)
    return torch.autograd.grad(loss, state.weights), Sums.of(nll_M, shard)


def _validate(state: _State, shards: list[Shard], pool: ThreadPoolExecutor) -> Sums:
    found = pool.map(lambda shard: _gradients(state, shard, 1)[1], shards)
    total = sum(found, Sums())
    state.check(total.cross_entropy)
    return total


class _Clock:
    """How fast this process goes."""

    def __init__(self, state: _State) -> None:
        self.tokens, self.step, self.began = state.tokens, state.step, time.perf_counter()

    def speed(self, state: _State) -> tuple[float, float]:
        """Tokens per second, and seconds left."""
        seconds = time.perf_counter() - self.began
        step_seconds = seconds / (state.step - self.step)
        left = state.config.steps - state.step
        return (state.tokens - self.tokens) / seconds, left * step_seconds


def _metrics(state: _State, clock: _Clock, validation: Sums | None) -> StepMetrics:
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
        learning_rate=state.config.muon_lr * state.config.rate(state.step - 1),
        validation_cross_entropy=None if validation is None else validation.cross_entropy,
        validation_kl=None if validation is None else validation.kl,
    )


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a wish that the loop can ask for; a second Ctrl-C is at once."""
    wishes: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    previous: dict[signal.Signals, Any] = {}
    try:
        with suppress(ValueError):  # not in the main thread: whoever started us handles signals
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, note)
        yield lambda: bool(wishes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def training_description(run: Path) -> Mapping[str, Any]:
    """What ``training.json`` says of a run: its data, config, model and floor.

    Raises `RunError` where there is none, or where it does not describe a run.
    """
    description = read_json(run / "training.json")
    try:
        config = description["config"]
        for name, place in (("data", description), ("floor", description), ("steps", config)):
            if name not in place:
                raise KeyError(name)
        TrainingConfig(**config)
        GPTConfig(**description["model"])
    except (KeyError, TypeError, InvalidValueError) as error:
        raise _no_description(run, error) from None
    return description


def _no_description(run: Path, error: Exception) -> RunError:
    reason = f"it has no {error}" if isinstance(error, KeyError) else error
    return RunError(
        f"{run / 'training.json'} does not describe a run: {reason}; restore it, or train a new run"
    )
