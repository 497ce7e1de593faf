"""Sums over the logits of two models at the same rows, from one pass over both.

A block of both models' logits is computed, summed and dropped.  The sums over log-ratios, and how
the divergences follow from them, are in :mod:`kullback.scoring.log_ratio_sums`; this module streams
the blocks and estimates the two normalisers that each block's log-ratios need.

Axes: B rows of a chunk, R some of them, N blocks of W columns, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.scoring.block_sums import BlockSums, RowTotals
from kullback.scoring.compiled import BlockLibrary, block_library
from kullback.scoring.divergence_terms import block_jensen_shannon
from kullback.scoring.log_ratio_sums import LogRatioSums
from kullback.scoring.logit_blocks import Chunk, is_compiled, wide
from kullback.scoring.variation_sums import VariationSums, block_variation, total_of_parts

__all__ = ["TOP_K", "PairSums", "PairTotals"]

TOP_K = 5
# Where the normalisers differ by more, float32 rounds the difference of two logits too much.
OFFSET_LIMIT = 2.0


class PairTotals(NamedTuple):
    """The statistics of each row over all blocks, in float64; logarithms are natural."""

    reference: RowTotals
    candidate: RowTotals
    kl_B: Float[Tensor, "B"]
    reverse_kl_B: Float[Tensor, "B"]
    jensen_shannon_B: Float[Tensor, "B"]
    total_variation_B: Float[Tensor, "B"]
    top5_overlap_B: Int[Tensor, "B"]
    at_top1_B: Float[Tensor, "B"]
    """The candidate's probability of the reference's most probable token."""
    reference_padding_B: Float[Tensor, "B"]
    candidate_padding_B: Float[Tensor, "B"]


@dataclass(eq=False)
class _Normaliser:
    """m and Z of the columns so far: q = e^(x-m) / Z."""

    largest_B: Float[Tensor, "B"]
    """m in the type of the logits: the type's lowest number where no logit was finite."""
    z_B: Float[Tensor, "B"]
    """In float64."""

    @classmethod
    def of_nothing(cls, like_B: Float[Tensor, "B"]) -> _Normaliser:
        lowest = torch.finfo(like_B.dtype).min
        return cls(torch.full_like(like_B, lowest), torch.zeros_like(wide(like_B)))

    def add(self, largest_B: Float[Tensor, "B"], z_B: Float[Tensor, "B"]) -> None:
        """Add the m and Z of a block."""
        # In place: what is kept from one block to the next keeps its memory, as in `BlockSums`.
        before_B = wide(self.largest_B).clone()
        torch.maximum(self.largest_B, largest_B, out=self.largest_B)
        m_B = wide(self.largest_B)
        self.z_B *= (before_B - m_B).exp()
        self.z_B += wide(z_B) * (wide(largest_B) - m_B).exp()

    def log_probabilities(
        self, logits_RX: Float[Tensor, "R X"], rows_R: Int[Tensor, "R"] | slice = slice(None)
    ) -> Float[Tensor, "R X"]:
        """log q in float64, from logits of some rows, or of all."""
        largest_R, log_z_R = wide(self.largest_B)[rows_R], self.z_B[rows_R].log()
        return wide(logits_RX) - largest_R[:, None] - log_z_R[:, None]


class PairSums:
    """The sums of two models' chunks of the same rows over the first V columns."""

    def __init__(self, chunks: list[Chunk], vocabulary_size: int) -> None:
        likes = [chunk.target_logits_B for chunk in chunks]
        self.chunks, self.vocabulary_size = chunks, vocabulary_size
        self.width = min(chunk.width for chunk in chunks)
        self.dtype = torch.promote_types(*(like_B.dtype for like_B in likes))
        count = math.ceil(vocabulary_size / self.width)
        self.sums = [BlockSums(like_B, count, TOP_K) for like_B in likes]
        self.normalisers = [_Normaliser.of_nothing(like_B) for like_B in likes]
        self.ratios = LogRatioSums(likes[0].to(self.dtype), count)
        # Only the library adds to them.
        self.variation = VariationSums(likes[0]) if all(map(is_compiled, likes)) else None
        # For each block an origin of either model's logits, and the estimate of log Z_p - log Z_q
        # that was subtracted, both Z relative to the origins.
        self.estimates_N3B = wide(likes[0]).new_empty(count, 3, len(likes[0]))
        self.at_top1_B = torch.zeros_like(likes[1])
        # m and Z of both models, as the library keeps them.
        nothing_4 = torch.tensor([torch.finfo(torch.float32).min, 0.0] * 2, dtype=torch.float64)
        self.state_4B = nothing_4[:, None].repeat(1, len(likes[0]))

    @classmethod
    def joined(cls, parts: Sequence[PairSums], chunks: Sequence[Chunk]) -> PairSums:
        """The sums of some rows, whose parts have been added; `chunks` are of all of them."""
        if len(parts) == 1:
            return parts[0]
        whole = cls(list(chunks), parts[0].vocabulary_size)
        for i in range(2):
            whole.sums[i] = BlockSums.joined([part.sums[i] for part in parts])
        whole.ratios = LogRatioSums.joined([part.ratios for part in parts])
        variations = [part.variation for part in parts if part.variation is not None]
        is_whole = len(variations) == len(parts)
        whole.variation = VariationSums.joined(variations) if is_whole else None
        whole.estimates_N3B = torch.cat([part.estimates_N3B for part in parts], dim=2)
        whole.at_top1_B = torch.cat([part.at_top1_B for part in parts])
        return whole

    def add_blocks(self) -> None:
        """Compute both models' logits block by block, and add all blocks."""
        library = block_library()
        blocks = [chunk.blocks(0, self.vocabulary_size, self.width) for chunk in self.chunks]
        for (columns, x_BW), (_, y_BW) in zip(*blocks, strict=True):
            if library is not None and self.variation is not None and library.takes(x_BW, y_BW):
                self._add_by_library(library, self.variation, columns, x_BW, y_BW)
            else:
                self.variation = None
                self._add_by_torch(columns, x_BW, y_BW)

    def totals(self, first_row: int) -> PairTotals:
        """The statistics of the rows, once all blocks are added.

        Raises `InvalidValueError` where a row of either model is no distribution.
        """
        reference, candidate = (
            sums.totals(first_row, owner)
            for sums, owner in zip(self.sums, ("the reference", "the candidate"), strict=True)
        )
        self.normalisers = [
            _Normaliser(total.largest_B, total.log_z_B.exp()) for total in (reference, candidate)
        ]
        first_B5, second_B5 = reference.top_tokens_BK, candidate.top_tokens_BK
        is_shared = (first_B5[:, :, None] == second_B5[:, None, :]) & (first_B5 >= 0)[:, :, None]
        at_top1_B1 = self.normalisers[1].log_probabilities(self.at_top1_B[:, None])
        kl_B, reverse_kl_B, jensen_shannon_B, total_variation_B = self._divergences()
        return PairTotals(
            reference,
            candidate,
            kl_B,
            reverse_kl_B,
            jensen_shannon_B,
            total_variation_B,
            top5_overlap_B=is_shared.any(dim=2).sum(dim=1),
            at_top1_B=at_top1_B1[:, 0].exp(),
            reference_padding_B=self._padding(0),
            candidate_padding_B=self._padding(1),
        )

    def _add_by_library(
        self,
        library: BlockLibrary,
        variation: VariationSums,
        columns: slice,
        x_BW: Float[Tensor, "B W"],
        y_BW: Float[Tensor, "B W"],
    ) -> None:
        """Add a block of both models' logits with the compiled library."""
        first, second = self.sums
        estimate_3B = self.estimates_N3B[first.added]
        has_far, has_excluded = library.pair(
            columns.start, (x_BW, y_BW),
            (first.target_logits_B, second.target_logits_B),
            (first.top.buffers, second.top.buffers),
            self.state_4B,
            (first.next_slot(), second.next_slot()), estimate_3B[2], self.ratios.next_slot(),
            variation.buffers,
        )  # fmt: skip
        estimate_3B[:2] = self.state_4B[::2]
        self.ratios.commit(has_far, has_excluded)
        self._update_at_top1(columns, y_BW)

    def _update_at_top1(self, columns: slice, y_BW: Float[Tensor, "B W"]) -> None:
        """Keep the candidate's logits of tokens that have become the reference's most probable."""
        top1_B = self.sums[0].top1.tokens_BK[:, 0]
        rows_R = (top1_B >= columns.start).nonzero()[:, 0]
        self.at_top1_B[rows_R] = y_BW[rows_R, top1_B[rows_R] - columns.start]

    def _add_by_torch(
        self, columns: slice, x_BW: Float[Tensor, "B W"], y_BW: Float[Tensor, "B W"]
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
            first_BW, second_BW = wide(x_BW) - so_far[0][:, None], wide(y_BW) - so_far[1][:, None]
            difference_BW = first_BW.sub_(second_BW)
        else:
            # The difference of close logits is exact, and needs no other origin than 0.
            origins_2B.zero_()
            difference_BW = x_BW - y_BW
        self.sums[0].add_by_torch(columns.start, x_BW, largest[0])
        self._update_at_top1(columns, y_BW)
        self.sums[1].add_by_torch(columns.start, y_BW, largest[1])
        for normaliser, largest_B, sums in zip(self.normalisers, largest, self.sums, strict=True):
            normaliser.add(largest_B, sums.blocks.z_B[-1])
        # As it will be subtracted: rounded, and 0 while a model has excluded all columns.
        offset_B = self._log_z_difference(origins_2B).nan_to_num(0, 0, 0).to(self.dtype)
        estimate_3B[2] = offset_B
        difference_BW -= offset_B[:, None].to(difference_BW)
        p_BW, q_BW = (sums.exponentials_BW.to(self.dtype) for sums in self.sums)
        self.ratios.add(p_BW, q_BW, difference_BW.to(p_BW))

    def _log_z_difference(self, origins: Float[Tensor, "2 *N B"]) -> Float[Tensor, "*N B"]:
        """log Z_p - log Z_q of the columns so far, in float64, both Z relative to an origin."""
        first, second = self.normalisers
        first_B, second_B = wide(first.largest_B) - origins[0], wide(second.largest_B) - origins[1]
        return first_B - second_B + first.z_B.log() - second.z_B.log()

    def _divergences(self) -> tuple[Float[Tensor, "B"], ...]:
        """KL both ways, JS and TV; the last two from the logits where the sums are too coarse."""
        log_scales = [
            wide(sums.blocks.largest_B) - wide(normaliser.largest_B) - normaliser.z_B.log()
            for sums, normaliser in zip(self.sums, self.normalisers, strict=True)
        ]
        origins_2NB, offset_NB = self.estimates_N3B[:, :2].transpose(0, 1), self.estimates_N3B[:, 2]
        epsilon_NB = self._log_z_difference(origins_2NB) - offset_NB
        divergences = self.ratios.divergences(epsilon_NB, *log_scales)
        js_NB, is_coarse_NB = divergences.jensen_shannon_NB, divergences.is_coarse_NB
        for n in is_coarse_NB.any(dim=1).nonzero()[:, 0].tolist():
            rows_R = is_coarse_NB[n].nonzero()[:, 0]
            js_NB[n, rows_R] = self._exact_terms(rows_R, n)[0]
        js_B = js_NB.sum(dim=0).clamp_(0, math.log(2))
        return divergences.kl_B, divergences.reverse_kl_B, js_B, self._total_variation(log_scales)

    def _total_variation(self, log_scales: list[Float[Tensor, "N B"]]) -> Float[Tensor, "B"]:
        """TV: the library's; where that is too coarse, and without the library, from the logits."""
        if self.variation is None:
            variation_B = torch.zeros_like(self.normalisers[0].z_B)
            is_coarse_B = torch.ones_like(variation_B, dtype=torch.bool)
        else:
            variation_B, is_coarse_B = self.variation.total_variation(
                *self.ratios.excluded_probabilities(*log_scales)
            )
        rows_R = is_coarse_B.nonzero()[:, 0]
        if len(rows_R):
            # Memory for all blocks at once, as in `BlockSums`.
            parts_N4R = variation_B.new_empty(self.ratios.added, 4, len(rows_R))
            for n, parts_4R in enumerate(parts_N4R):
                parts_4R.copy_(self._exact_terms(rows_R, n)[1:])
            variation_B[rows_R] = total_of_parts(parts_N4R)
        return variation_B.clamp_(0, 1)

    def _exact_terms(self, rows_R: Int[Tensor, "R"], n: int) -> Float[Tensor, "5 R"]:
        """The term of block n in JS and the four in TV, from the logits of some rows."""
        columns = slice(n * self.width, min((n + 1) * self.width, self.vocabulary_size))
        x_RW, y_RW = (chunk.block_of(rows_R, columns) for chunk in self.chunks)
        library = block_library()
        if library is not None and library.takes(x_RW, y_RW):
            first, second = self.normalisers
            scales = (first.largest_B, first.z_B.log(), second.largest_B, second.z_B.log())
            scales_4R = torch.stack([wide(scale_B)[rows_R] for scale_B in scales])
            return library.exact_terms((x_RW, y_RW), scales_4R)
        log_p_RW, log_q_RW = (
            normaliser.log_probabilities(logits_RW, rows_R)
            for normaliser, logits_RW in zip(self.normalisers, (x_RW, y_RW), strict=True)
        )
        js_R = block_jensen_shannon(log_p_RW, log_q_RW)
        return torch.cat([js_R[None], block_variation(log_p_RW, log_q_RW)])

    def _padding(self, model: int) -> Float[Tensor, "B"]:
        """The probability of the columns from V on, which are not compared."""
        chunk, normaliser = self.chunks[model], self.normalisers[model]
        first, stop = self.vocabulary_size, chunk.predictions.vocabulary_size
        others = BlockSums(chunk.target_logits_B, chunk.count(first, stop))
        for columns, block_BW in chunk.blocks(first, stop):
            others.add(columns.start, block_BW)
        log_sum_B = others.log_sum()
        if log_sum_B is None:
            return torch.zeros_like(normaliser.z_B)
        return torch.sigmoid(log_sum_B - wide(normaliser.largest_B) - normaliser.z_B.log())
