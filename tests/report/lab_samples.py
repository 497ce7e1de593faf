"""Results of a lab made by hand: ordinary, hostile and nearly empty."""

from __future__ import annotations

import math

from msgspec.structs import replace
from text_samples import HOSTILE

from kullback.results.evaluation import ReliabilityBin
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
    TokenReport,
    TrainingFacts,
)
from kullback.results.measurement import Measurement
from kullback.results.source import LanguagePart, PartEvaluation, SlotLoss


def exact(value: float) -> Measurement:
    """A sum over all prefixes."""
    return Measurement(value, "nats/token", 0.0, 1234, 0, "exact sum over all prefixes")


def evaluation(name: str, language: LanguagePart, kl: float, slot: str) -> PartEvaluation:
    """An entropy of 0.6 nats/token, of which one slot has a negative KL."""
    return PartEvaluation(
        name=name,
        language=language,
        exact=True,
        prefixes=1234,
        cross_entropy=exact(0.6 + kl),
        entropy=exact(0.6),
        kl=exact(kl),
        identity_residual=0.0,
        perplexity=math.exp(min(0.6 + kl, 700.0)),
        top1_accuracy=0.7,
        top5_accuracy=0.9,
        best_top1_accuracy=0.75,
        ece=0.015,
        reliability=(
            ReliabilityBin(0.0, 0.5, 0.3, 0.25, 0.25),
            ReliabilityBin(0.5, 1.0, 0.9, 0.875, 0.75),
            ReliabilityBin(1.0, 1.0, 0.0, 0.0, 0.0),
        ),
        by_slot=(
            SlotLoss(
                slot=slot,
                tokens_per_sentence=1.0,
                cross_entropy=2.4 + 5 * kl,
                entropy=2.4,
                kl=5 * kl,
            ),
            SlotLoss(
                slot="verb", tokens_per_sentence=3.0, cross_entropy=0.0, entropy=0.0, kl=-kl / 3
            ),
        ),
    )


def quantisation(scheme: str, size: int, moved: float) -> Quantisation:
    """A scheme that moves the model by `moved` nats."""
    return Quantisation(
        scheme=scheme,
        bytes=size,
        cross_entropy=0.61 + moved,
        delta_cross_entropy=moved,
        kl_original=moved,
        kl_truth=0.01 + moved,
        top1_agreement=1.0 - moved,
        by_slot=(QuantisedSlot(slot="verb", kl_original=moved),),
    )


def sentences(word: str = "works") -> tuple[SentenceReport, ...]:
    """One sentence of the training language and one of the held-out one."""
    top = ((word, 0.75), ("work", 0.2), ("", 1e-9))
    certain, impossible = (
        TokenReport(
            text=text,
            slot=slot,
            surprisal=surprisal,
            true_surprisal=0.25,
            kl=kl,
            model_top=top,
            true_top=top[:1],
        )
        for text, slot, surprisal, kl in (
            ("she", "subject", 0.0, 0.001),
            (word, "verb", math.inf, 0.05),
        )
    )
    return (
        SentenceReport(language="training", tokens=(certain, impossible) * 12),  # over a line long
        SentenceReport(language="held out", tokens=(impossible,)),
    )


def pairs(name: str, word: str) -> tuple[MinimalPairAccuracy, ...]:
    """Two models on English pairs, over all and by one verb."""
    return tuple(
        MinimalPairAccuracy(
            model=model,
            side="english",
            held_out=held_out,
            group=group,  # type: ignore[arg-type]  # mypy makes a str of it
            value=word if group == "verb" else "all",
            pairs=8,
            accuracy=accuracy,
        )
        for model, accuracy in ((name, 1.0), ("3-gram", 0.875))
        for held_out in (False, True)
        for group in ("all", "verb")
    )


def training() -> TrainingFacts:
    """A curve whose last KL is below zero."""
    return TrainingFacts(
        floor=0.6,
        untrained_cross_entropy=6.41,
        steps=100,
        tokens=400_000,
        tokens_per_second=90_000.0,
        curve=tuple(
            CurvePoint(
                step=step,
                tokens=4000 * step,
                cross_entropy=0.6 + kl + noise,
                entropy=0.6 + noise,
                kl=kl,
                kl_standard_error=0.001,
            )
            for step, kl, noise in ((1, 5.8, 0.01), (10, 0.5, -0.02), (100, -0.0005, 0.0))
        ),
    )


def lab_results(hostile: bool = False) -> LabResults:
    """A lab; `hostile` puts `HOSTILE` wherever a string goes."""
    word = HOSTILE if hostile else "works"
    name = HOSTILE if hostile else "mini-GPT"
    return LabResults(
        title=word if hostile else "Every nat accounted for",
        created="2026-01-02T03:04:05+00:00",
        command=f"kullback lab -o {word}",
        versions={"python": "3.11", "torch": word},
        seconds=Seconds(training=41.2, total=119.0),
        peak_memory_mb=900.0,
        source=SourceFacts(
            name=word,
            vocabulary_size=604,
            log_vocabulary_size=math.log(604),
            entropy_per_token=0.6,
            entropy_per_sentence=2.4,
            tokens_per_sentence=4.0,
            number_of_sentences=2_412_345,
            number_of_prefixes=1234,
            holdout=((word, "past", "I"),),
            held_out_entropy_per_token=0.4,
        ),
        model=ModelFacts(
            parameters=130_000, width=64, layers=2, heads=2, mlp_width=160, context=20
        ),
        training=training(),
        evaluations=(
            evaluation(name, "training", 0.01, word if hostile else "cue"),
            evaluation(name, "held out", 0.7, "cue"),
            evaluation("3-gram", "training", math.inf, "cue"),
        ),
        minimal_pairs=pairs(name, word),
        quantisations=(
            quantisation("float32", 500_000, 0.0),
            quantisation(word if hostile else "int8", 140_000, 1e-5),
            quantisation("int4", 80_000, 0.05),
        ),
        sentences=sentences(word),
    )


def nearly_empty_lab() -> LabResults:
    """A lab of which only the headline is known."""
    results = lab_results()
    return replace(
        results,
        source=replace(results.source, holdout=(), held_out_entropy_per_token=None),
        training=replace(results.training, curve=()),
        evaluations=(replace(results.evaluations[0], reliability=(), by_slot=()),),
        minimal_pairs=(),
        quantisations=(),
        sentences=(),
    )
