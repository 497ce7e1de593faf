"""The main job, end to end: train on a language whose entropy is known, and account for every nat.

`run_lab` builds the conjugation language with some cells held out, trains a mini-GPT close to its
entropy, fits an n-gram model as the baseline, evaluates both on every prefix of the training
language and of the held-out one, compares right forms with wrong ones, quantises the mini-GPT, and
writes the result (:class:`kullback.results.lab.LabResults`) and its report.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import RunError
from kullback.evaluation.minimal_pairs import minimal_pair_accuracy
from kullback.evaluation.on_source import Corpus, evaluate_on_source
from kullback.evaluation.sentences import sentence_reports
from kullback.models.interface import LanguageModel
from kullback.models.mini_gpt import GPTModel
from kullback.models.ngram import NgramLanguageModel
from kullback.models.quantization import Scheme, quantise, size_in_bytes
from kullback.report.html.lab import write_lab_report
from kullback.report.lab_files import lab_outputs
from kullback.results.lab import (
    CurvePoint,
    LabResults,
    MinimalPairAccuracy,
    ModelFacts,
    Quantisation,
    QuantisedSlot,
    Seconds,
    SentenceReport,
    SourceFacts,
    TrainingFacts,
)
from kullback.results.source import PartEvaluation
from kullback.results.training import StepMetrics
from kullback.runtime.limits import check_fits
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import check_outputs
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import HOLDOUTS, Range
from kullback.runtime.wording import count_of
from kullback.sources.catalogue import Source, open_source
from kullback.training.config import SIZES, TrainingConfig
from kullback.training.description import read_description
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import resume, train
from kullback.training.metrics import read_metrics
from kullback.training.sentence_batches import SentenceBatches

__all__ = ["LabConfig", "run_lab"]

SCHEMES = ("int8", "int4-g32", "int2-g32")
STAGES = 8
# Of the embedding and the normalisations; from runs of the lab's training (``docs/log.md``).
ADAMW_LR = 0.006
NGRAM_ORDERS = Range(1, 64)
# Of its sample and of the counts.
BYTES_PER_SENTENCE = 500
PACKAGES = ("kullback", "torch", "torchao", "numpy", "scipy", "tokenizers")


@dataclass(frozen=True)
class LabConfig:
    """The sizes of the lab; the defaults reach 0.01 nats/token of KL (``docs/log.md``)."""

    steps: int = 800
    sentences: int = 256
    """Fresh sentences a step."""
    holdout: int = 24
    """Cells of the conjugation table, of 600, that training never sees."""
    ngram_order: int = 5
    seed: int = 0
    width: int = 64
    layers: int = 2
    heads: int = 2
    mlp_width: int = 160

    def __post_init__(self) -> None:
        TrainingConfig(steps=self.steps, seed=self.seed)
        GPTConfig(1, 1, self.width, self.layers, self.heads, self.mlp_width)
        SIZES["batch"].check("sentences", self.sentences)
        HOLDOUTS.check("holdout", self.holdout)
        NGRAM_ORDERS.check("ngram_order", self.ngram_order)
        check_fits(
            self.steps * self.sentences * BYTES_PER_SENTENCE,
            f"the baseline's sample of {self.steps:,} × {self.sentences:,} sentences",
            "choose fewer steps",
        )


@dataclass(frozen=True)
class _Measured:
    """Everything that the lab measures, before it is a result."""

    source: Source
    model: GPTModel
    metrics: Sequence[Mapping[str, Any]]
    training_seconds: float
    evaluations: tuple[PartEvaluation, ...]
    minimal_pairs: tuple[MinimalPairAccuracy, ...]
    quantisations: tuple[Quantisation, ...]
    sentences: tuple[SentenceReport, ...]


def run_lab(
    folder: Path,
    config: LabConfig,
    progress: Progress,
    command: str = "",
    step: Callable[[StepMetrics], None] = lambda metrics: None,
    force: bool = False,
) -> LabResults:
    """Run all stages and write ``run/``, ``results.json``, ``report.html`` and figures to `folder`.

    `step` is called while training.  An interrupted run is resumed, and a finished one is not
    trained again; a run of another configuration, and a folder that another process uses, are a
    `RunError`, files of another kind at the place of the report, without `force`, an
    `InvalidValueError`.
    """
    check_outputs(*lab_outputs(folder), force=force)
    began = time.perf_counter()
    training = TrainingConfig(steps=config.steps, seed=config.seed, adamw_lr=ADAMW_LR)
    progress.plan(STAGES)
    with locked_output(folder, make=True):
        measured = _measure(folder / "run", config, training, progress, step)
        results = _results(measured, config, command, began)
        progress.stage("writing the report")
        # The numbers first: the report can be made of them again.
        results.to_json(folder / "results.json", force)
        write_lab_report(results, folder / "report.html", force)
    return results


# --- measure -------------------------------------------------------------------------------


def _measure(
    run: Path,
    config: LabConfig,
    training: TrainingConfig,
    progress: Progress,
    step: Callable[[StepMetrics], None],
) -> _Measured:
    progress.stage("building the conjugation language")
    source = open_source("conjugation", config.holdout, config.seed)
    training_seconds = _train(run, source, config, training, progress, step)
    model = GPTModel(GPTModel.load(run).gpt)
    progress.stage(f"counting {config.ngram_order}-grams of as many sentences")
    models: Sequence[LanguageModel] = (model, _baseline(source, config))
    corpus = Corpus.everything(source.training)
    evaluations = _evaluate(models, source, corpus, progress)
    progress.stage("comparing right forms with wrong ones")
    minimal_pairs = _minimal_pairs(models, source)
    progress.stage(f"quantising to {', '.join(SCHEMES)}")
    quantisations = _quantise(model, corpus, evaluations[0], progress)
    return _Measured(
        source=source,
        model=model,
        metrics=read_metrics(run / "metrics.jsonl"),
        training_seconds=training_seconds,
        evaluations=evaluations,
        minimal_pairs=minimal_pairs,
        quantisations=quantisations,
        sentences=_sentences(model, source, config.seed),
    )


def _train(
    run: Path,
    source: Source,
    config: LabConfig,
    training: TrainingConfig,
    progress: Progress,
    step: Callable[[StepMetrics], None],
) -> float:
    """Train, resume, or leave a finished run; the seconds that training took in this call."""
    batches = SentenceBatches(source, config.sentences, config.seed)
    gpt = GPTConfig(
        batches.vocabulary_size,
        batches.context,
        config.width,
        config.layers,
        config.heads,
        config.mlp_width,
    )
    began = time.perf_counter()
    if not (run / "training.json").exists():
        progress.stage(f"training for {count_of(config.steps, 'step')}")
        train(run, batches, gpt, training, step)
        return time.perf_counter() - began
    description = read_description(run)
    data = json.loads(json.dumps(dict(batches.spec)))
    # Whether there is a compiler does not make it another lab.
    training = replace(training, native=description.config.native)
    for key, value in {"data": data, "config": training, "model": gpt}.items():
        if getattr(description, key) != value:
            raise RunError(
                f"{run} was trained with another {key} than this lab's; choose another "
                f"folder with -o, or remove {run.parent} if you no longer need it"
            )
    if (run / "model.safetensors").exists():
        progress.stage("training is finished already")
    else:
        progress.stage(f"resuming training, to step {config.steps}")
        resume(run, step)
    return time.perf_counter() - began


def _baseline(source: Source, config: LabConfig) -> NgramLanguageModel:
    """An n-gram model of as many sentences as the mini-GPT is trained on."""
    generator = np.random.default_rng([config.seed, 1])
    sample = source.training.sample(config.steps * config.sentences, generator)
    return NgramLanguageModel.fit(sample, config.ngram_order)


def _evaluate(
    models: Sequence[LanguageModel], source: Source, corpus: Corpus, progress: Progress
) -> tuple[PartEvaluation, ...]:
    """Each model on all prefixes of the training language, which `corpus` is, and the held-out."""
    evaluations: list[PartEvaluation] = []
    for model in models:
        progress.stage(f"evaluating {model.name} on all prefixes")
        evaluations.append(evaluate_on_source(model, corpus, progress=progress.tokens))
        if source.held_out is not None:
            held_out = Corpus.everything(source.held_out)
            evaluations.append(evaluate_on_source(model, held_out, part="held out"))
    return tuple(evaluations)


def _minimal_pairs(
    models: Sequence[LanguageModel], source: Source
) -> tuple[MinimalPairAccuracy, ...]:
    assert source.conjugation is not None
    pairs = source.conjugation.minimal_pairs()
    held_out = frozenset(source.conjugation.holdout)
    return tuple(
        accuracy for model in models for accuracy in minimal_pair_accuracy(model, pairs, held_out)
    )


def _quantise(
    model: GPTModel, corpus: Corpus, original: PartEvaluation, progress: Progress
) -> tuple[Quantisation, ...]:
    """The original and each scheme, on the prefixes of `corpus`."""
    unchanged = Quantisation(
        scheme="float32",
        bytes=size_in_bytes(model.gpt),
        cross_entropy=original.cross_entropy.value,
        delta_cross_entropy=0.0,
        kl_original=0.0,
        kl_truth=original.kl.value,
        top1_agreement=1.0,
        by_slot=tuple(QuantisedSlot(slot=s.slot, kl_original=0.0) for s in original.by_slot),
    )
    results = [unchanged]
    for i, name in enumerate(SCHEMES):
        quantised = quantise(model.gpt, Scheme.parse(name))
        candidate = GPTModel(quantised.gpt, name)
        show = partial(_advance_scheme, progress, i)
        evaluation = evaluate_on_source(candidate, corpus, reference=model, progress=show)
        assert evaluation.kl_from_reference is not None
        assert evaluation.top1_agreement is not None
        cross_entropy = evaluation.cross_entropy.value
        results.append(
            Quantisation(
                scheme=name,
                bytes=quantised.size_bytes,
                cross_entropy=cross_entropy,
                delta_cross_entropy=cross_entropy - original.cross_entropy.value,
                kl_original=evaluation.kl_from_reference.value,
                kl_truth=evaluation.kl.value,
                top1_agreement=evaluation.top1_agreement,
                by_slot=tuple(
                    QuantisedSlot(slot=s.slot, kl_original=s.kl_from_reference or 0.0)
                    for s in evaluation.by_slot
                ),
            )
        )
    return tuple(results)


def _advance_scheme(progress: Progress, i: int, done: int, total: int) -> None:
    """The part that is done of the scheme `i`, as a part of all schemes."""
    progress.tokens(i * total + done, len(SCHEMES) * total)


def _sentences(model: GPTModel, source: Source, seed: int) -> tuple[SentenceReport, ...]:
    sentences = sentence_reports(model, source.training, "training", 6, seed)
    if source.held_out is not None:
        sentences += sentence_reports(model, source.held_out, "held out", 3, seed)
    return sentences


# --- result --------------------------------------------------------------------------------


def _results(measured: _Measured, config: LabConfig, command: str, began: float) -> LabResults:
    gpt = measured.model.gpt
    return LabResults(
        title="Every nat accounted for",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions={
            "python": sys.version.split()[0],
            **{package: version(package) for package in PACKAGES},
        },
        seconds=Seconds(training=measured.training_seconds, total=time.perf_counter() - began),
        peak_memory_mb=_peak_memory_mb(),
        source=_source_facts(measured.source),
        model=ModelFacts(
            parameters=sum(weight.numel() for weight in gpt.parameters()),
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_width=config.mlp_width,
            context=gpt.config.context,
        ),
        training=_training_facts(measured),
        evaluations=measured.evaluations,
        minimal_pairs=measured.minimal_pairs,
        quantisations=measured.quantisations,
        sentences=measured.sentences,
    )


def _source_facts(source: Source) -> SourceFacts:
    language = source.training
    return SourceFacts(
        name=source.name,
        vocabulary_size=len(language.vocabulary),
        log_vocabulary_size=float(np.log(len(language.vocabulary))),
        entropy_per_token=language.entropy_per_token,
        entropy_per_sentence=language.entropy_per_sentence,
        tokens_per_sentence=language.tokens_per_sentence,
        number_of_sentences=language.number_of_sentences,
        number_of_prefixes=language.number_of_prefixes,
        holdout=tuple(tuple(cell) for cell in source.spec["holdout"]),
        held_out_entropy_per_token=(
            None if source.held_out is None else source.held_out.entropy_per_token
        ),
    )


def _training_facts(measured: _Measured) -> TrainingFacts:
    first, last = measured.metrics[0], measured.metrics[-1]
    return TrainingFacts(
        floor=measured.source.training.entropy_per_token,
        untrained_cross_entropy=first["cross_entropy"],
        steps=last["step"],
        tokens=last["tokens"],
        tokens_per_second=last["tokens_per_second"],
        curve=tuple(
            CurvePoint(**{name: line[name] for name in CurvePoint.__struct_fields__})
            for line in measured.metrics
        ),
    )


def _peak_memory_mb() -> float:
    """The peak memory of this process in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
