"""Training from files or a source to a result: the run, its validation, and its n-gram baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from kullback.errors import InvalidValueError, RunError
from kullback.models.ngram_baseline import fit_baselines, ngram_losses
from kullback.results.measurement import Measurement
from kullback.results.training import NgramBaseline, TrainingRun, TrainingSeconds
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.ranges import TRAINED_VOCABULARIES
from kullback.runtime.threads import workers
from kullback.runtime.wording import with_article
from kullback.sources.catalogue import Source, open_source
from kullback.text.documents import STANDARD_INPUT, Document
from kullback.training.batches import Batches
from kullback.training.config import RANGES, SIZES, TrainingConfig
from kullback.training.description import batches_of_run, read_description
from kullback.training.gpt import GPT, GPTConfig
from kullback.training.loop import resume, train
from kullback.training.loss import token_losses
from kullback.training.metrics import read_metrics
from kullback.training.new_run import check_no_run
from kullback.training.progress import TrainingProgress
from kullback.training.run_folder import load_tokenizer
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.text_batches import TextBatches
from kullback.uncertainty.intervals import mean_with_interval

__all__ = ["resume_training", "train_model"]


def train_model(
    output: str | Path,
    *,
    text: str | Path | Sequence[str | Path] | None = None,
    source: str | Source | None = None,
    holdout: int | None = None,
    vocabulary_size: int | None = None,
    context: int | None = None,
    batch: int | None = None,
    steps: int = TrainingConfig.steps,
    width: int = GPTConfig.width,
    layers: int = GPTConfig.layers,
    heads: int = GPTConfig.heads,
    mlp_width: int | None = None,
    muon_lr: float = TrainingConfig.muon_lr,
    adamw_lr: float = TrainingConfig.adamw_lr,
    threads: int = TrainingConfig.shards,
    seed: int = TrainingConfig.seed,
    progress: TrainingProgress | None = None,
) -> TrainingRun:
    """Train a mini-GPT on the files `text` or on a `source`, into the folder `output`.

    `text` is a file, a folder, of which the .txt files are read, or several of these; a resumed run
    reads the files again.
    The keywords are the options of ``kullback train``, with its defaults; None is 1,024 entries for
    `vocabulary_size` and 64 tokens for `context`, both of a text, no cells for `holdout` of a
    source, 48 windows or 256 sentences for `batch`, and 2.5 × `width` for `mlp_width`.

    Ctrl-C writes a checkpoint and raises `kullback.training.interruption.Interrupted`.  Raises
    `InvalidValueError` for values out of range and keywords that do not apply, and `RunError` where
    the folder contains a run or cannot be written, or training diverges.
    """
    if (text is None) == (source is None):
        raise InvalidValueError("text and source: give either files of text, or a source")
    progress = progress or TrainingProgress()
    given_text = _given_text(text)
    read = [*given_text, *([source] if isinstance(source, str) else [])]
    check_outputs(Output("the run folder (-o)", output, "folder"), inputs=read)
    check_no_run(Path(output))
    SIZES["width"].check("width", width)
    RANGES["shards"].check("threads", threads)
    shape = (width, layers, heads, _given(mlp_width, 32 * math.ceil(2.5 * width / 32)))
    _check_sizes(shape, text is not None, vocabulary_size, context, batch)
    config = TrainingConfig(
        steps=steps, muon_lr=muon_lr, adamw_lr=adamw_lr, shards=threads, seed=seed
    )
    batches: Batches
    if text is not None:
        _refuse("text", holdout=holdout)
        progress.stage("reading the text and training its tokenizer")
        batches = TextBatches.read(
            _text_files(given_text),
            _given(vocabulary_size, 1024),
            _given(context, 64),
            _given(batch, 48),
            seed,
        )
    else:
        assert source is not None
        _refuse("source", vocabulary_size=vocabulary_size, context=context)
        if isinstance(source, Source):
            _refuse("source that is open already", holdout=holdout)
        else:
            source = open_source(source, holdout or 0, seed)
        batches = SentenceBatches(source, _given(batch, 256), seed)
    gpt = GPTConfig(batches.vocabulary_size, batches.context, *shape)
    progress.begin(steps, batches.floor)
    start = time.perf_counter()
    model = train(Path(output), batches, gpt, config, progress.step)
    seconds = time.perf_counter() - start
    return _result(Path(output), batches, model, config, seconds, progress)


def resume_training(run: str | Path, *, progress: TrainingProgress | None = None) -> TrainingRun:
    """Train the run in a folder to its last step; a finished run is measured and left unchanged.

    Raises `RunError` when the folder is not a run, is damaged or in use, or its data has changed.
    """
    run, progress = Path(run), progress or TrainingProgress()
    description = read_description(run)
    if (run / "model.safetensors").exists():
        progress.note(
            f"{run} has finished its {description.config.steps} steps: it is measured, not trained"
        )
    else:
        progress.begin(description.config.steps, description.floor)
    start = time.perf_counter()
    model = resume(run, progress.step)
    seconds = time.perf_counter() - start
    batches = batches_of_run(description, load_tokenizer(run / "tokenizer.json"))
    return _result(run, batches, model, description.config, seconds, progress)


def _check_sizes(
    shape: tuple[int, int, int, int],
    on_text: bool,
    vocabulary_size: int | None,
    context: int | None,
    batch: int | None,
) -> None:
    """Raise `InvalidValueError` for sizes out of range or above the memory, before data is read.

    `shape` is the width, the layers, the heads and the width of the MLP.
    """
    for name, value in (("batch", batch), ("context", context)):
        if value is not None:
            SIZES[name].check(name, value)
    if vocabulary_size is not None:
        TRAINED_VOCABULARIES.check("vocabulary_size", vocabulary_size)
    # A text that is short has fewer entries, and a sentence of a source at least one token.
    tokens = _given(batch, 48) * _given(context, 64) if on_text else _given(batch, 256)
    GPTConfig(1, _given(context, 1), *shape).check_memory(tokens)


def _given_text(text: object) -> list[str | Path]:
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


def _text_files(given: Sequence[str | Path]) -> list[Path]:
    """The files among them, and the .txt files of the folders, in the order of their paths."""
    files: list[Path] = []
    for path in map(Path, given):
        texts = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        if not texts:
            raise InvalidValueError(
                f"the folder {path} has no .txt file: give the names of the files to train on"
            )
        files += texts
    return files


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _refuse(data: str, **options: int | None) -> None:
    """Raise `InvalidValueError` for an option that is given and does not apply to the data."""
    for name, value in options.items():
        if value is not None:
            raise InvalidValueError(f"{name} is {value}: it does not apply to a {data}; remove it")


def _result(
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
    validation = _Validation.of(batches, model, config.shards)
    progress.stage("fitting n-gram baselines")
    start_of_baseline = time.perf_counter()
    ngrams, fitted_tokens, split_tokens = fit_baselines(batches, config.steps)
    losses = [ngram_losses(ngram, batches.validation()) for ngram in ngrams]
    seconds = TrainingSeconds(
        training=training_seconds,
        validation=start_of_baseline - start,
        baseline=time.perf_counter() - start_of_baseline,
    )
    lowest = min(losses, key=lambda nll_M: float(nll_M.mean()))
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise RunError(f"{run / 'metrics.jsonl'} is missing or empty; restore it")
    step_before = lines[-2]["step"] if len(lines) > 1 else 0
    return TrainingRun(
        folder=str(run),
        steps=config.steps,
        tokens=lines[-1]["tokens"],
        training_cross_entropy=lines[-1]["cross_entropy"],
        training_steps=(step_before + 1, lines[-1]["step"]),
        cross_entropy=validation.nats(validation.nll_M),
        bits_per_byte=validation.bits_per_byte(validation.nll_M),
        floor=batches.floor,
        kl=validation.kl,
        baselines=tuple(
            NgramBaseline(
                order=ngram.order,
                cross_entropy=validation.nats(nll_M),
                bits_per_byte=validation.bits_per_byte(nll_M),
            )
            for ngram, nll_M in zip(ngrams, losses, strict=True)
        ),
        baseline_tokens=fitted_tokens,
        training_split_tokens=split_tokens,
        difference=validation.nats(validation.nll_M - lowest),
        seconds=seconds,
    )


@dataclass(frozen=True)
class _Validation:
    """The validation tokens of a run: losses of the model, and what belongs to each token.

    Axis: M target tokens.
    """

    nll_M: Float64[np.ndarray, "M"]
    surprisal_M: Float64[np.ndarray, "M"] | None
    sentence_M: Int64[np.ndarray, "M"] | None
    """Independent sentences of a source; None for one text."""
    bytes_M: Int64[np.ndarray, "M"] | None

    @classmethod
    def of(cls, batches: Batches, model: GPT, threads: int) -> _Validation:
        """Score the validation data of `batches`, a shard per thread."""
        shards = batches.validation()
        with workers(threads) as pool:
            losses = list(pool.map(lambda shard: token_losses(model, shard), shards))
        surprisals = [s.surprisals_M.numpy() for s in shards if s.surprisals_M is not None]
        lengths_N = np.concatenate([shard.lengths_N for shard in shards])
        sizes = batches.token_bytes
        targets_M = np.concatenate([shard.targets_M.numpy() for shard in shards])
        return cls(
            np.concatenate(losses),
            np.concatenate(surprisals) if surprisals else None,
            np.repeat(np.arange(len(lengths_N)), lengths_N) if surprisals else None,
            None if sizes is None else sizes[targets_M],
        )

    @property
    def kl(self) -> Measurement | None:
        """The mean of nll − true surprisal; None on a text."""
        return None if self.surprisal_M is None else self.nats(self.nll_M - self.surprisal_M)

    def nats(self, values_M: Float64[np.ndarray, "M"]) -> Measurement:
        """The mean in nats/token."""
        return mean_with_interval(values_M, self.sentence_M, "nats/token")

    def bits_per_byte(self, nll_M: Float64[np.ndarray, "M"]) -> Measurement | None:
        """The sum in bits over the bytes of the tokens; None on a source."""
        if self.bytes_M is None:
            return None
        return mean_with_interval(nll_M / math.log(2), None, "bits/byte", self.bytes_M)
