"""The training loop: cross-entropy falls, and beside it stands what is left to gain.

Every step minimises the mean negative log-likelihood of a batch.  On a source each token carries
its true surprisal ``-log p``, so ``mean(nll - surprisal)`` is an unbiased estimate of KL(p‖q), with
far less noise than the loss itself, and it costs nothing: the progress line and ``metrics.jsonl``
show it with its standard error.

The matrices of the blocks learn by Muon, everything else by AdamW; the learning rates warm up,
stay, and fall linearly to zero.  A batch is worked on by one thread a shard, each computing its own
gradient; the gradients are added in a fixed order, so a run is the same to the last bit every time.

A run can stop at any time.  ``checkpoint.safetensors`` holds weights, optimiser state and the step;
the batches are a function of the step (:mod:`kullback.batches`) and there is no dropout, so that is
all the state there is, and a resumed run ends with the very weights of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor

from kullback.batches import Batches, Shard, batches_from_spec
from kullback.errors import InvalidValueError, RunError
from kullback.files import write_atomically
from kullback.gpt import GPT, GPTConfig
from kullback.linear_cross_entropy import linear_cross_entropy
from kullback.muon import Muon
from kullback.run_folder import (
    load_tensors,
    locked,
    read_json,
    restore,
    save_model,
    save_tensors,
)
from kullback.text import tokenizer_config
from kullback.threads import workers

__all__ = ["Interrupted", "StepMetrics", "TrainingConfig", "resume", "train"]


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
            if name not in ("seed", "warmup_steps") and not value > 0:
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


@dataclass(frozen=True)
class StepMetrics:
    """What the last few steps showed; all in nats/token.

    `entropy` and `kl` are None on a text, whose entropy nobody knows.
    """

    step: int
    tokens: int
    cross_entropy: float
    entropy: float | None
    kl: float | None
    kl_standard_error: float | None
    tokens_per_second: float
    seconds_left: float
    learning_rate: float
    validation_cross_entropy: float | None = None
    validation_kl: float | None = None


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training stopped at the user's wish; the checkpoint at `step` is on disk."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped at step {step}; go on with: kullback train --resume {run}")
        self.run, self.step = run, step


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
    Raises `RunError` when `run` already holds a run, or another process is in it.
    """
    with locked(run):
        if (run / "training.json").exists():
            raise RunError(
                f"{run} already holds a run; go on with it (kullback train --resume {run}), or "
                "choose another folder"
            )
        if batches.vocabulary_size != gpt.vocabulary_size or batches.context > gpt.context:
            raise InvalidValueError(
                f"the model has a vocabulary of {gpt.vocabulary_size} and a context of "
                f"{gpt.context}; the data needs {batches.vocabulary_size} and {batches.context}"
            )
        description = {
            "data": dict(batches.spec),
            "floor": batches.floor,
            "config": asdict(config),
            "model": asdict(gpt),
            "torch": torch.__version__,
        }
        write_atomically(run / "tokenizer.json", batches.tokenizer.to_str(pretty=True).encode())
        write_atomically(
            run / "training.json", json.dumps(description, indent=2, ensure_ascii=False).encode()
        )
        state = _State(GPT(gpt, seed=config.seed), config)
        return _loop(run, batches, state, report, stop_at)


def resume(run: Path, report: Report = lambda metrics: None, stop_at: int | None = None) -> GPT:
    """Go on with the run in the folder `run`, bit for bit; a finished run is returned as it is.

    Raises `RunError` when the folder is no run, is damaged, is in use, or its data has changed.
    """
    description = read_json(run / "training.json")
    with locked(run):
        tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
        batches = batches_from_spec(description["data"], tokenizer)
        config = TrainingConfig(**description["config"])
        state = _State(GPT(GPTConfig(**description["model"]), seed=config.seed), config)
        if (run / "checkpoint.safetensors").exists():
            state.load(run / "checkpoint.safetensors")
        return _loop(run, batches, state, report, stop_at)


@dataclass
class _State:
    """All that changes from step to step."""

    model: GPT
    config: TrainingConfig
    step: int = 0
    tokens: int = 0
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
        torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        rate = self.config.rate(self.step)
        for optimiser, lr in (
            (self.muon, self.config.muon_lr),
            (self.adamw, self.config.adamw_lr),
        ):
            for group in optimiser.param_groups:
                group["lr"] = lr * rate
            optimiser.step()

    def save(self, path: Path) -> None:
        """Write everything; atomic."""
        tensors = {f"weight/{n}": w for n, w in zip(self.names, self.weights, strict=True)}
        for name, weight in zip(self.names, self.weights, strict=True):
            for optimiser in (self.muon, self.adamw):
                for key, value in optimiser.state.get(weight, {}).items():
                    tensors[f"{key}/{name}"] = value
        save_tensors(path, tensors, {"step": str(self.step), "tokens": str(self.tokens)})

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
        for full_name, value in tensors.items():
            key, name = full_name.split("/", 1)
            if key != "weight":
                optimiser = self.muon if key == "momentum_buffer" else self.adamw
                optimiser.state[by_name[name]][key] = value
        self.step, self.tokens = int(metadata["step"]), int(metadata["tokens"])


def _loop(
    run: Path, batches: Batches, state: _State, report: Report, stop_at: int | None
) -> GPT:
    config = state.config
    metrics = _MetricsFile(run / "metrics.jsonl", state.step)
    recent = _Sums()
    began, began_tokens, began_step = time.perf_counter(), state.tokens, state.step
    validation = batches.validation()
    with _stop_on_signal() as stopping, workers(config.shards) as pool:
        state.muon.pool, state.muon.parts = pool, config.shards
        while state.step < config.steps:
            shards = batches.shards(state.step, config.shards)
            total = sum(len(shard.targets_M) for shard in shards)
            results = list(
                pool.map(lambda shard: _gradients(state, shard, total), shards)  # noqa: B023
            )
            state.update([torch.stack(parts).sum(0) for parts in zip(*(g for g, _ in results))])
            for _, sums in results:
                recent += sums
            if not math.isfinite(recent.nll):
                raise RunError(
                    f"the loss is {recent.nll} at step {state.step}: training diverged; lower the "
                    f"learning rates (now {config.muon_lr} and {config.adamw_lr})"
                )
            state.step += 1
            state.tokens += total
            evaluating = state.step % config.evaluate_every == 0 or state.step == config.steps
            if state.step % config.log_every == 0 or evaluating or state.step == 1:
                speed = (state.tokens - began_tokens) / (time.perf_counter() - began)
                step_seconds = (time.perf_counter() - began) / (state.step - began_step)
                now = recent.metrics(
                    state, speed, step_seconds, _validate(state, validation, pool, evaluating)
                )
                metrics.append(now)
                report(now)
                recent = _Sums()
            stop = stopping() or state.step == stop_at
            if stop or state.step % config.checkpoint_every == 0 or state.step == config.steps:
                metrics.flush()
                state.save(run / "checkpoint.safetensors")
            if stop and state.step < config.steps:
                raise Interrupted(run, state.step)
    tokenizer = batches.tokenizer.to_str(pretty=True)
    save_model(run, state.model, tokenizer, tokenizer_config())
    return state.model


def _gradients(state: _State, shard: Shard, total: int) -> tuple[tuple[Tensor, ...], _Sums]:
    """One shard's part of the gradient of the batch's mean nll, and its sums."""
    hidden_MD = state.model.hidden_packed(shard.inputs_M, shard.layout)
    share_M = hidden_MD.new_full((len(hidden_MD),), 1.0 / total)
    loss, nll_M = linear_cross_entropy(
        hidden_MD, state.model.head_weight, shard.targets_M, share_M
    )
    return torch.autograd.grad(loss, state.weights), _Sums.of(nll_M, shard)


def _validate(
    state: _State, shards: list[Shard], pool: ThreadPoolExecutor, evaluating: bool
) -> _Sums | None:
    if not evaluating:
        return None
    total = _Sums()
    for _, sums in pool.map(lambda shard: _gradients(state, shard, 1), shards):
        total += sums
    return total


@dataclass
class _Sums:
    """Sufficient statistics of a stretch of steps: add them up, compute last."""

    tokens: int = 0
    nll: float = 0.0
    surprisal: float | None = 0.0
    squares: float = 0.0
    """Over sequences: excess², where excess = sum of (nll - surprisal)."""
    products: float = 0.0
    """Over sequences: excess × tokens."""
    token_squares: float = 0.0

    @classmethod
    def of(cls, nll_M: Float[Tensor, "M"], shard: Shard) -> _Sums:
        nll = nll_M.double().numpy()
        if shard.surprisals_M is None:
            return cls(len(nll), float(nll.sum()), None)
        surprisal = shard.surprisals_M.numpy()
        starts = np.cumsum(shard.lengths_N) - shard.lengths_N
        excess = np.add.reduceat(nll - surprisal, starts)
        lengths = shard.lengths_N.astype(np.float64)
        return cls(
            len(nll),
            float(nll.sum()),
            float(surprisal.sum()),
            float(excess @ excess),
            float(excess @ lengths),
            float(lengths @ lengths),
        )

    def __add__(self, other: _Sums) -> _Sums:
        known = self.surprisal is not None and other.surprisal is not None
        return _Sums(
            self.tokens + other.tokens,
            self.nll + other.nll,
            self.surprisal + other.surprisal if known else None,  # type: ignore[operator]
            self.squares + other.squares,
            self.products + other.products,
            self.token_squares + other.token_squares,
        )

    @property
    def kl(self) -> float | None:
        return None if self.surprisal is None else (self.nll - self.surprisal) / self.tokens

    @property
    def kl_standard_error(self) -> float | None:
        """Of a ratio of sums over independent sentences (Cochran 1977, eq. 2.39)."""
        if self.kl is None:
            return None
        residual = self.squares - 2 * self.kl * self.products + self.kl**2 * self.token_squares
        return math.sqrt(max(residual, 0.0)) / self.tokens

    def metrics(
        self, state: _State, speed: float, step_seconds: float, validation: _Sums | None
    ) -> StepMetrics:
        return StepMetrics(
            step=state.step,
            tokens=state.tokens,
            cross_entropy=self.nll / self.tokens,
            entropy=None if self.surprisal is None else self.surprisal / self.tokens,
            kl=self.kl,
            kl_standard_error=self.kl_standard_error,
            tokens_per_second=speed,
            seconds_left=step_seconds * (state.config.steps - state.step),
            learning_rate=state.config.muon_lr * state.config.rate(state.step - 1),
            validation_cross_entropy=validation and validation.nll / validation.tokens,
            validation_kl=validation and validation.kl,
        )


class _MetricsFile:
    """``metrics.jsonl``: lines beyond the checkpoint that a run resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.lines = [line for line in read_metrics(path) if line["step"] <= step]

    def append(self, metrics: StepMetrics) -> None:
        self.lines.append(asdict(metrics))

    def flush(self) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomically(self.path, text.encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; none where the file is missing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a wish that the loop can ask for; a second Ctrl-C is at once."""
    wishes: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: whoever started us handles signals
        pass
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def training_description(run: Path) -> Mapping[str, Any]:
    """What ``training.json`` says of a run; `RunError` where there is none."""
    return read_json(run / "training.json")
