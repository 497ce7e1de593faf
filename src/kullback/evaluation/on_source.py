"""Evaluation where the truth is known: cross-entropy = entropy + KL, each computed for itself.

At every prefix the source knows the whole distribution p of the next word, so H(p), the
cross-entropy −Σ p log q and KL(p‖q) = Σ p (log p − log q) are sums over words, not estimates from
the one word that happened to come next.  Over prefixes, either all of them enter with their
probabilities (the result is exact), or those of sampled sentences (it has an interval).

A token's **slot** shares out the sums: the term of word w at a prefix belongs to w's slot.  So each
slot has CE = H + KL, and the slots add up to the whole; but where two slots compete for the same
prefix, the KL of one can be below zero, and only their sum cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.errors import InvalidValueError
from kullback.models.interface import LanguageModel
from kullback.results.measurement import Measurement
from kullback.runtime.threads import cores, workers
from kullback.scoring.source_statistics import RowStatistics, TrueDistributions, row_statistics
from kullback.sources.language import Language, Sentences
from kullback.text.special_tokens import BOS_ID
from kullback.uncertainty.intervals import perplexity, ratio_of_sums
from kullback.uncertainty.reliability import (
    ReliabilityBin,
    expected_calibration_error,
    reliability,
)

__all__ = ["Corpus", "SlotEvaluation", "TruthEvaluation", "evaluate_on_source"]

UNIT = "nats/token"
# Positions that the model sees at once: enough to keep it busy, few enough for the cache.
BATCH_POSITIONS = 1 << 13


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences of a language, and with what weight each position counts."""

    sentences: Sentences
    weights: Float[np.ndarray, "N T"]
    exact: bool
    """Whether the weights are those of all prefixes, so that sums over them are exact."""

    @classmethod
    def everything(cls, language: Language) -> Corpus:
        """All prefixes; `InvalidValueError` where there are more than some millions."""
        return cls(*language.enumerate(), exact=True)

    @classmethod
    def sample(cls, language: Language, sentences: int, seed: int) -> Corpus:
        """`sentences` independent sentences, each position counting once."""
        sample = language.sample(sentences, np.random.default_rng(seed))
        return cls(sample, sample.mask.astype(np.float64), exact=False)

    @classmethod
    def best(cls, language: Language, sentences: int, seed: int) -> Corpus:
        """All prefixes where that is feasible, otherwise a sample."""
        try:
            return cls.everything(language)
        except InvalidValueError:
            return cls.sample(language, sentences, seed)


@dataclass(frozen=True)
class SlotEvaluation:
    """The part of the sums that belongs to one slot."""

    slot: str
    tokens_per_sentence: float
    cross_entropy: float
    entropy: float
    kl: float
    kl_from_reference: float | None = None
    """KL(reference‖model) at the prefixes where this slot comes next, nats/token of the slot."""


@dataclass(frozen=True)
class TruthEvaluation:
    """What a model knows of a language; entropies in nats/token."""

    model: str
    language: str
    exact: bool
    prefixes: int
    cross_entropy: Measurement
    entropy: Measurement
    kl: Measurement
    top1_accuracy: float
    """E[p(most probable word of the model | prefix)]."""
    top5_accuracy: float
    best_top1_accuracy: float
    """What the true distribution itself would reach."""
    ece: float
    diagram: list[ReliabilityBin]
    by_slot: list[SlotEvaluation]
    kl_from_reference: Measurement | None = None
    top1_agreement: float | None = None
    """How often model and reference have the same most probable word."""

    @property
    def perplexity(self) -> float:
        """exp(cross-entropy per token); inf where that is beyond float64."""
        return perplexity(self.cross_entropy).value

    @property
    def identity_residual(self) -> float:
        """CE − (H + KL): rounding, since the three are computed each for itself."""
        return self.cross_entropy.value - self.entropy.value - self.kl.value


@torch.inference_mode()
def evaluate_on_source(
    model: LanguageModel,
    corpus: Corpus,
    reference: LanguageModel | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TruthEvaluation:
    """Measure `model` on `corpus`, and how far it is from `reference` where one is given.

    `progress` is called with the sentences done and their number.  Raises `InvalidValueError`
    where the model's vocabulary is not the language's.
    """
    sentences, language = corpus.sentences, corpus.sentences.language
    for other in (model, reference):
        if other is not None and other.vocabulary_size != len(language.vocabulary):
            raise InvalidValueError(
                f"{other.name} has a vocabulary of {other.vocabulary_size}, the language "
                f"{language.name} one of {len(language.vocabulary)}: they do not belong together"
            )
    sums = _Sums(language, len(sentences), reference is not None)
    with workers(cores()) as pool:
        for batch in pool.map(
            lambda rows: _measure(model, corpus, reference, rows), _batches(sentences)
        ):
            sums.add(batch)
            progress(sums.sentences_done, len(sentences))
    return sums.evaluation(model.name, corpus)


@dataclass(frozen=True)
class _Batch:
    """What one batch of sentences gave."""

    found: RowStatistics
    truth: TrueDistributions
    arc_K: Int[np.ndarray, "K"]
    state_M: Int[np.ndarray, "M"]
    weight_M: Float[np.ndarray, "M"]
    sentence_M: Int[np.ndarray, "M"]
    sentences: int


def _measure(
    model: LanguageModel,
    corpus: Corpus,
    reference: LanguageModel | None,
    rows: Int[np.ndarray, "B"],
) -> _Batch:
    language = corpus.sentences.language
    inputs, keep, state_M = _inputs(corpus, rows)
    row_K, arc_K = language.arcs_of(state_M)
    truth = TrueDistributions(row_K, language.arc_tokens[arc_K], language.probabilities[arc_K])
    found = row_statistics(
        model.predict(inputs).select(keep),
        truth,
        None if reference is None else reference.predict(inputs).select(keep),
    )
    sentence_M = rows[keep.numpy() // inputs.shape[1]]
    weight_M = corpus.weights[rows][:, : inputs.shape[1]].reshape(-1)[keep.numpy()]
    return _Batch(found, truth, arc_K, state_M, weight_M, sentence_M, len(rows))


def _batches(sentences: Sentences) -> Iterator[Int[np.ndarray, "B"]]:
    """Row indices, sentences of like length together."""
    order = np.argsort(sentences.lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(sentences.lengths[order[min(start + 512, len(order)) - 1]])
        count = max(1, BATCH_POSITIONS // longest)
        yield order[start : start + count]
        start += count


def _inputs(
    corpus: Corpus, rows: Int[np.ndarray, "B"]
) -> tuple[torch.Tensor, torch.Tensor, Int[np.ndarray, "M"]]:
    """What the model reads, which positions count, and the true state at each of these."""
    longest = int(corpus.sentences.lengths[rows].max())
    tokens = corpus.sentences.tokens[rows, : longest - 1].astype(np.int64)
    inputs = np.concatenate([np.full((len(rows), 1), BOS_ID), tokens], axis=1)
    keep = np.flatnonzero(corpus.weights[rows, :longest].reshape(-1) > 0)
    language = corpus.sentences.language
    states = language.arc_states[corpus.sentences.arcs[rows, :longest].reshape(-1)[keep]]
    return torch.from_numpy(inputs), torch.from_numpy(keep), states


class _Sums:
    """Sufficient statistics over all batches."""

    def __init__(self, language: Language, sentences: int, has_reference: bool) -> None:
        self.language = language
        self.sentences_done = 0
        self.prefixes = 0
        # Per sentence: weight, CE, H, KL, KL from the reference.
        self.per_sentence = np.zeros((5, sentences))
        # Per slot: tokens, CE, H, and KL from the reference.
        self.per_slot = np.zeros((4, len(language.slots)))
        self.has_reference = has_reference
        self.correct = self.in_top5 = self.best = self.agree = 0.0
        self.confidence: list[np.ndarray] = []
        self.accuracy: list[np.ndarray] = []
        self.weight: list[np.ndarray] = []

    def add(self, batch: _Batch) -> None:
        language, found, truth = self.language, batch.found, batch.truth
        arc_K, row_K, p_K = batch.arc_K, truth.row_K, truth.probability_K
        weight_M, rows = batch.weight_M, len(batch.weight_M)
        log_p_K = language.log_probs[arc_K]
        cross_entropy_M = np.bincount(row_K, -p_K * found.log_q_K, rows)
        kl_M = np.bincount(row_K, p_K * (log_p_K - found.log_q_K), rows)
        entropy_M = language.state_entropies[batch.state_M]
        reference_M = np.zeros(rows) if found.kl_from_reference is None else found.kl_from_reference
        columns = (np.ones(rows), cross_entropy_M, entropy_M, kl_M, reference_M)
        for sums, column in zip(self.per_sentence, columns, strict=True):
            np.add.at(sums, batch.sentence_M, weight_M * column)
        mass_K, slot_K = weight_M[row_K] * p_K, language.arc_slots[arc_K]
        entries = (np.ones(len(p_K)), -found.log_q_K, -log_p_K, reference_M[row_K])
        for sums, entry in zip(self.per_slot, entries, strict=True):
            sums += np.bincount(slot_K, mass_K * entry, len(language.slots))
        hit_K = truth.token_K == found.top1[row_K]
        accuracy_M = np.bincount(row_K, p_K * hit_K, rows)
        best_M = np.zeros(rows)
        np.maximum.at(best_M, row_K, p_K)
        self.correct += float(weight_M @ accuracy_M)
        self.in_top5 += float(mass_K @ found.in_top5_K)
        self.best += float(weight_M @ best_M)
        if found.reference_top1 is not None:
            self.agree += float(weight_M @ (found.reference_top1 == found.top1))
        self.confidence.append(found.top1_probability)
        self.accuracy.append(accuracy_M)
        self.weight.append(weight_M)
        self.prefixes += rows
        self.sentences_done += batch.sentences

    def evaluation(self, model: str, corpus: Corpus) -> TruthEvaluation:
        weight = self.per_sentence[0]
        total = float(weight.sum())

        def measure(row: int) -> Measurement:
            if not corpus.exact:
                return ratio_of_sums(self.per_sentence[row], weight, UNIT, self.prefixes)
            value = float(self.per_sentence[row].sum()) / total
            return Measurement(value, UNIT, 0.0, self.prefixes, 0, "exact sum over all prefixes")

        diagram = reliability(
            np.concatenate(self.confidence),
            np.concatenate(self.accuracy),
            np.concatenate(self.weight),
        )
        evaluation = TruthEvaluation(
            model=model,
            language=self.language.name,
            exact=corpus.exact,
            prefixes=self.prefixes,
            cross_entropy=measure(1),
            entropy=measure(2),
            kl=measure(3),
            top1_accuracy=self.correct / total,
            top5_accuracy=self.in_top5 / total,
            best_top1_accuracy=self.best / total,
            ece=expected_calibration_error(diagram),
            diagram=diagram,
            by_slot=self._slots(total),
            kl_from_reference=measure(4) if self.has_reference else None,
            top1_agreement=self.agree / total if self.has_reference else None,
        )
        scale = max(1.0, abs(evaluation.cross_entropy.value))
        if not abs(evaluation.identity_residual) <= 1e-9 * scale and math.isfinite(scale):
            raise AssertionError(f"CE != H + KL: {evaluation}")
        return evaluation

    def _slots(self, total: float) -> list[SlotEvaluation]:
        tokens, cross_entropy, entropy, reference = self.per_slot
        per_sentence = self.language.tokens_per_sentence / total
        return [
            SlotEvaluation(
                slot=name,
                tokens_per_sentence=float(tokens[i]) * per_sentence,
                cross_entropy=float(cross_entropy[i] / tokens[i]),
                entropy=float(entropy[i] / tokens[i]),
                kl=float((cross_entropy[i] - entropy[i]) / tokens[i]),
                kl_from_reference=float(reference[i] / tokens[i]) if self.has_reference else None,
            )
            for i, name in enumerate(self.language.slots)
            if tokens[i] > 0
        ]
