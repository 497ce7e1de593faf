"""Sums over the prefixes of a source, and the evaluation that they add up to.

A token's **slot** divides the sums: the term of a token at a prefix belongs to the token's slot.
So each slot has CE = H + KL, and the slots add up to the total; but where two slots compete for the
same prefix, the KL of one can be below zero, and only their sum cannot.

Axes: M positions of a batch, K entries of their true distributions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kullback.results.evaluation import ReliabilityBin
from kullback.results.measurement import Measurement
from kullback.results.source import LanguagePart, PartEvaluation, SlotLoss
from kullback.scoring.source_statistics import RowStatistics, TrueDistributions
from kullback.sources.language import Language
from kullback.uncertainty.intervals import perplexity, ratio_of_sums
from kullback.uncertainty.reliability import expected_calibration_error, reliability

__all__ = ["Batch", "SourceSums"]

UNIT = "nats/token"


@dataclass(frozen=True)
class Batch:
    """The statistics of one batch of sentences."""

    statistics: RowStatistics
    truth: TrueDistributions
    arc_K: Int[np.ndarray, "K"]
    state_M: Int[np.ndarray, "M"]
    weight_M: Float[np.ndarray, "M"]
    sentence_M: Int[np.ndarray, "M"]


class SourceSums:
    """Sufficient statistics over all batches."""

    def __init__(self, language: Language, sentences: int, has_reference: bool) -> None:
        self.language = language
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

    def add(self, batch: Batch) -> None:
        """Add the sums of a batch."""
        language, statistics, truth = self.language, batch.statistics, batch.truth
        arc_K, row_K, p_K = batch.arc_K, truth.row_K, truth.probability_K
        weight_M, rows = batch.weight_M, len(batch.weight_M)
        log_q_K, log_p_K = statistics.log_q_K, language.log_probs[arc_K]
        cross_entropy_M = np.bincount(row_K, -p_K * log_q_K, rows)
        kl_M = np.bincount(row_K, p_K * (log_p_K - log_q_K), rows)
        entropy_M = language.state_entropies[batch.state_M]
        reference_M = statistics.kl_from_reference
        if reference_M is None:
            reference_M = np.zeros(rows)
        columns = (np.ones(rows), cross_entropy_M, entropy_M, kl_M, reference_M)
        for sums, column in zip(self.per_sentence, columns, strict=True):
            np.add.at(sums, batch.sentence_M, weight_M * column)
        mass_K, slot_K = weight_M[row_K] * p_K, language.arc_slots[arc_K]
        entries = (np.ones(len(p_K)), -log_q_K, -log_p_K, reference_M[row_K])
        for sums, entry in zip(self.per_slot, entries, strict=True):
            sums += np.bincount(slot_K, mass_K * entry, len(language.slots))
        hit_K = truth.token_K == statistics.top1[row_K]
        accuracy_M = np.bincount(row_K, p_K * hit_K, rows)
        best_M = np.zeros(rows)
        np.maximum.at(best_M, row_K, p_K)
        self.correct += float(weight_M @ accuracy_M)
        self.in_top5 += float(mass_K @ statistics.in_top5_K)
        self.best += float(weight_M @ best_M)
        if statistics.reference_top1 is not None:
            self.agree += float(weight_M @ (statistics.reference_top1 == statistics.top1))
        self.confidence.append(statistics.top1_probability)
        self.accuracy.append(accuracy_M)
        self.weight.append(weight_M)
        self.prefixes += rows

    def evaluation(self, model: str, part: LanguagePart, exact: bool) -> PartEvaluation:
        """The evaluation of the model of that name on that part of the language."""
        total = float(self.per_sentence[0].sum())
        cross_entropy, entropy, kl = (self._measurement(row, exact) for row in (1, 2, 3))
        residual = cross_entropy.value - entropy.value - kl.value
        scale = max(1.0, abs(cross_entropy.value))
        if not abs(residual) <= 1e-9 * scale and math.isfinite(scale):
            raise AssertionError(f"CE != H + KL: {cross_entropy}, {entropy}, {kl}")
        diagram = reliability(
            np.concatenate(self.confidence),
            np.concatenate(self.accuracy),
            np.concatenate(self.weight),
        )
        return PartEvaluation(
            name=model,
            language=part,
            exact=exact,
            prefixes=self.prefixes,
            cross_entropy=cross_entropy,
            entropy=entropy,
            kl=kl,
            identity_residual=residual,
            perplexity=perplexity(cross_entropy).value,
            top1_accuracy=self.correct / total,
            top5_accuracy=self.in_top5 / total,
            best_top1_accuracy=self.best / total,
            ece=expected_calibration_error(diagram),
            reliability=tuple(ReliabilityBin(*bin) for bin in diagram),
            by_slot=self._slots(total),
            kl_from_reference=self._measurement(4, exact) if self.has_reference else None,
            top1_agreement=self.agree / total if self.has_reference else None,
        )

    def _measurement(self, row: int, exact: bool) -> Measurement:
        """The mean of one of the sums per sentence."""
        sums, weight = self.per_sentence[row], self.per_sentence[0]
        if not exact:
            return ratio_of_sums(sums, weight, UNIT, self.prefixes)
        value = float(sums.sum()) / float(weight.sum())
        return Measurement(value, UNIT, 0.0, self.prefixes, 0, "exact sum over all prefixes")

    def _slots(self, total: float) -> tuple[SlotLoss, ...]:
        tokens, cross_entropy, entropy, reference = self.per_slot
        per_sentence = self.language.tokens_per_sentence / total
        return tuple(
            SlotLoss(
                slot=name,
                tokens_per_sentence=float(tokens[i]) * per_sentence,
                cross_entropy=float(cross_entropy[i] / tokens[i]),
                entropy=float(entropy[i] / tokens[i]),
                kl=float((cross_entropy[i] - entropy[i]) / tokens[i]),
                kl_from_reference=float(reference[i] / tokens[i]) if self.has_reference else None,
            )
            for i, name in enumerate(self.language.slots)
            if tokens[i] > 0
        )
