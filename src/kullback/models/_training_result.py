"""What a finished training run reached on its validation data, beside its n-gram baselines."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from kullback.errors import RunError
from kullback.models.ngram_baseline import TEXT_ORDERS, baseline_losses
from kullback.results.measurement import Measurement
from kullback.results.training import NgramBaseline, TrainingRun, TrainingSeconds
from kullback.runtime.memory import return_free_memory, returned_freed_memory
from kullback.runtime.threads import workers
from kullback.training.batches import Batches, Shard
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.loop import validation_tokens
from kullback.training.loss import token_losses
from kullback.training.metrics import read_metrics, write_metrics
from kullback.training.progress import TrainingProgress

__all__ = ["training_result"]

Losses: TypeAlias = Float64[np.ndarray, "M"]

# In the last line of the metrics of a text.
SUMMARY = "summary"


def training_result(
    run: Path,
    batches: Batches,
    model: GPT,
    config: TrainingConfig,
    training_seconds: float,
    progress: TrainingProgress,
) -> TrainingRun:
    """Measure the finished model and its baselines on the validation data."""
    progress.stage("scoring the validation data")
    start = time.perf_counter()
    limit = validation_tokens(config.steps, batches)
    shards = batches.validation(limit)
    validation = _Validation.of(shards, model, config.shards)
    return_free_memory()  # of training
    progress.stage("fitting n-gram baselines")
    start_of_baseline = time.perf_counter()
    before = batches.preceding(limit, max(TEXT_ORDERS) - 1)
    with returned_freed_memory():
        losses = baseline_losses(batches, config.steps, shards, before)
    seconds = TrainingSeconds(
        training=training_seconds,
        validation=start_of_baseline - start,
        baseline=time.perf_counter() - start_of_baseline,
    )
    on_text = batches.floor is None

    def baseline(order: int, nll_M: Losses) -> NgramBaseline:
        return NgramBaseline(
            order=order,
            cross_entropy=validation.nats(nll_M),
            bits_per_byte=validation.bits_per_byte(nll_M),
        )

    uniform_M = np.full(len(validation.nll_M), math.log(batches.vocabulary_size))
    uniform = baseline(0, uniform_M)
    exact = msgspec.structs.replace(
        uniform.cross_entropy,
        value=float(uniform_M[0]),
        standard_error=0.0,
        clusters=0,
        bounds=None,
    )
    uniform = msgspec.structs.replace(uniform, cross_entropy=exact)
    baselines = {order: baseline(order, column[:]) for order, column in losses.windows.items()}
    unigram = baselines.pop(1, None)
    lowest = min(baselines, key=lambda order: baselines[order].cross_entropy.value)
    running = (baseline(order, column[:]) for order, column in losses.running.items())
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise RunError(f"{run / 'metrics.jsonl'} is missing or empty; restore it")
    step_before = lines[-2]["step"] if len(lines) > 1 else 0
    result = TrainingRun(
        folder=str(run),
        steps=config.steps,
        tokens=lines[-1]["tokens"],
        training_cross_entropy=lines[-1]["cross_entropy"],
        training_steps=(step_before + 1, lines[-1]["step"]),
        cross_entropy=validation.nats(validation.nll_M),
        bits_per_byte=validation.bits_per_byte(validation.nll_M),
        floor=batches.floor,
        kl=validation.kl,
        baselines=tuple(baselines.values()),
        baseline_tokens=losses.fitted_tokens,
        training_split_tokens=losses.training_tokens,
        difference=validation.nats(validation.nll_M - losses.windows[lowest][:]),
        seconds=seconds,
        uniform=uniform if on_text else None,
        unigram=unigram,
        running_text=min(running, key=lambda of_order: of_order.cross_entropy.value, default=None),
        cut_at=batches.cut_at,
    )
    if "shards" in batches.spec and SUMMARY not in lines[-1]:
        write_metrics(run / "metrics.jsonl", [*lines[:-1], lines[-1] | {SUMMARY: _summary(result)}])
    return result


def _ends(mean: Measurement) -> list[float] | None:
    """The ends of an interval; None where a text is too short to have one."""
    return list(mean.interval) if all(map(math.isfinite, mean.interval)) else None


def _summary(result: TrainingRun) -> dict[str, object]:
    """What the last line of ``metrics.jsonl`` says of the whole run on a text."""
    assert result.bits_per_byte is not None
    named = {
        "uniform": result.uniform,
        "unigram": result.unigram,
        f"kneser_ney_{result.best_baseline.order}": result.best_baseline,
    }
    if result.running_text is not None:
        named[f"kneser_ney_{result.running_text.order}_running_text"] = result.running_text
    return {
        "training_cross_entropy": result.training_cross_entropy,
        "validation_cross_entropy": result.cross_entropy.value,
        "validation_cross_entropy_interval": _ends(result.cross_entropy),
        "bits_per_byte": result.bits_per_byte.value,
        "bits_per_byte_interval": _ends(result.bits_per_byte),
        "baselines": {
            name: {
                "cross_entropy": baseline.cross_entropy.value,
                "bits_per_byte": baseline.bits_per_byte and baseline.bits_per_byte.value,
            }
            for name, baseline in named.items()
            if baseline is not None
        },
    }


@dataclass(frozen=True)
class _Validation:
    """The validation tokens of a run: losses of the model, and what belongs to each token.

    Axis: M target tokens.
    """

    nll_M: Float64[np.ndarray, "M"]
    surprisal_M: Float64[np.ndarray, "M"] | None
    document_M: Int64[np.ndarray, "M"] | None
    """Documents of a text, or sentences of a source; None for one text."""
    bytes_M: Int64[np.ndarray, "M"] | None

    @classmethod
    def of(cls, shards: list[Shard], model: GPT, threads: int) -> _Validation:
        """Score the validation data of `batches`, a shard per thread."""
        with workers(threads) as pool:
            losses = list(pool.map(lambda shard: token_losses(model, shard), shards))
        surprisals = [s.surprisals_M.numpy() for s in shards if s.surprisals_M is not None]
        lengths_N = np.concatenate([shard.lengths_N for shard in shards])
        sizes = [shard.bytes_M for shard in shards if shard.bytes_M is not None]
        documents = [shard.document_M for shard in shards if shard.document_M is not None]
        document_M = np.concatenate(documents) if documents else None
        if surprisals:
            document_M = np.repeat(np.arange(len(lengths_N)), lengths_N)
        return cls(
            np.concatenate(losses),
            np.concatenate(surprisals) if surprisals else None,
            document_M,
            np.concatenate(sizes) if sizes else None,
        )

    @property
    def kl(self) -> Measurement | None:
        """The mean of nll − true surprisal; None on a text."""
        return None if self.surprisal_M is None else self.nats(self.nll_M - self.surprisal_M)

    def nats(self, values_M: Float64[np.ndarray, "M"]) -> Measurement:
        """The mean in nats/token."""
        from kullback.uncertainty.intervals import mean_with_interval  # and SciPy, after counting

        return mean_with_interval(values_M, self.document_M, "nats/token")

    def bits_per_byte(self, nll_M: Float64[np.ndarray, "M"]) -> Measurement | None:
        """The sum in bits over the bytes of the tokens; None on a source."""
        from kullback.uncertainty.intervals import mean_with_interval

        if self.bytes_M is None:
            return None
        return mean_with_interval(nll_M / math.log(2), self.document_M, "bits/byte", self.bytes_M)
