"""How far apart are two models' predictions at the same positions?  Both stream, nothing is stored.

With p the reference, q the candidate and l = log p - log q at each of V words, in nats,

    KL(p‖q) = Σ p f(l)      KL(q‖p) = Σ q f(-l)      f(l) = e^(-l) - 1 + l
    JS      = (KL(p‖q) + KL(q‖p)) / 4 - Σ (p + q) g(l) / 2      g(l) = log cosh(l / 2)
            = Σ [(p + q) (log 2 - t) - min(p, q) |l|] / 2       t = log(1 + e^(-|l|))

The textbook's Σ p l adds and subtracts numbers of size |l| to get one of size l²: in float32
nothing is left of a KL of 1e-6.  The terms above sum to the same (since Σ p = Σ q = 1), each is at
least zero, and an error e of the normalisers enters as e², not e.  Where |l| <= 1/2, f and g are
series, exact to float32; elsewhere f and the second form of JS are computed as written.  So a KL is
never negative, equal logits give exactly zero, and KLs between quantised models keep five digits.

A chunk of rows keeps the logits of both models until their normalisers are known, and is then
gone over once more.  The memory is that of the chunk, whatever M and V.

Axes: M rows, B rows of a chunk, W words of a block, V vocabulary.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.evaluate.logit_blocks import (
    Chunk,
    check_targets,
    device_of,
    row_chunks,
    wide,
)
from kullback.evaluate.statistics import BlockSums, TokenStatistics, bits_per_nat
from kullback.models.base import Predictions

__all__ = ["DivergenceStatistics", "divergence_statistics"]

# The logits that two threads hold, each of two models, leave room below 256 MB.  At V = 49,152 it
# is 244 rows, at which the head's matmul is within 4 % of its best.
SCRATCH_BYTES = 96 << 20
TOP_K = 5
# Up to here the series of f and g are exact to float32; beyond, so are their formulas.
SERIES_LIMIT = 0.5
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
    scratch_bytes: int = SCRATCH_BYTES,
) -> DivergenceStatistics:
    """Compare two models' predictions of the same M positions, in nats.

    The first `vocabulary_size` words are compared: by default as many as both models have, since
    models often pad their vocabulary to a round number.  The distributions are those over the words
    compared, which sum to 1; what a model gives to the others is reported as its padding.

    On a CPU the cost above the two heads' matmuls is about half of theirs at D = 576 (more where
    the scratch holds under 200 rows), and `scratch_bytes` of memory, which the thread keeps for
    its next call.  Safe to call from several threads, on different rows.

    Raises `InvalidValueError` where the rows, targets or vocabularies do not fit, and naming the
    row where logits hold NaN or +inf, or only -inf.

    >>> from kullback.models.base import DensePredictions
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
    for rows in row_chunks(reference, device, max(1, scratch_bytes // (8 * V))):
        chunks = [Chunk.of(model, rows, targets_M[rows]) for model in (reference, candidate)]
        first, second = map(_Side, chunks, _room(chunks, V), (V, V))
        found.reference_padding[rows] = first.finish(found.reference, rows, "the reference")
        found.candidate_padding[rows] = second.finish(found.candidate, rows, "the candidate")
        _compare(first, second, found, rows)
    return found


# The memory of each thread's last chunk: fresh pages cost as much as ten passes over them.
_kept = threading.local()


def _room(chunks: list[Chunk], vocabulary_size: int) -> Float[Tensor, "2 N B W"]:
    """Memory for both models' logits, in which each block is contiguous.

    (In rows of V the lines of a block would compete for the same few places of the cache.)
    """
    dtype = torch.promote_types(*(chunk.target_logits_B.dtype for chunk in chunks))
    width, rows = chunks[0].width, len(chunks[0].targets_B)
    shape = (2, math.ceil(vocabulary_size / width), rows, width)
    flat: Tensor | None = getattr(_kept, "flat", None)
    like = chunks[0].target_logits_B
    if (
        flat is None
        or (flat.dtype, flat.device) != (dtype, like.device)
        or not math.prod(shape) <= len(flat) <= 2 * math.prod(shape)
    ):
        _kept.flat = None
        flat = _kept.flat = like.new_empty(math.prod(shape), dtype=dtype)
    return flat[: math.prod(shape)].view(shape)


class _Side:
    """One model's logits of a chunk of rows, and their sums."""

    def __init__(
        self, chunk: Chunk, room_NBW: Float[Tensor, "N B W"], vocabulary_size: int
    ) -> None:
        """Make the logits, and sum over them while they are in the cache."""
        self.sums = BlockSums(chunk.target_logits_B, TOP_K)
        self.padding = BlockSums(chunk.target_logits_B)
        self.room_NBW = room_NBW
        self.blocks: list[Float[Tensor, "B W"]] = []
        self.largest_B = self.log_z_B = torch.empty(0)
        for words, block_BW in chunk.blocks(0, vocabulary_size):
            kept_BW = self.room_NBW[len(self.blocks), :, : block_BW.shape[1]]
            self.blocks.append(kept_BW.copy_(block_BW))
            self.sums.add(words.start, block_BW)
        for words, block_BW in chunk.blocks(vocabulary_size, chunk.predictions.vocabulary_size):
            self.padding.add(words.start, block_BW)

    def finish(self, found: TokenStatistics, rows: slice, name: str) -> Float[np.ndarray, "B"]:
        """Write the model's own statistics; return the mass of the words that are left out."""
        self.largest_B, self.log_z_B = self.sums.finish(found, rows, name)
        outside_B = self.padding.log_sum()
        if outside_B is None:
            return np.zeros(len(self.largest_B))
        return torch.sigmoid(outside_B - self.largest_B - self.log_z_B).cpu().numpy()

    def narrow(self, values_B: Tensor) -> Float[Tensor, "B 1"]:
        """A column in the logits' own type and place."""
        return values_B.to(self.room_NBW)[:, None]

    def log_probabilities(self, words_B: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """log q of one word of each row."""
        width = self.room_NBW.shape[2]
        rows_B = torch.arange(len(words_B), device=words_B.device)
        logits_B = self.room_NBW[words_B // width, rows_B, words_B % width]
        return wide(logits_B) - self.largest_B - self.log_z_B


def _compare(first: _Side, second: _Side, found: DivergenceStatistics, rows: slice) -> None:
    """Write what is said of both models."""
    overlap_B = first.sums.top.words_BK[:, :, None] == second.sums.top.words_BK[:, None, :]
    overlap_B &= first.sums.top.words_BK[:, :, None] >= 0
    found.top5_overlap[rows] = overlap_B.any(dim=2).sum(dim=1).cpu().numpy()
    at_top1_B = second.log_probabilities(first.sums.top1.words_BK[:, 0])
    found.candidate_at_reference_top1[rows] = at_top1_B.exp().cpu().numpy()
    terms = _Terms(first, second)
    for x_BW, y_BW in zip(first.blocks, second.blocks, strict=True):
        terms.add(x_BW, y_BW)
    found.kl[rows] = (terms.kl_B + terms.kl_rest_B).cpu().numpy()
    found.reverse_kl[rows] = (terms.reverse_B + terms.reverse_rest_B).cpu().numpy()
    found.jensen_shannon[rows] = (terms.js_B + terms.js_rest_B).cpu().numpy()


class _Terms:
    """The sums over blocks of words, in float64."""

    def __init__(self, first: _Side, second: _Side) -> None:
        self.first, self.second = first, second
        self.per_bit = bits_per_nat(first.room_NBW.dtype)
        offset_B = first.largest_B - second.largest_B + first.log_z_B - second.log_z_B
        self.offset_B1 = first.narrow(offset_B)
        self.is_offset = bool((offset_B.abs() > OFFSET_LIMIT).any())
        zeros_B = torch.zeros_like(first.log_z_B)
        self.kl_B, self.reverse_B, self.js_B = zeros_B, zeros_B.clone(), zeros_B.clone()
        # What words that one of the models excludes add to each.
        self.kl_rest_B, self.reverse_rest_B = zeros_B.clone(), zeros_B.clone()
        self.js_rest_B = zeros_B.clone()
        self.scratch: list[Float[Tensor, "B W"]] = []

    def add(self, x_BW: Float[Tensor, "B W"], y_BW: Float[Tensor, "B W"]) -> None:
        """Add a block of words, given as both models' logits."""
        # Memory that was used just before is in the cache; fresh memory doubles the time.
        if not self.scratch or self.scratch[0].shape != x_BW.shape:
            self.scratch = [torch.empty_like(x_BW) for _ in range(9)]
        p_BW, q_BW, l_BW, narrow_BW, *free = self.scratch
        self._probabilities(self.first, x_BW, out=p_BW)
        self._probabilities(self.second, y_BW, out=q_BW)
        self._log_ratios(x_BW, y_BW, out=l_BW)
        smallest, largest = (extreme.item() for extreme in l_BW.aminmax())
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            self._set_aside_excluded(p_BW, q_BW, l_BW)
        if smallest >= -SERIES_LIMIT and largest <= SERIES_LIMIT:
            kl_BW, reverse_BW, js_BW = _series(p_BW, q_BW, l_BW, free)
        else:
            torch.clamp(l_BW, -SERIES_LIMIT, SERIES_LIMIT, out=narrow_BW)
            kl_BW, reverse_BW, js_BW = _series(p_BW, q_BW, narrow_BW, free)
            is_far_BW = torch.ne(narrow_BW, l_BW, out=narrow_BW)
            far_BW, other_BW, *_ = free
            torch.sub(q_BW, p_BW, out=far_BW).addcmul_(p_BW, l_BW)
            kl_BW.lerp_(far_BW, is_far_BW)
            torch.sub(p_BW, q_BW, out=far_BW).addcmul_(q_BW, l_BW, value=-1)
            reverse_BW.lerp_(far_BW, is_far_BW)
            distance_BW = l_BW.abs_()
            torch.mul(distance_BW, -self.per_bit, out=far_BW).exp2_().log1p_()
            far_BW.neg_().add_(math.log(2)).mul_(torch.add(p_BW, q_BW, out=other_BW))
            torch.minimum(p_BW, q_BW, out=other_BW)
            far_BW.addcmul_(other_BW, distance_BW, value=-1).mul_(0.5)
            js_BW.lerp_(far_BW, is_far_BW)
        self.kl_B += wide(kl_BW.sum(dim=1))
        self.reverse_B += wide(reverse_BW.sum(dim=1))
        self.js_B += wide(js_BW.sum(dim=1))

    def _probabilities(self, side: _Side, x_BW: Tensor, out: Tensor) -> None:
        torch.sub(x_BW, side.narrow(side.largest_B), out=out)
        bits_B1 = side.narrow(side.log_z_B / -math.log(2))
        torch.add(bits_B1, out, alpha=self.per_bit, out=out).exp2_()

    def _log_ratios(self, x_BW: Tensor, y_BW: Tensor, out: Tensor) -> None:
        """l = log p - log q: the difference of close logits is exact."""
        if not self.is_offset:
            torch.sub(x_BW, y_BW, out=out).sub_(self.offset_B1)
            return
        # In float64, each below its largest: exact, however large the logits are.
        x_BW = wide(x_BW).sub_(self.first.largest_B[:, None])
        y_BW = wide(y_BW).sub_(self.second.largest_B[:, None])
        log_z_B = self.first.log_z_B - self.second.log_z_B
        out.copy_(x_BW.sub_(y_BW).sub_(log_z_B[:, None]))

    def _set_aside_excluded(self, p_BW: Tensor, q_BW: Tensor, l_BW: Tensor) -> None:
        """Account for words that a model excludes, and take them out of the block."""
        no_q_BW, no_p_BW = l_BW == torch.inf, l_BW == -torch.inf
        # By the limits of p f(l) and q f(-l) for q -> 0, and for p -> 0.
        only_p_B = wide((p_BW * no_q_BW).sum(dim=1))
        only_q_B = wide((q_BW * no_p_BW).sum(dim=1))
        infinite = torch.tensor(torch.inf, dtype=torch.float64, device=only_p_B.device)
        self.kl_rest_B += torch.where(no_q_BW.any(dim=1).to(only_p_B.device), infinite, only_q_B)
        self.reverse_rest_B += torch.where(
            no_p_BW.any(dim=1).to(only_p_B.device), infinite, only_p_B
        )
        self.js_rest_B += (only_p_B + only_q_B) * (math.log(2) / 2)
        excluded_BW = ~torch.isfinite(l_BW)
        for values_BW in (p_BW, q_BW, l_BW):
            values_BW.masked_fill_(excluded_BW, 0)


def _series(
    p_BW: Float[Tensor, "B W"],
    q_BW: Float[Tensor, "B W"],
    l_BW: Float[Tensor, "B W"],
    scratch: list[Float[Tensor, "B W"]],
) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B W"], Float[Tensor, "B W"]]:
    """The terms of both KLs and of JS, for small l: f(±l) = l² (even ∓ odd).

    They are the last three of the `scratch` of five blocks.
    """
    square_BW, g_BW, even_BW, odd_BW, kl_BW = scratch
    torch.mul(l_BW, l_BW, out=square_BW)
    # cosh l - 1 and sinh l - l, by Taylor; Horner's scheme in l².
    torch.mul(square_BW, 1 / 720, out=even_BW).add_(1 / 24).mul_(square_BW).add_(1 / 2)
    torch.mul(square_BW, 1 / 5040, out=odd_BW).add_(1 / 120).mul_(square_BW).add_(1 / 6)
    odd_BW.mul_(l_BW)
    torch.sub(even_BW, odd_BW, out=kl_BW).mul_(square_BW).mul_(p_BW)
    reverse_BW = even_BW.add_(odd_BW).mul_(square_BW).mul_(q_BW)
    # g(l) = l²/8 - l⁴/192 + l⁶/2880 - ...
    torch.mul(square_BW, 1 / 2880, out=g_BW).sub_(1 / 192).mul_(square_BW).add_(1 / 8)
    js_BW = torch.add(p_BW, q_BW, out=odd_BW).mul_(-0.5).mul_(g_BW.mul_(square_BW))
    js_BW.add_(kl_BW, alpha=0.25).add_(reverse_BW, alpha=0.25)
    return kl_BW, reverse_BW, js_BW
