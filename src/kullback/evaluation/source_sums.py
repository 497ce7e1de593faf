"""Sums over the prefixes of a source, and the evaluation that they add up to.

A token's **slot** divides the sums: the term of a token at a prefix belongs to the token's slot.
So each slot has CE = H + KL, and the slots add up to the total; but where two slots compete for the
same prefix, the KL of one can be below zero, and only their sum cannot.

Axes: M prefixes of a batch, K entries of their true distributions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kullback.results.evaluation import ReliabilityBin
from kullback.results.measurement import Measurement
from kullback.results.source import LanguagePart, PartEvaluation, PositionLoss, SlotLoss
from kullback.scoring.source_statistics import RowStatistics, TrueDistributions
from kullback.uncertainty.intervals import perplexity, ratio_of_sums
from kullback.uncertainty.reliability import expected_calibration_error, reliability

__all__ = ["MOST_POSITIONS", "Prefixes", "SourceSums", "Summed"]

UNIT = "nats/token"
MOST_POSITIONS = 1024
"""That have sums of their own."""


@dataclass(frozen=True)
class Prefixes:
    """Some prefixes of a source, and what it says about the token after each."""

    truth: TrueDistributions
    log_p_K: Float[np.ndarray, "K"]
    slot_K: Int[np.ndarray, "K"]
    entropy_M: Float[np.ndarray, "M"]
    weight_M: Float[np.ndarray, "M"]
    row_M: Int[np.ndarray, "M"]
    """The sentence or window of each."""
    tokens_before_M: Int[np.ndarray, "M"]


@dataclass(frozen=True)
class Summed:
    """What is summed over: the rows of a corpus, and its slots."""

    rows: int
    slots: tuple[str, ...]
    tokens_per_row: float
    floor: float
    floor_error: float
    exact: bool
    window: int | None = None


class SourceSums:
    """Sufficient statistics over all batches."""

    def __init__(self, summed: Summed, has_reference: bool) -> None:
        self.summed = summed
        self.prefixes = 0
        # Per sentence: weight, CE, H, KL, KL from the reference.
        self.per_sentence = np.zeros((5, summed.rows))
        # Per position: weight, CE, H, KL.
        self.per_position = np.zeros((4, MOST_POSITIONS))
        # Per slot: tokens, CE, H, and KL from the reference.
        self.per_slot = np.zeros((4, len(summed.slots)))
        self.has_reference = has_reference
        self.correct = self.in_top5 = self.best = self.agree = 0.0
        self.confidence: list[np.ndarray] = []
        self.accuracy: list[np.ndarray] = []
        self.weight: list[np.ndarray] = []

    def add(self, prefixes: Prefixes, statistics: RowStatistics) -> None:
        """Add the sums of some prefixes, after which the model has these statistics."""
        truth = prefixes.truth
        row_K, p_K = truth.row_K, truth.probability_K
        weight_M, rows = prefixes.weight_M, len(prefixes.weight_M)
        log_q_K, log_p_K = statistics.log_q_K, prefixes.log_p_K
        cross_entropy_M = np.bincount(row_K, -p_K * log_q_K, rows)
        kl_M = np.bincount(row_K, p_K * (log_p_K - log_q_K), rows)
        entropy_M = prefixes.entropy_M
        reference_M = statistics.kl_from_reference
        if reference_M is None:
            reference_M = np.zeros(rows)
        columns = (np.ones(rows), cross_entropy_M, entropy_M, kl_M, reference_M)
        for sums, column in zip(self.per_sentence, columns, strict=True):
            np.add.at(sums, prefixes.row_M, weight_M * column)
        near = np.flatnonzero(prefixes.tokens_before_M < MOST_POSITIONS)
        place = prefixes.tokens_before_M[near]
        for sums, column in zip(self.per_position, columns, strict=False):
            sums += np.bincount(place, (weight_M * column)[near], MOST_POSITIONS)
        mass_K, slot_K = weight_M[row_K] * p_K, prefixes.slot_K
        entries = (np.ones(len(p_K)), -log_q_K, -log_p_K, reference_M[row_K])
        for sums, entry in zip(self.per_slot, entries, strict=True):
            sums += np.bincount(slot_K, mass_K * entry, len(self.summed.slots))
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

    def evaluation(self, model: str, part: LanguagePart) -> PartEvaluation:
        """The evaluation of the model of that name on that part of the language."""
        exact = self.summed.exact
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
            by_position=self._positions(total),
            floor=self.summed.floor,
            floor_error=self.summed.floor_error,
            window=self.summed.window,
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
        per_sentence = self.summed.tokens_per_row / total
        return tuple(
            SlotLoss(
                slot=name,
                tokens_per_sentence=float(tokens[i]) * per_sentence,
                cross_entropy=float(cross_entropy[i] / tokens[i]),
                entropy=float(entropy[i] / tokens[i]),
                kl=float((cross_entropy[i] - entropy[i]) / tokens[i]),
                kl_from_reference=float(reference[i] / tokens[i]) if self.has_reference else None,
            )
            for i, name in enumerate(self.summed.slots)
            if tokens[i] > 0
        )

    def _positions(self, total: float) -> tuple[PositionLoss, ...]:
        weight, cross_entropy, entropy, kl = self.per_position
        return tuple(
            PositionLoss(
                tokens_before=int(i),
                share=float(weight[i]) / total,
                cross_entropy=float(cross_entropy[i] / weight[i]),
                entropy=float(entropy[i] / weight[i]),
                kl=float(kl[i] / weight[i]),
            )
            for i in np.flatnonzero(weight > 0)
        )
