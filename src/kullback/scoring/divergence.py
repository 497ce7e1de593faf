"""Per-token divergences of two models' predictions, from one pass over the vocabulary.

Both models' logits of a block of columns are computed, summed and dropped
(:mod:`kullback.scoring.pair_sums`), so that the memory is that of a block, whatever M and V.  A KL
is never negative, equal logits give exactly zero, and KLs between quantised models keep five
digits.

Axes: M rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_targets
from kullback.runtime.threads import part_workers
from kullback.runtime.transfers import to_device
from kullback.scoring.device_sums import device_kernels, start_pair_totals
from kullback.scoring.logit_blocks import Chunk, has_float32_logits, row_chunks
from kullback.scoring.one_device import common_device, on_device
from kullback.scoring.pair_sums import TOP_K, PairSums, PairTotals
from kullback.scoring.token_statistics import TokenStatistics, concatenate_statistics

__all__ = [
    "DivergenceStatistics",
    "concatenate_divergences",
    "divergence_statistics",
    "nll_differences",
    "start_divergences",
]


@dataclass(frozen=True, eq=False)
class DivergenceStatistics:
    """How two predictions differ at each of M positions; logarithms are natural."""

    reference: TokenStatistics
    candidate: TokenStatistics
    kl: Float[np.ndarray, "M"]
    """KL(reference‖candidate); inf where the candidate excludes what the reference does not."""
    reverse_kl: Float[np.ndarray, "M"]
    """KL(candidate‖reference)."""
    jensen_shannon: Float[np.ndarray, "M"]
    """At most log 2."""
    total_variation: Float[np.ndarray, "M"]
    """½ Σ |p - q|, at most 1."""
    top5_overlap: Int[np.ndarray, "M"]
    """The number of the reference's five most probable tokens that are among the candidate's."""
    candidate_at_reference_top1: Float[np.ndarray, "M"]
    """The candidate's probability of the reference's most probable token."""
    reference_padding: Float[np.ndarray, "M"]
    """The reference's probability of the columns that are not compared."""
    candidate_padding: Float[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.kl)

    @classmethod
    def empty(cls, rows: int) -> DivergenceStatistics:
        """Uninitialised statistics of `rows` positions."""
        return cls(
            reference=TokenStatistics.empty(rows, TOP_K),
            candidate=TokenStatistics.empty(rows, TOP_K),
            kl=np.empty(rows),
            reverse_kl=np.empty(rows),
            jensen_shannon=np.empty(rows),
            total_variation=np.empty(rows),
            top5_overlap=np.empty(rows, dtype=np.int64),
            candidate_at_reference_top1=np.empty(rows),
            reference_padding=np.empty(rows),
            candidate_padding=np.empty(rows),
        )

    def write(self, rows: slice, totals: PairTotals) -> None:
        """Set some rows to what their blocks sum to."""
        self.reference.write(rows, totals.reference)
        self.candidate.write(rows, totals.candidate)
        self.kl[rows] = totals.kl_B.cpu().numpy()
        self.reverse_kl[rows] = totals.reverse_kl_B.cpu().numpy()
        self.jensen_shannon[rows] = totals.jensen_shannon_B.cpu().numpy()
        self.total_variation[rows] = totals.total_variation_B.cpu().numpy()
        self.top5_overlap[rows] = totals.top5_overlap_B.cpu().numpy()
        self.candidate_at_reference_top1[rows] = totals.at_top1_B.cpu().numpy()
        self.reference_padding[rows] = totals.reference_padding_B.cpu().numpy()
        self.candidate_padding[rows] = totals.candidate_padding_B.cpu().numpy()

    @property
    def top1_agreement(self) -> Bool[np.ndarray, "M"]:
        """Whether both have the same most probable token."""
        agreement: Bool[np.ndarray, "M"] = self.reference.top1 == self.candidate.top1
        return agreement


def divergence_statistics(
    reference: Predictions,
    candidate: Predictions,
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int | None = None,
) -> DivergenceStatistics:
    """Compare two models' predictions of the same M positions, in nats.

    The first `vocabulary_size` columns are compared: by default as many as both models have, since
    models often pad their vocabulary to a round number.  The distributions are those over the
    columns compared, which sum to 1; the probability of the other columns is reported as padding.
    Where one is on an accelerator, the other is moved there.

    On a CPU the cost above the two heads' matmuls is about a third of theirs at D = 576, with a
    dozen blocks of a megabyte in memory.  Safe to call from several threads, on different rows.

    Raises `InvalidValueError` where the rows, targets or vocabularies do not fit, and naming the
    row where logits contain NaN or +inf, or only -inf.

    >>> from kullback.predictions.base import DensePredictions
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    >>> d = divergence_statistics(DensePredictions(p), DensePredictions(q), torch.tensor([0]))
    >>> [round(float(x[0]), 3) for x in (d.kl, d.reverse_kl, d.jensen_shannon, d.total_variation)]
    [0.511, 0.368, 0.102, 0.4]
    """
    return start_divergences(reference, candidate, targets_M, vocabulary_size)()


@torch.inference_mode()
def start_divergences(
    reference: Predictions,
    candidate: Predictions,
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int | None = None,
    threads: int = 1,
) -> Callable[[], DivergenceStatistics]:
    """`divergence_statistics`, in two parts: an accelerator is given its work now.

    What is returned waits for the results; it raises where rows are no distributions.  On a CPU the
    rows of a chunk are summed by `threads` threads.
    """
    M, V = len(reference), min(reference.vocabulary_size, candidate.vocabulary_size)
    if len(candidate) != M:
        raise InvalidValueError(
            f"the reference has {M} rows, the candidate {len(candidate)}: both must predict the "
            "same positions"
        )
    if vocabulary_size is not None:
        if not 1 <= vocabulary_size <= V:
            raise InvalidValueError(
                f"vocabulary_size is {vocabulary_size}: it must be in [1, {V}], the columns that "
                "both models have"
            )
        V = vocabulary_size
    check_targets(targets_M, M, V)
    statistics = DivergenceStatistics.empty(M)
    if M == 0:
        return lambda: statistics
    device = common_device(reference, candidate)
    reference, candidate = on_device(reference, device), on_device(candidate, device)
    targets_M = to_device(targets_M, device)
    kernels = device_kernels(device.type)
    if kernels and has_float32_logits(reference) and has_float32_logits(candidate):
        wait = start_pair_totals(kernels, (reference, candidate), targets_M, V)

        def finish() -> DivergenceStatistics:
            statistics.write(slice(M), wait())
            return statistics

        return finish
    # Either may be one whose rows are only computed for the whole vocabulary.
    finest = max((row_chunks(model, device, M) for model in (reference, candidate)), key=len)

    with part_workers(threads if device.type == "cpu" else 1) as for_all:
        for rows in finest:
            chunks = [Chunk.of(model, rows, targets_M[rows]) for model in (reference, candidate)]
            halves = zip(*(chunk.parts(threads) for chunk in chunks), strict=True)
            parts = [PairSums(list(part), V) for part in halves]
            for_all(PairSums.add_blocks, parts)
            # Of many small operations: threads would wait for the GIL.
            statistics.write(rows, PairSums.joined(parts, chunks).totals(rows.start))
    return lambda: statistics


def concatenate_divergences(parts: Sequence[DivergenceStatistics]) -> DivergenceStatistics:
    """The statistics of all rows, part after part."""
    columns: dict[str, np.ndarray | TokenStatistics] = {}
    for field in fields(DivergenceStatistics):
        values = [getattr(part, field.name) for part in parts]
        is_tokens = isinstance(values[0], TokenStatistics)
        columns[field.name] = (
            concatenate_statistics(values) if is_tokens else np.concatenate(values)
        )
    return DivergenceStatistics(**columns)  # type: ignore[arg-type]  # by name, each of its type


def nll_differences(
    reference_nll_M: Float[np.ndarray, "M"], candidate_nll_M: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """The candidate's surprisals minus the reference's; 0 where both exclude the token.

    >>> nll_differences(np.array([1.0, np.inf]), np.array([1.5, np.inf])).tolist()
    [0.5, 0.0]
    """
    difference_M = np.zeros(len(reference_nll_M))
    differs_M = candidate_nll_M != reference_nll_M
    np.subtract(candidate_nll_M, reference_nll_M, out=difference_M, where=differs_M)
    return difference_M
