"""How far apart are two models' predictions at the same positions?  Both stream, nothing is stored.

Both models' logits of a block of words are made, measured and dropped; what a block leaves is in
:mod:`kullback.scoring.log_ratio_sums`, and says all three divergences when the last has gone by.
So a KL is never negative, equal logits give exactly zero, KLs between quantised models keep five
digits, and the memory is that of a block, whatever M and V.

Axes: M rows, B rows of a chunk, R some of them, N blocks of W words, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.predictions.base import Predictions
from kullback.predictions.checks import check_targets
from kullback.scoring.compiled import BlockLibrary, block_library
from kullback.scoring.log_ratio_sums import LogRatioSums, block_jensen_shannon
from kullback.scoring.logit_blocks import (
    Chunk,
    device_of,
    row_chunks,
    wide,
)
from kullback.scoring.token_statistics import BlockSums, TokenStatistics, concatenate_statistics

__all__ = [
    "DivergenceStatistics",
    "concatenate_divergences",
    "divergence_statistics",
    "nll_differences",
]

TOP_K = 5
# Where the normalisers differ by more, float32 rounds the difference of two logits too much.
OFFSET_LIMIT = 2.0


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
    top5_overlap: Int[np.ndarray, "M"]
    """How many of the reference's five most probable words are among the candidate's."""
    candidate_at_reference_top1: Float[np.ndarray, "M"]
    """The candidate's probability of the reference's most probable word."""
    reference_padding: Float[np.ndarray, "M"]
    """The probability that the reference gives to words that are not compared."""
    candidate_padding: Float[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.kl)

    @property
    def top1_agreement(self) -> Bool[np.ndarray, "M"]:
        """Whether both have the same most probable word."""
        agreement: Bool[np.ndarray, "M"] = self.reference.top1 == self.candidate.top1
        return agreement

    @property
    def target_probability_change(self) -> Float[np.ndarray, "M"]:
        """Δp of the target: the candidate's probability minus the reference's."""
        change: Float[np.ndarray, "M"] = np.exp(-self.candidate.nll) - np.exp(-self.reference.nll)
        return change


@torch.inference_mode()
def divergence_statistics(
    reference: Predictions,
    candidate: Predictions,
    targets_M: Int[Tensor, "M"],
    vocabulary_size: int | None = None,
) -> DivergenceStatistics:
    """Compare two models' predictions of the same M positions, in nats.

    The first `vocabulary_size` words are compared: by default as many as both models have, since
    models often pad their vocabulary to a round number.  The distributions are those over the words
    compared, which sum to 1; what a model gives to the others is reported as its padding.

    On a CPU the cost above the two heads' matmuls is about a third of theirs at D = 576, with a
    dozen blocks of a megabyte in memory.  Safe to call from several threads, on different rows.

    Raises `InvalidValueError` where the rows, targets or vocabularies do not fit, and naming the
    row where logits hold NaN or +inf, or only -inf.

    >>> from kullback.predictions.base import DensePredictions
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    >>> found = divergence_statistics(DensePredictions(p), DensePredictions(q), torch.tensor([0]))
    >>> [round(float(x[0]), 3) for x in (found.kl, found.reverse_kl, found.jensen_shannon)]
    [0.511, 0.368, 0.102]
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
                f"vocabulary_size is {vocabulary_size}: it must lie in [1, {V}], the words that "
                "both models have"
            )
        V = vocabulary_size
    check_targets(targets_M, M, V)
    found = DivergenceStatistics(
        reference=TokenStatistics.empty(M, TOP_K),
        candidate=TokenStatistics.empty(M, TOP_K),
        kl=np.empty(M),
        reverse_kl=np.empty(M),
        jensen_shannon=np.empty(M),
        top5_overlap=np.empty(M, dtype=np.int64),
        candidate_at_reference_top1=np.empty(M),
        reference_padding=np.zeros(M),
        candidate_padding=np.zeros(M),
    )
    if M == 0:
        return found
    device = device_of(reference)
    targets_M = targets_M.to(device)
    for rows in row_chunks(reference, device, most=M):
        chunks = [Chunk.of(model, rows, targets_M[rows]) for model in (reference, candidate)]
        _Pair(chunks, V).compare(found, rows)
    return found


@dataclass(eq=False)
class _Normaliser:
    """m and Z of the words so far: q = e^(x-m) / Z."""

    largest_B: Float[Tensor, "B"]
    """m in the type of the logits: its lowest number where none was finite."""
    z_B: Float[Tensor, "B"]
    """In float64."""

    @classmethod
    def of_nothing(cls, like_B: Float[Tensor, "B"]) -> _Normaliser:
        lowest = torch.finfo(like_B.dtype).min
        return cls(torch.full_like(like_B, lowest), torch.zeros_like(wide(like_B)))

    def add(self, largest_B: Float[Tensor, "B"], z_B: Float[Tensor, "B"]) -> None:
        """Take in the m and Z of a block."""
        before_B, self.largest_B = self.largest_B, torch.maximum(self.largest_B, largest_B)
        m_B = wide(self.largest_B)
        self.z_B = self.z_B * (wide(before_B) - m_B).exp()
        self.z_B += wide(z_B) * (wide(largest_B) - m_B).exp()

    def log_probabilities(
        self, logits_RX: Float[Tensor, "R X"], rows_R: Int[Tensor, "R"] | slice = slice(None)
    ) -> Float[Tensor, "R X"]:
        """log q in float64, of logits of some rows, or of all."""
        largest_R, log_z_R = wide(self.largest_B)[rows_R], self.z_B[rows_R].log()
        return wide(logits_RX) - largest_R[:, None] - log_z_R[:, None]


class _Pair:
    """The predictions of two models at the same rows."""

    def __init__(self, chunks: list[Chunk], vocabulary_size: int) -> None:
        likes = [chunk.target_logits_B for chunk in chunks]
        self.chunks, self.vocabulary_size = chunks, vocabulary_size
        self.width = min(chunk.width for chunk in chunks)
        self.dtype = torch.promote_types(*(like_B.dtype for like_B in likes))
        count = math.ceil(vocabulary_size / self.width)
        self.sums = [BlockSums(like_B, count, TOP_K) for like_B in likes]
        self.normalisers = [_Normaliser.of_nothing(like_B) for like_B in likes]
        self.ratios = LogRatioSums(likes[0].to(self.dtype), count)
        # Of each block an origin of either model's logits, and what was taken for
        # log Z_p - log Z_q, both Z about them.
        self.estimates_N3B = wide(likes[0]).new_empty(count, 3, len(likes[0]))
        self.at_top1_B = torch.zeros_like(likes[1])
        # m and Z of both models, as the library keeps them.
        nothing_4 = torch.tensor([torch.finfo(torch.float32).min, 0.0] * 2, dtype=torch.float64)
        self.state_4B = nothing_4[:, None].repeat(1, len(likes[0]))

    def compare(self, found: DivergenceStatistics, rows: slice) -> None:
        """Stream both models' blocks once, and write what they say."""
        library = block_library()
        blocks = [chunk.blocks(0, self.vocabulary_size, self.width) for chunk in self.chunks]
        for (words, x_BW), (_, y_BW) in zip(*blocks, strict=True):
            if library is not None and library.takes(x_BW, y_BW):
                self._add(library, words, x_BW, y_BW)
            else:
                self._add_by_torch(words, x_BW, y_BW)
        for i, name in enumerate(("reference", "candidate")):
            largest_B, log_z_B = self.sums[i].finish(getattr(found, name), rows, f"the {name}")
            self.normalisers[i] = _Normaliser(largest_B, log_z_B.exp())
            padding_B = getattr(found, f"{name}_padding")
            padding_B[rows] = self._padding(i).cpu().numpy()
        first_B5, second_B5 = (sums.top.tokens_BK for sums in self.sums)
        is_shared = (first_B5[:, :, None] == second_B5[:, None, :]) & (first_B5 >= 0)[:, :, None]
        found.top5_overlap[rows] = is_shared.any(dim=2).sum(dim=1).cpu().numpy()
        at_top1_B1 = self.normalisers[1].log_probabilities(self.at_top1_B[:, None])
        found.candidate_at_reference_top1[rows] = at_top1_B1[:, 0].exp().cpu().numpy()
        self._write_divergences(found, rows)

    def _add(
        self, library: BlockLibrary, words: slice, x_BW: Float[Tensor, "B W"], y_BW: Tensor
    ) -> None:
        """Add a block of both models' logits."""
        first, second = self.sums
        estimate_3B = self.estimates_N3B[first.added]
        has_far, has_excluded = library.pair(
            words.start, x_BW, y_BW,
            (first.target_logits_B, second.target_logits_B),
            (first.top.columns, second.top.columns),
            self.state_4B,
            (first.room(), second.room()), estimate_3B[2], self.ratios.room(),
        )  # fmt: skip
        estimate_3B[:2] = self.state_4B[::2]
        self.ratios.take(has_far, has_excluded)
        self._note_top1(words, y_BW)

    def _note_top1(self, words: slice, y_BW: Float[Tensor, "B W"]) -> None:
        """Keep the candidate's logits of words that have become the reference's most probable."""
        top1_B = self.sums[0].top1.tokens_BK[:, 0]
        moved_B = (top1_B >= words.start).nonzero()[:, 0]
        self.at_top1_B[moved_B] = y_BW[moved_B, top1_B[moved_B] - words.start]

    def _add_by_torch(
        self, words: slice, x_BW: Float[Tensor, "B W"], y_BW: Float[Tensor, "B W"]
    ) -> None:
        """Add a block of both models' logits, which are overwritten."""
        largest = [logits_BW.amax(dim=1) for logits_BW in (x_BW, y_BW)]
        so_far = [
            wide(torch.maximum(normaliser.largest_B, largest_B))
            for normaliser, largest_B in zip(self.normalisers, largest, strict=True)
        ]
        estimate_3B = self.estimates_N3B[self.sums[0].added]
        origins_2B = estimate_3B[:2]
        if bool(((so_far[0] - so_far[1]).abs() > OFFSET_LIMIT).any()):
            # In float64, each below its largest: exact, however large the logits are.
            origins_2B.copy_(torch.stack(so_far))
            first_BW, second_BW = wide(x_BW), wide(y_BW)
            first_BW -= so_far[0][:, None]
            second_BW -= so_far[1][:, None]
            difference_BW = first_BW.sub_(second_BW)
        else:
            # The difference of close logits is exact: their own origin will do.
            origins_2B.zero_()
            difference_BW = x_BW - y_BW
        self.sums[0].add_by_torch(words.start, x_BW, largest[0])
        self._note_top1(words, y_BW)
        self.sums[1].add_by_torch(words.start, y_BW, largest[1])
        for normaliser, largest_B, sums in zip(self.normalisers, largest, self.sums, strict=True):
            normaliser.add(largest_B, sums.blocks.z_B[-1])
        # As it will be subtracted: rounded, and 0 where a model has given nothing yet.
        offset_B = self._log_z_difference(origins_2B).nan_to_num(0, 0, 0).to(self.dtype)
        estimate_3B[2] = offset_B
        difference_BW -= offset_B[:, None].to(difference_BW)
        p_BW, q_BW = (sums.exponentials_BW.to(self.dtype) for sums in self.sums)
        self.ratios.add(p_BW, q_BW, difference_BW.to(p_BW))

    def _log_z_difference(self, origins: Float[Tensor, "2 *N B"]) -> Float[Tensor, "*N B"]:
        """log Z_p - log Z_q of the words so far, in float64, both Z about an origin."""
        first, second = self.normalisers
        first_B, second_B = wide(first.largest_B) - origins[0], wide(second.largest_B) - origins[1]
        return first_B - second_B + first.z_B.log() - second.z_B.log()

    def _write_divergences(self, found: DivergenceStatistics, rows: slice) -> None:
        """What the sums say, and where they cannot say JS, what the logits do."""
        log_scales = [
            wide(sums.blocks.largest_B) - wide(normaliser.largest_B) - normaliser.z_B.log()
            for sums, normaliser in zip(self.sums, self.normalisers, strict=True)
        ]
        origins_2NB, offset_NB = self.estimates_N3B[:, :2].transpose(0, 1), self.estimates_N3B[:, 2]
        epsilon_NB = self._log_z_difference(origins_2NB) - offset_NB
        divergences = self.ratios.divergences(epsilon_NB, *log_scales)
        found.kl[rows] = divergences.kl_B.cpu().numpy()
        found.reverse_kl[rows] = divergences.reverse_kl_B.cpu().numpy()
        js_NB, is_coarse_NB = divergences.jensen_shannon_NB, divergences.is_coarse_NB
        width = self.width
        for n in is_coarse_NB.any(dim=1).nonzero()[:, 0].tolist():
            words = slice(n * width, min((n + 1) * width, self.vocabulary_size))
            rows_R = is_coarse_NB[n].nonzero()[:, 0]
            js_NB[n, rows_R] = block_jensen_shannon(
                *(
                    normaliser.log_probabilities(chunk.block_of(rows_R, words), rows_R)
                    for normaliser, chunk in zip(self.normalisers, self.chunks, strict=True)
                )
            )
        found.jensen_shannon[rows] = js_NB.sum(dim=0).clamp_(0, math.log(2)).cpu().numpy()

    def _padding(self, model: int) -> Float[Tensor, "B"]:
        """The mass of the words that are left out."""
        chunk, normaliser = self.chunks[model], self.normalisers[model]
        first, stop = self.vocabulary_size, chunk.predictions.vocabulary_size
        outside = BlockSums(chunk.target_logits_B, chunk.count(first, stop))
        for words, block_BW in chunk.blocks(first, stop):
            outside.add(words.start, block_BW)
        log_sum_B = outside.log_sum()
        if log_sum_B is None:
            return torch.zeros_like(normaliser.z_B)
        return torch.sigmoid(log_sum_B - wide(normaliser.largest_B) - normaliser.z_B.log())


def concatenate_divergences(parts: Sequence[DivergenceStatistics]) -> DivergenceStatistics:
    """The statistics of all rows, one part after the other."""
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
