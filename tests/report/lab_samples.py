"""Results of a lab made by hand: ordinary, hostile and nearly empty."""

from __future__ import annotations

import math

from text_samples import HOSTILE

from kullback.results.lab import (
    Evaluation,
    LabResults,
    LanguagePart,
    MinimalPairAccuracy,
    Quantisation,
    SentenceReport,
)


def evaluation(name: str, language: LanguagePart, kl: float, slot: str) -> Evaluation:
    """An entropy of 0.6 nats/token, of which one slot has a negative KL."""
    return {
        "name": name,
        "language": language,
        "exact": True,
        "prefixes": 1234,
        "cross_entropy": 0.6 + kl,
        "entropy": 0.6,
        "kl": kl,
        "identity_residual": 0.0,
        "perplexity": math.exp(min(0.6 + kl, 700.0)),
        "top1_accuracy": 0.7,
        "top5_accuracy": 0.9,
        "best_top1_accuracy": 0.75,
        "ece": 0.015,
        "reliability": [
            {"low": 0.0, "high": 0.5, "confidence": 0.3, "accuracy": 0.25, "weight": 0.25},
            {"low": 0.5, "high": 1.0, "confidence": 0.9, "accuracy": 0.875, "weight": 0.75},
            {"low": 1.0, "high": 1.0, "confidence": 0.0, "accuracy": 0.0, "weight": 0.0},
        ],
        "by_slot": [
            {
                "slot": slot,
                "tokens_per_sentence": 1.0,
                "cross_entropy": 2.4 + 5 * kl,
                "entropy": 2.4,
                "kl": 5 * kl,
            },
            {
                "slot": "verb",
                "tokens_per_sentence": 3.0,
                "cross_entropy": 0.0,
                "entropy": 0.0,
                "kl": -kl / 3,
            },
        ],
    }


def quantisation(scheme: str, size: int, moved: float) -> Quantisation:
    """A scheme that moves the model by `moved` nats."""
    return {
        "scheme": scheme,
        "bytes": size,
        "cross_entropy": 0.61 + moved,
        "delta_cross_entropy": moved,
        "kl_original": moved,
        "kl_truth": 0.01 + moved,
        "top1_agreement": 1.0 - moved,
        "by_slot": [{"slot": "verb", "kl_original": moved}],
    }


def sentences(word: str = "works") -> list[SentenceReport]:
    """One sentence that was trained on and one that was held out."""
    top = [(word, 0.75), ("work", 0.2), ("", 1e-9)]
    told, kept = (
        {
            "text": text,
            "slot": slot,
            "surprisal": surprisal,
            "true_surprisal": 0.25,
            "kl": kl,
            "model_top": top,
            "true_top": top[:1],
        }
        for text, slot, surprisal, kl in (
            ("she", "subject", 0.0, 0.001),
            (word, "verb", math.inf, 0.05),
        )
    )
    return [
        {"language": "training", "tokens": [told, kept] * 12},  # longer than a line
        {"language": "held out", "tokens": [kept]},
    ]


def lab_results(hostile: bool = False) -> LabResults:
    """A lab; `hostile` puts `HOSTILE` wherever a string goes."""
    word = HOSTILE if hostile else "works"
    name = HOSTILE if hostile else "mini-GPT"
    pairs: list[MinimalPairAccuracy] = [
        {
            "model": model,
            "side": "english",
            "held_out": held_out,
            "group": group,
            "value": word if group == "verb" else "all",
            "pairs": 8,
            "accuracy": accuracy,
        }
        for model, accuracy in ((name, 1.0), ("3-gram", 0.875))
        for held_out in (False, True)
        for group in ("all", "verb")
    ]
    return {
        "title": word if hostile else "Every nat accounted for",
        "created": "2026-01-02T03:04:05+00:00",
        "command": f"kullback lab -o {word}",
        "versions": {"python": "3.11", "torch": word},
        "seconds": {"training": 41.2, "total": 119.0},
        "peak_memory_mb": 900.0,
        "source": {
            "name": word,
            "vocabulary_size": 604,
            "log_vocabulary_size": math.log(604),
            "entropy_per_token": 0.6,
            "entropy_per_sentence": 2.4,
            "tokens_per_sentence": 4.0,
            "number_of_sentences": 2_412_345,
            "number_of_prefixes": 1234,
            "holdout": [[word, "past", "I"]],
            "held_out_entropy_per_token": 0.4,
        },
        "model": {
            "parameters": 130_000,
            "width": 64,
            "layers": 2,
            "heads": 2,
            "mlp_width": 160,
            "context": 20,
        },
        "training": {
            "floor": 0.6,
            "untrained_cross_entropy": 6.41,
            "steps": 100,
            "tokens": 400_000,
            "tokens_per_second": 90_000.0,
            "curve": [
                {
                    "step": step,
                    "tokens": 4000 * step,
                    "cross_entropy": 0.6 + kl + luck,
                    "entropy": 0.6 + luck,
                    "kl": kl,
                    "kl_standard_error": 0.001,
                }
                for step, kl, luck in ((1, 5.8, 0.01), (10, 0.5, -0.02), (100, -0.0005, 0.0))
            ],
        },
        "evaluations": [
            evaluation(name, "training", 0.01, word if hostile else "cue"),
            evaluation(name, "held out", 0.7, "cue"),
            evaluation("3-gram", "training", math.inf, "cue"),
        ],
        "minimal_pairs": pairs,
        "quantisations": [
            quantisation("float32", 500_000, 0.0),
            quantisation(word if hostile else "int8", 140_000, 1e-5),
            quantisation("int4", 80_000, 0.05),
        ],
        "sentences": sentences(word),
    }


def nearly_empty_lab() -> LabResults:
    """A lab of which only the headline is known."""
    whole = lab_results()
    bare: Evaluation = {**whole["evaluations"][0], "reliability": [], "by_slot": []}
    return {
        **whole,
        "source": {**whole["source"], "holdout": [], "held_out_entropy_per_token": None},
        "training": {**whole["training"], "curve": []},
        "evaluations": [bare],
        "minimal_pairs": [],
        "quantisations": [],
        "sentences": [],
    }
