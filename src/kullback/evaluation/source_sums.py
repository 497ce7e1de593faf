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
from msgspec.structs import replace

from kullback.results.evaluation import ReliabilityBin
from kullback.results.measurement import Measurement
from kullback.results.source import LanguagePart, PartEvaluation, PositionLoss, SlotLoss
from kullback.scoring.source_statistics import RowStatistics, TrueDistributions
from kullback.uncertainty.intervals import perplexity, ratio_of_sums
from kullback.uncertainty.reliability import expected_calibration_error, reliability

__all__ = ["MOST_POSITIONS", "BatchSums", "Prefixes", "SourceSums", "Summed"]

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


@dataclass(frozen=True)
class BatchSums:
    """The sums over the prefixes of one batch, and what the reliability of all is made of.

    Axes: R rows of the batch, P positions, S slots, M prefixes.
    """

    rows_R: Int[np.ndarray, "R"]
    """Sentences or windows; each is in one batch."""
    per_row_5R: Float[np.ndarray, "5 R"]
    """Weight, CE, H, KL, KL from the reference."""
    moments_25: Float[np.ndarray, "2 5"]
    """Sums of the square of the weight times each of these, and times their squares."""
    per_position_4P: Float[np.ndarray, "4 P"]
    """Weight, CE, H, KL."""
    per_slot_4S: Float[np.ndarray, "4 S"]
    """Tokens, CE, H, and KL from the reference."""
    shares: Float[np.ndarray, "4"]
    """Correct, among the five most probable, best, and in agreement with the reference."""
    confidence_M: Float[np.ndarray, "M"]
    accuracy_M: Float[np.ndarray, "M"]
    weight_M: Float[np.ndarray, "M"]

    @classmethod
    def of(cls, prefixes: Prefixes, statistics: RowStatistics, summed: Summed) -> BatchSums:
        """Those of some prefixes, after which the model has these statistics."""
        truth = prefixes.truth
        row_K, p_K = truth.row_K, truth.probability_K
        weight_M, M = prefixes.weight_M, len(prefixes.weight_M)
        log_q_K, log_p_K = statistics.log_q_K, prefixes.log_p_K
        cross_entropy_M = np.bincount(row_K, -p_K * log_q_K, M)
        kl_M = np.bincount(row_K, p_K * (log_p_K - log_q_K), M)
        reference_M = statistics.kl_from_reference
        if reference_M is None:
            reference_M = np.zeros(M)
        columns = (np.ones(M), cross_entropy_M, prefixes.entropy_M, kl_M, reference_M)
        rows_R, row_M = np.unique(prefixes.row_M, return_inverse=True)
        near = np.flatnonzero(prefixes.tokens_before_M < MOST_POSITIONS)
        place = prefixes.tokens_before_M[near]
        mass_K, slot_K = weight_M[row_K] * p_K, prefixes.slot_K
        entries = (np.ones(len(p_K)), -log_q_K, -log_p_K, reference_M[row_K])
        accuracy_M = np.bincount(row_K, p_K * (truth.token_K == statistics.top1[row_K]), M)
        best_M, same_M = np.zeros(M), np.zeros(M)
        np.maximum.at(best_M, row_K, p_K)
        if statistics.reference_top1 is not None:
            same_M = (statistics.reference_top1 == statistics.top1).astype(np.float64)
        return cls(
            rows_R,
            np.stack([np.bincount(row_M, weight_M * column) for column in columns]),
            np.array([[weight_M**2 @ column**power for column in columns] for power in (1, 2)]),
            np.stack([
                np.bincount(place, (weight_M * column)[near], MOST_POSITIONS)
                for column in columns[:4]
            ]),
            np.stack([np.bincount(slot_K, mass_K * entry, len(summed.slots)) for entry in entries]),
            np.array([
                weight_M @ accuracy_M, mass_K @ statistics.in_top5_K, weight_M @ best_M,
                weight_M @ same_M,
            ]),
            statistics.top1_probability,
            accuracy_M,
            weight_M,
        )  # fmt: skip


class SourceSums:
    """Sufficient statistics over all batches."""

    def __init__(self, summed: Summed, has_reference: bool) -> None:
        self.summed = summed
        self.prefixes = 0
        # As in `BatchSums`, of all sentences or windows.
        self.per_sentence = np.zeros((5, summed.rows))
        self.moments = np.zeros((2, 5))
        self.per_position = np.zeros((4, MOST_POSITIONS))
        self.per_slot = np.zeros((4, len(summed.slots)))
        self.has_reference = has_reference
        self.shares = np.zeros(4)
        self.confidence: list[np.ndarray] = []
        self.accuracy: list[np.ndarray] = []
        self.weight: list[np.ndarray] = []

    def add(self, batch: BatchSums) -> None:
        """Add the sums of a batch."""
        self.per_sentence[:, batch.rows_R] += batch.per_row_5R
        self.moments += batch.moments_25
        self.per_position += batch.per_position_4P
        self.per_slot += batch.per_slot_4S
        self.shares += batch.shares
        self.confidence.append(batch.confidence_M)
        self.accuracy.append(batch.accuracy_M)
        self.weight.append(batch.weight_M)
        self.prefixes += len(batch.weight_M)

    def evaluation(self, model: str, part: LanguagePart) -> PartEvaluation:
        """The evaluation of the model of that name on that part of the language."""
        exact = self.summed.exact
        total = float(self.per_sentence[0].sum())
        correct, in_top5, best, agree = (float(share) / total for share in self.shares)
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
            top1_accuracy=correct,
            top5_accuracy=in_top5,
            best_top1_accuracy=best,
            ece=expected_calibration_error(diagram),
            reliability=tuple(ReliabilityBin(*bin) for bin in diagram),
            by_slot=self._slots(total),
            by_position=self._positions(total),
            floor=self.summed.floor,
            floor_error=self.summed.floor_error,
            window=self.summed.window,
            kl_from_reference=self._measurement(4, exact) if self.has_reference else None,
            top1_agreement=agree if self.has_reference else None,
        )

    def _measurement(self, row: int, exact: bool) -> Measurement:
        """The mean of one of the sums per sentence."""
        sums, weight = self.per_sentence[row], self.per_sentence[0]
        if not exact:
            clusters = "sentences" if self.summed.window is None else "windows"
            mean = ratio_of_sums(sums, weight, UNIT, self.prefixes, clusters)
            error = self._independent_error(row, mean.value, float(weight.sum()))
            return replace(mean, independent_error=error)
        value = float(sums.sum()) / float(weight.sum())
        return Measurement(value, UNIT, 0.0, self.prefixes, 0, "exact sum over all prefixes")

    def _independent_error(self, row: int, mean: float, total: float) -> float:
        """The standard error if prefixes were independent, which those of a sentence are not."""
        if not math.isfinite(mean) or self.prefixes < 2:
            return math.nan
        first, second = self.moments[:, row].tolist()
        squares = second - 2 * mean * first + mean**2 * float(self.moments[0, 0])
        # Of equal values rounding may leave less than 0.
        return math.sqrt(max(squares, 0.0) * self.prefixes / (self.prefixes - 1)) / total

    def _slots(self, total: float) -> tuple[SlotLoss, ...]:
        tokens, cross_entropy, entropy, reference = self.per_slot
        # Of a sample, its own sentences: what each has once is 1.
        summed = self.summed
        per_sentence = summed.tokens_per_row / total if summed.exact else 1 / summed.rows
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
