"""What a finished training run reached on its validation data, beside its n-gram baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from jaxtyping import Float64

from kullback.errors import RunError
from kullback.models.ngram_baseline import TEXT_ORDERS, baseline_losses
from kullback.results.measurement import Measurement
from kullback.results.training import NgramBaseline, TrainingRun, TrainingSeconds
from kullback.runtime.columns import IN_MEMORY_EACH, PART_ROWS, Column
from kullback.runtime.memory import returned_freed_memory, trim_arenas
from kullback.runtime.threads import map_ahead, workers
from kullback.training.batches import Batches, Shard
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.loop import validation_tokens
from kullback.training.loss import token_losses
from kullback.training.metrics import read_metrics, write_metrics
from kullback.training.progress import TrainingProgress

__all__ = ["training_result"]

#: The losses, in nats, of the targets in a slice of all of them.
Losses: TypeAlias = Callable[[slice], Float64[np.ndarray, "m"]]

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
    trim_arenas()  # of training
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
    on_text, nll = batches.floor is None, validation.nll.__getitem__

    def baseline(order: int, nll: Losses) -> NgramBaseline:
        return NgramBaseline(
            order=order,
            cross_entropy=validation.nats(nll),
            bits_per_byte=validation.bits_per_byte(nll),
        )

    uniform_nll = math.log(batches.vocabulary_size)
    uniform = baseline(0, lambda rows: np.full(rows.stop - rows.start, uniform_nll))
    uniform = msgspec.structs.replace(
        uniform,
        cross_entropy=_exactly(uniform.cross_entropy, uniform_nll),
        bits_per_byte=uniform.bits_per_byte and _exactly_where_constant(uniform.bits_per_byte),
    )
    baselines = {order: baseline(order, of.__getitem__) for order, of in losses.windows.items()}
    unigram = baselines.pop(1, None)
    lowest = min(baselines, key=lambda order: baselines[order].cross_entropy.value)
    running = (baseline(order, of.__getitem__) for order, of in losses.running.items())
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
        cross_entropy=validation.nats(nll),
        bits_per_byte=validation.bits_per_byte(nll),
        floor=batches.floor,
        kl=validation.kl,
        baselines=tuple(baselines.values()),
        baseline_tokens=losses.fitted_tokens,
        training_split_tokens=losses.training_tokens,
        difference=validation.nats(lambda rows: nll(rows) - losses.windows[lowest][rows]),
        seconds=seconds,
        uniform=uniform if on_text else None,
        unigram=unigram,
        running_text=min(running, key=lambda of_order: of_order.cross_entropy.value, default=None),
        cut_at=batches.cut_at,
    )
    if "shards" in batches.spec and SUMMARY not in lines[-1]:
        write_metrics(run / "metrics.jsonl", [*lines[:-1], lines[-1] | {SUMMARY: _summary(result)}])
    return result


def _exactly(mean: Measurement, value: float) -> Measurement:
    """A mean whose value is known."""
    return msgspec.structs.replace(
        mean, value=value, standard_error=0.0, clusters=0, bounds=None, method="exact", note=""
    )


def _exactly_where_constant(per_byte: Measurement) -> Measurement:
    """That of the uniform distribution: exact where all tokens have equally many bytes."""
    is_constant = per_byte.standard_error < 1e-12 * per_byte.value
    return _exactly(per_byte, per_byte.value) if is_constant else per_byte


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

    Axis: m target tokens of a slice.
    """

    nll: Column
    surprisal: Column | None
    document: Column | None
    """Documents of a text, or sentences of a source; None for one text."""
    text_bytes: Column | None

    @classmethod
    def of(cls, shards: Sequence[Shard], model: GPT, threads: int) -> _Validation:
        """Score the shards of the validation data, one in each of some threads."""
        nll, sentences = Column(np.float64, IN_MEMORY_EACH), 0
        surprisal, document, text_bytes = (
            Column(dtype, IN_MEMORY_EACH) for dtype in (np.float64, np.int64, np.uint32)
        )
        with workers(threads) as pool:
            scored = map_ahead(
                pool, lambda shard: (shard, token_losses(model, shard)), shards, threads
            )
            for shard, nll_M in scored:
                nll.append(nll_M)
                if shard.surprisals_M is not None:
                    surprisal.append(shard.surprisals_M.numpy())
                    ends = sentences + len(shard.lengths_N)
                    document.append(np.repeat(np.arange(sentences, ends), shard.lengths_N))
                    sentences = ends
                elif shard.document_M is not None:
                    document.append(shard.document_M)
                if shard.bytes_M is not None:
                    text_bytes.append(shard.bytes_M)
        return cls(
            nll,
            surprisal if len(surprisal) else None,
            document if len(document) else None,
            text_bytes if len(text_bytes) else None,
        )

    @property
    def kl(self) -> Measurement | None:
        """The mean of nll − true surprisal; None on a text."""
        surprisal = self.surprisal
        return None if surprisal is None else self.nats(lambda m: self.nll[m] - surprisal[m])

    def nats(self, nll: Losses) -> Measurement:
        """The mean in nats/token."""
        return self._mean(nll, lambda rows: np.ones(rows.stop - rows.start), "nats/token")

    def bits_per_byte(self, nll: Losses) -> Measurement | None:
        """The sum in bits over the bytes of the tokens; None on a source."""
        if self.text_bytes is None:
            return None
        return self._mean(
            lambda rows: nll(rows) / math.log(2), self.text_bytes.__getitem__, "bits/byte"
        )

    def _mean(self, values: Losses, denominator: Losses, unit: str) -> Measurement:
        """Σ values / Σ denominator over all tokens, of which some are in memory at a time."""
        from kullback.uncertainty.means import MeanRows, means  # and SciPy, after counting
        from kullback.uncertainty.sweeps import compute

        def read(rows: slice) -> MeanRows:
            document_m = None if self.document is None else self.document[rows]
            return MeanRows(document_m, denominator(rows), [values(rows)])

        def parts() -> Iterator[slice]:
            for begin in range(0, len(self.nll), PART_ROWS):
                yield slice(begin, min(begin + PART_ROWS, len(self.nll)))

        (mean,) = compute(means(read, [unit]), parts)
        return mean
