"""The rungs of a ladder: each a run folder that is trained once, and its losses on one sample.

Axes: M target tokens, C pieces of the sample (sentences, documents or blocks), R rungs, B
replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from kullback.errors import RunError
from kullback.ladder.plan import PlannedRung, Request
from kullback.models.training_plan import Settings
from kullback.runtime.files import UnwritableError
from kullback.runtime.threads import workers
from kullback.sources.catalogue import open_source
from kullback.training.batches import Batches, Shard
from kullback.training.config import TrainingConfig
from kullback.training.description import batches_of_run, read_description
from kullback.training.loop import Plan, resume, train_prepared
from kullback.training.loss import token_losses
from kullback.training.metrics import read_metrics
from kullback.training.prepare_text import prepare_text
from kullback.training.progress import TrainingProgress
from kullback.training.run_folder import load_model, load_tokenizer
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.shared_tokens import share_tokens

__all__ = ["Sample", "TrainedRung", "bootstrap", "check_same_data", "measured", "trained"]

SENTENCES = 8192
# Of a text that is one document, consecutive windows.
BLOCKS = 64
VALIDATION_TOKENS = 200_000
# Replicates whose weights are in memory at once.
AT_ONCE = 50
NEVER = 10**9


@dataclass(frozen=True)
class TrainedRung:
    """A finished run, its tokens, and the nll of each piece of the sample (`Sample.nll`)."""

    folder: Path
    parameters: int
    tokens: int
    nll_C: Float64[np.ndarray, "C"]


@dataclass(frozen=True, eq=False)
class Sample:
    """The validation sample that all rungs share."""

    shards: Sequence[Shard]
    piece: Literal["sentence", "document", "block"]
    piece_M: Int64[np.ndarray, "M"]
    """The piece of each target, from 0."""
    training_tokens: int | None
    """Of the training split of a text; None on a source, whose sentences are always new."""
    entropy: float | None = None
    """Of the source, exact, in nats/token."""

    @property
    def tokens(self) -> Float64[np.ndarray, "C"]:
        """Tokens of each piece."""
        return np.bincount(self.piece_M).astype(np.float64)

    def nll(self, nll_M: Float64[np.ndarray, "M"]) -> Float64[np.ndarray, "C"]:
        """The nll of each piece; on a source with the exact entropy in place of the true surprisal.

        That is a control variate: the surprisal of the sampled tokens, less its known mean, is what
        a sample of the source is off by for a model that is near it.
        """
        if self.entropy is not None:
            surprisal_M = np.concatenate([_surprisals(shard) for shard in self.shards])
            nll_M = nll_M - surprisal_M + self.entropy
        return np.bincount(self.piece_M, weights=nll_M)

    @classmethod
    def of(cls, request: Request, run: Path) -> Sample:
        """Sentences of the source that no rung is trained on, or the validation split of a run."""
        if request.source is not None:
            source = open_source(request.source)
            batches = SentenceBatches(source, SENTENCES, request.seed)
            shards: Sequence[Shard] = batches.shards(2**41, 8)  # a step that no run reaches
            lengths_N = np.concatenate([shard.lengths_N for shard in shards])
            piece_M = np.repeat(np.arange(len(lengths_N)), lengths_N)
            return cls(shards, "sentence", piece_M, None, batches.floor)
        text = _batches(run)
        shards = text.validation(VALIDATION_TOKENS)
        training_tokens = text.training_rows(1, 1).total
        documents = [shard.document_M for shard in shards if shard.document_M is not None]
        if documents:
            piece_M = np.unique(np.concatenate(documents), return_inverse=True)[1]
            return cls(shards, "document", piece_M, training_tokens)
        tokens = sum(len(shard.targets_M) for shard in shards)
        blocks = max(1, min(BLOCKS, tokens // text.context))
        return cls(shards, "block", np.arange(tokens) * blocks // tokens, training_tokens)


def trained(
    run: Path, request: Request, rung: PlannedRung, first: Path, progress: TrainingProgress
) -> None:
    """Train the rung, resume it, or leave it as it is where it is finished.

    On a text the rungs share the tokens of the `first` one.  A rung has no result of its own, and
    so no n-gram baselines: all rungs are scored on one sample.
    """
    if (run / "model.safetensors").exists():
        description = read_description(run)
        if (description.config.steps, description.model.width) != (rung.steps, rung.width):
            raise RunError(
                f"{run} is not the rung of the plan ({rung.steps:,} steps, width {rung.width}): "
                "remove it, or choose another folder with -o"
            )
    elif (run / "training.json").exists():
        description = read_description(run)
        progress.begin(description.config.steps, description.floor)
        with _resumed_by_the_ladder():
            resume(run, progress.step, progress=progress)
    else:
        with _resumed_by_the_ladder():
            _train(run, request, rung, first, progress)


@contextmanager
def _resumed_by_the_ladder() -> Iterator[None]:
    """Name the command of the ladder where a full disk ends a rung, not that of the run."""
    try:
        yield
    except RunError as error:
        if isinstance(error.__cause__, UnwritableError):
            raise error.__cause__ from None
        raise


def _train(
    run: Path, request: Request, rung: PlannedRung, first: Path, progress: TrainingProgress
) -> None:
    """Train a new run, as `kullback.train` does, without its probe and result."""
    settings = Settings(steps=rung.steps, width=rung.width, batch=rung.batch)

    def prepare() -> Plan:
        batches: Batches
        if request.source is not None:
            source = open_source(request.source, 0, rung.seed)
            batches = SentenceBatches(source, settings.sentences, rung.seed)
        else:
            options = settings.text_options(request.text, (), None, None, rung.seed)
            if run == first:
                batches = prepare_text(run, options, progress)
            else:
                batches = share_tokens(run, first, options, progress)
        config = TrainingConfig(
            rung.steps, seed=rung.seed, shards=request.threads, evaluate_every=NEVER
        )
        progress.begin(rung.steps, batches.floor)
        return batches, settings.model(batches.vocabulary_size, batches.context), config

    train_prepared(run, prepare, progress.step)


def measured(run: Path, sample: Sample, threads: int) -> TrainedRung:
    """The losses of a finished run on the sample."""
    model = load_model(run)
    with workers(threads) as pool:
        nll_M = np.concatenate(
            list(pool.map(lambda shard: token_losses(model, shard), sample.shards))
        )
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise RunError(f"{run / 'metrics.jsonl'} is missing or empty; restore it")
    parameters = sum(weight.numel() for weight in model.parameters())
    return TrainedRung(run, parameters, int(lines[-1]["tokens"]), sample.nll(nll_M))


def _surprisals(shard: Shard) -> Float64[np.ndarray, "M"]:
    assert shard.surprisals_M is not None
    return shard.surprisals_M.double().numpy()


def check_same_data(runs: list[Path]) -> None:
    """Raise `RunError` where the text or the source has changed between two rungs."""
    first = read_description(runs[0]).data["fingerprint"]
    for run in runs[1:]:
        if read_description(run).data["fingerprint"] != first:
            raise RunError(
                f"{run} was trained on other data than {runs[0]}: the text or the source has "
                "changed since the ladder began; restore it, or begin again in another folder"
            )


def bootstrap(
    nll_RC: Float64[np.ndarray, "R C"],
    tokens_C: Float64[np.ndarray, "C"],
    replicates: int,
    seed: int,
) -> Float64[np.ndarray, "B R"]:
    """Mean losses on resampled pieces, the same for all rungs of a replicate."""
    rng, pieces = np.random.default_rng(seed), len(tokens_C)
    p_C = np.full(pieces, 1 / pieces)
    rows = []
    for begin in range(0, replicates, AT_ONCE):
        weights_BC = rng.multinomial(pieces, p_C, min(AT_ONCE, replicates - begin)).astype(float)
        rows.append((weights_BC @ nll_RC.T) / (weights_BC @ tokens_C)[:, None])
    return np.concatenate(rows)


def _batches(run: Path) -> Batches:
    tokenizer = load_tokenizer(run / "tokenizer.json")
    return batches_of_run(read_description(run), tokenizer, TrainingProgress())
