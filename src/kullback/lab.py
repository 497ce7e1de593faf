"""The main job, end to end: train on a language whose entropy is known, and account for every nat.

`run_lab` builds the conjugation language with some cells held out, trains a mini-GPT to its floor,
fits an n-gram model as the baseline, evaluates both on every prefix of the training language and
of the held-out one, asks both for right forms over wrong ones, quantises the mini-GPT, and hands
everything to the report as plain data (:mod:`kullback.results.lab`).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from kullback.errors import RunError
from kullback.evaluation.minimal_pairs import minimal_pair_accuracy
from kullback.evaluation.on_source import Corpus, TruthEvaluation, evaluate_on_source
from kullback.models.interface import LanguageModel
from kullback.models.mini_gpt import GPTModel
from kullback.models.ngram import NgramLanguageModel
from kullback.models.quantization import Scheme, quantise, size_in_bytes
from kullback.report.html.lab import write_lab_report
from kullback.results.lab import (
    Evaluation,
    LabResults,
    LanguagePart,
    MinimalPairAccuracy,
    Quantisation,
    SentenceReport,
    TokenReport,
)
from kullback.runtime.files import write_atomically
from kullback.sources.catalogue import Source, open_source
from kullback.sources.language import Language
from kullback.training.config import TrainingConfig
from kullback.training.description import read_description
from kullback.training.gpt import GPTConfig
from kullback.training.loop import resume, train
from kullback.training.metrics import StepMetrics, read_metrics
from kullback.training.sentence_batches import SentenceBatches

__all__ = ["LabConfig", "Progress", "plain_evaluation", "run_lab"]

SCHEMES = ("int8", "int4-g32", "int2-g32")
TOP_WORDS = 5


@dataclass(frozen=True)
class LabConfig:
    """What the lab does; the defaults reach 0.01 nats/token of KL (``docs/log.md``)."""

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


@dataclass(frozen=True)
class Progress:
    """Whom to tell: `stage` what begins, `step` how training goes."""

    stage: Callable[[str], None] = lambda what: None
    step: Callable[[StepMetrics], None] = lambda metrics: None


def run_lab(folder: Path, config: LabConfig, progress: Progress, command: str) -> LabResults:
    """Do everything, writing into `folder`: ``run/``, ``results.json``, ``report.html``, figures.

    A run that was interrupted is taken up where it stopped, a finished one is not trained again;
    one that was made with another configuration is a `RunError`.
    """
    began = time.perf_counter()
    training = TrainingConfig(steps=config.steps, seed=config.seed)
    progress.stage("building the conjugation language")
    source = open_source("conjugation", config.holdout, config.seed)
    training_seconds = _train(folder / "run", source, config, training, progress)
    model = GPTModel(GPTModel.load(folder / "run").gpt)
    metrics = read_metrics(folder / "run" / "metrics.jsonl")

    progress.stage(f"counting {config.ngram_order}-grams of as many sentences")
    sample = source.training.sample(
        config.steps * config.sentences, np.random.default_rng([config.seed, 1])
    )
    baseline = NgramLanguageModel.fit(sample, config.ngram_order)
    del sample

    models: Sequence[LanguageModel] = (model, baseline)
    corpus = Corpus.everything(source.training)
    evaluations: list[Evaluation] = []
    for measured in models:
        progress.stage(f"measuring {measured.name} on all prefixes")
        evaluations.append(plain_evaluation(evaluate_on_source(measured, corpus), "training"))
        if source.held_out is not None:
            other = Corpus.everything(source.held_out)
            evaluations.append(plain_evaluation(evaluate_on_source(measured, other), "held out"))
    progress.stage("asking for right forms over wrong ones")
    pairs = _minimal_pairs(source, models)
    quantisations = _quantise(model, corpus, evaluations[0], progress)
    progress.stage("writing the report")
    sentences = _sentences(model, source.training, "training", 6, config.seed)
    if source.held_out is not None:
        sentences += _sentences(model, source.held_out, "held out", 3, config.seed)
    language = source.training
    results: LabResults = {
        "title": "Every nat accounted for",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": _versions(),
        "seconds": {"training": training_seconds, "total": time.perf_counter() - began},
        "peak_memory_mb": _peak_memory_mb(),
        "source": {
            "name": source.name,
            "vocabulary_size": len(language.vocabulary),
            "log_vocabulary_size": float(np.log(len(language.vocabulary))),
            "entropy_per_token": language.entropy_per_token,
            "entropy_per_sentence": language.entropy_per_sentence,
            "tokens_per_sentence": language.tokens_per_sentence,
            "number_of_sentences": language.number_of_sentences,
            "number_of_prefixes": language.number_of_prefixes,
            "holdout": [list(cell) for cell in source.spec["holdout"]],
            "held_out_entropy_per_token": (
                None if source.held_out is None else source.held_out.entropy_per_token
            ),
        },
        "model": {
            "parameters": sum(weight.numel() for weight in model.gpt.parameters()),
            "width": config.width,
            "layers": config.layers,
            "heads": config.heads,
            "mlp_width": config.mlp_width,
            "context": model.gpt.config.context,
        },
        "training": {
            "floor": language.entropy_per_token,
            "untrained_cross_entropy": metrics[0]["cross_entropy"],
            "steps": metrics[-1]["step"],
            "tokens": metrics[-1]["tokens"],
            "tokens_per_second": metrics[-1]["tokens_per_second"],
            "curve": [
                {
                    "step": line["step"],
                    "tokens": line["tokens"],
                    "cross_entropy": line["cross_entropy"],
                    "entropy": line["entropy"],
                    "kl": line["kl"],
                    "kl_standard_error": line["kl_standard_error"],
                }
                for line in metrics
            ],
        },
        "evaluations": evaluations,
        "minimal_pairs": pairs,
        "quantisations": quantisations,
        "sentences": sentences,
    }
    write_lab_report(results, folder / "report.html")
    write_atomically(
        folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False).encode()
    )
    return results


def _train(
    run: Path, source: Source, config: LabConfig, training: TrainingConfig, progress: Progress
) -> float:
    """Train, go on, or find it done; the seconds that training took in this call."""
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
    if (run / "training.json").exists():
        description = read_description(run)
        data = json.loads(json.dumps(dict(batches.spec)))
        wanted = {"data": data, "config": training, "model": gpt}
        for key, value in wanted.items():
            if getattr(description, key) != value:
                raise RunError(
                    f"{run} was trained with another {key} than this lab's; choose another "
                    f"folder with -o, or remove {run.parent} if you no longer need it"
                )
        done = (run / "model.safetensors").exists()
        progress.stage("training was done before" if done else "going on with training")
        if not done:
            resume(run, progress.step)
    else:
        progress.stage(f"training for {config.steps} steps")
        train(run, batches, gpt, training, progress.step)
    return time.perf_counter() - began


def plain_evaluation(evaluation: TruthEvaluation, part: LanguagePart) -> Evaluation:
    """An evaluation as plain data."""
    return {
        "name": evaluation.model,
        "language": part,
        "exact": evaluation.exact,
        "prefixes": evaluation.prefixes,
        "cross_entropy": evaluation.cross_entropy.value,
        "entropy": evaluation.entropy.value,
        "kl": evaluation.kl.value,
        "identity_residual": evaluation.identity_residual,
        "perplexity": evaluation.perplexity,
        "top1_accuracy": evaluation.top1_accuracy,
        "top5_accuracy": evaluation.top5_accuracy,
        "best_top1_accuracy": evaluation.best_top1_accuracy,
        "ece": evaluation.ece,
        "reliability": [
            {
                "low": bin.low,
                "high": bin.high,
                "confidence": bin.confidence,
                "accuracy": bin.accuracy,
                "weight": bin.weight,
            }
            for bin in evaluation.diagram
        ],
        "by_slot": [
            {
                "slot": slot.slot,
                "tokens_per_sentence": slot.tokens_per_sentence,
                "cross_entropy": slot.cross_entropy,
                "entropy": slot.entropy,
                "kl": slot.kl,
            }
            for slot in evaluation.by_slot
        ],
    }


def _minimal_pairs(source: Source, models: Sequence[LanguageModel]) -> list[MinimalPairAccuracy]:
    assert source.conjugation is not None
    pairs = source.conjugation.minimal_pairs()
    holdout = frozenset(source.conjugation.holdout)
    return [
        {"model": model.name, **asdict(accuracy)}  # type: ignore[typeddict-item]
        for model in models
        for accuracy in minimal_pair_accuracy(model, pairs, holdout)
    ]


def _quantise(
    model: GPTModel, corpus: Corpus, original: Evaluation, progress: Progress
) -> list[Quantisation]:
    found: list[Quantisation] = [
        {
            "scheme": "float32",
            "bytes": size_in_bytes(model.gpt),
            "cross_entropy": original["cross_entropy"],
            "delta_cross_entropy": 0.0,
            "kl_original": 0.0,
            "kl_truth": original["kl"],
            "top1_agreement": 1.0,
            "by_slot": [{"slot": s["slot"], "kl_original": 0.0} for s in original["by_slot"]],
        }
    ]
    for name in SCHEMES:
        progress.stage(f"quantising to {name}")
        quantised = quantise(model.gpt, Scheme.parse(name))
        measured = evaluate_on_source(GPTModel(quantised.gpt, name), corpus, reference=model)
        assert measured.kl_from_reference is not None
        assert measured.top1_agreement is not None
        found.append(
            {
                "scheme": name,
                "bytes": quantised.size_bytes,
                "cross_entropy": measured.cross_entropy.value,
                "delta_cross_entropy": measured.cross_entropy.value - original["cross_entropy"],
                "kl_original": measured.kl_from_reference.value,
                "kl_truth": measured.kl.value,
                "top1_agreement": measured.top1_agreement,
                "by_slot": [
                    {"slot": slot.slot, "kl_original": slot.kl_from_reference or 0.0}
                    for slot in measured.by_slot
                ],
            }
        )
    return found


@torch.inference_mode()
def _sentences(
    model: GPTModel, language: Language, part: LanguagePart, n: int, seed: int
) -> list[SentenceReport]:
    """`n` sentences, each token with the model's and the true distribution before it."""
    sample = language.sample(n, np.random.default_rng([seed, 2]))
    reports: list[SentenceReport] = []
    for row, length in enumerate(sample.lengths):
        tokens, states = sample.tokens[row, :length], sample.states[row, :length]
        inputs = torch.from_numpy(np.concatenate([[0], tokens[:-1]]))[None]
        log_q = torch.log_softmax(model.gpt(inputs)[0].double(), dim=1).numpy()
        p = language.distributions(states)
        kl = np.sum(np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - log_q), 0.0), axis=1)
        reports.append(
            {
                "language": part,
                "tokens": [
                    TokenReport(
                        text=language.vocabulary[token],
                        slot=language.slots[sample.slots[row, t]],
                        surprisal=float(-log_q[t, token]),
                        true_surprisal=float(sample.surprisals[row, t]),
                        kl=float(kl[t]),
                        model_top=_top(language, np.exp(log_q[t])),
                        true_top=_top(language, p[t]),
                    )
                    for t, token in enumerate(tokens)
                ],
            }
        )
    return reports


def _top(language: Language, probabilities: np.ndarray) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:TOP_WORDS]
    return [(language.vocabulary[i], float(probabilities[i])) for i in order if probabilities[i]]


def _versions() -> dict[str, str]:
    packages = ("kullback", "torch", "torchao", "numpy", "scipy", "tokenizers")
    found = {package: version(package) for package in packages}
    return {"python": sys.version.split()[0], **found}


def _peak_memory_mb() -> float:
    """The most memory that this process has held, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
