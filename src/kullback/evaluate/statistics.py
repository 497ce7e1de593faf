"""One pass over the vocabulary: everything that is asked of a prediction, block by block.

The logits of M positions and V words never exist at once: a block of rows × words is made, used
for all statistics and dropped, so the memory needed depends on neither M nor V.  Within a block
the arithmetic is that of the model (float32, or float64 where the model is float64); what crosses
blocks is float64.  With m the largest logit so far, each block adds to

    Z = Σ e^(x-m)        S = Σ (x-m) e^(x-m)        C = Σ e^(2(x-m))

which are rescaled where m grows (Milakov and Gimelshein 2018, "Online normalizer calculation for
softmax", algorithm 3, extended to S and C), and at the end

    nll = m - x[target] + log Z      H = log Z - S / Z      Σ q² = C / Z²      max q = 1 / Z

Since the largest word adds exactly 1 to Z, neither nll nor H can be negative, and nothing goes
through a softmax and then a logarithm.

Axes: M rows, B rows of a chunk, W words of a block, V vocabulary, K most probable words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.errors import InvalidValueError
from kullback.evaluate.logit_blocks import (
    Chunk,
    TopWords,
    check_rows,
    check_targets,
    chunk_rows,
    wide,
)
from kullback.models.base import Predictions

__all__ = ["RunningSums", "TokenStatistics", "token_statistics"]

# Enough for top-10 lists; the rank gives the accuracy at any k.
LARGEST_TOP_K = 10


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What one pass found at each of M positions; logarithms are natural."""

    nll: Float[np.ndarray, "M"]
    """-log q[target] in nats; inf where the model excludes the target."""
    entropy: Float[np.ndarray, "M"]
    """H(q) in nats."""
    rank: Int[np.ndarray, "M"]
    """1 + the number of words whose logit is strictly larger than the target's."""
    top1: Int[np.ndarray, "M"]
    """The most probable word, the first one of equals."""
    top1_probability: Float[np.ndarray, "M"]
    sum_of_squares: Float[np.ndarray, "M"]
    """Σ q², the collision probability, for the Brier score."""
    top_words: Int[np.ndarray, "M K"]
    """The K most probable words, falling; K is 0 unless asked for, -1 where V < K."""
    top_log_probabilities: Float[np.ndarray, "M K"]

    def __len__(self) -> int:
        return len(self.nll)

    @classmethod
    def empty(cls, rows: int, top_k: int = 0) -> TokenStatistics:
        """Room for the statistics of `rows` positions."""
        return cls(
            nll=np.empty(rows),
            entropy=np.empty(rows),
            rank=np.empty(rows, dtype=np.int64),
            top1=np.empty(rows, dtype=np.int64),
            top1_probability=np.empty(rows),
            sum_of_squares=np.empty(rows),
            top_words=np.empty((rows, top_k), dtype=np.int64),
            top_log_probabilities=np.empty((rows, top_k)),
        )


@torch.inference_mode()
def token_statistics(
    predictions: Predictions, targets_M: Int[Tensor, "M"], top_k: int = 0
) -> TokenStatistics:
    """The statistics of each position and its target, with blocks of a megabyte in memory.

    `targets_M` holds one word id a row, on any device.  `top_k` (0 to 10) asks for the most
    probable words, too.  Logits of -inf exclude a word: its nll is inf.  Safe to call from several
    threads, on different rows.

    Raises `InvalidValueError` for targets that do not fit, and naming the row where logits hold
    NaN or +inf, or only -inf.

    >>> from kullback.models.base import DensePredictions
    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, -torch.inf]])
    >>> found = token_statistics(DensePredictions(logits), torch.tensor([3, 1]))
    >>> found.nll.round(4).tolist(), found.rank.tolist(), found.top1.tolist()
    ([1.3863, 1.4076], [1, 2], [0, 2])
    """
    M, V = len(predictions), predictions.vocabulary_size
    check_targets(targets_M, M, V)
    if not 0 <= top_k <= LARGEST_TOP_K:
        raise InvalidValueError(f"top_k is {top_k}: it must lie in [0, {LARGEST_TOP_K}]")
    found = TokenStatistics.empty(M, top_k)
    if M == 0:
        return found
    device = predictions.logits(slice(0, 1), slice(0, 1)).device
    targets_M = targets_M.to(device)
    rows = chunk_rows(predictions, device)
    for start in range(0, M, rows):
        part = slice(start, min(start + rows, M))
        chunk = Chunk.of(predictions, part, targets_M[part])
        sums = RunningSums(chunk.target_logits_B, top_k)
        for first_word, block_BW in chunk.blocks(V):
            sums.add(first_word, block_BW)
        sums.finish(found, part)
    return found


class RunningSums:
    """The sums of one chunk of rows, and what follows from them."""

    def __init__(self, target_logits_B: Float[Tensor, "B"], top_k: int) -> None:
        self.target_logits_B = target_logits_B
        self.largest_B = torch.full_like(target_logits_B, -torch.inf)
        self.above_B = torch.zeros_like(target_logits_B)
        zeros_B = torch.zeros_like(wide(target_logits_B))
        self.z_B, self.s_B, self.c_B = zeros_B, zeros_B.clone(), zeros_B.clone()
        self.top1 = TopWords(target_logits_B, 1)
        self.top = TopWords(target_logits_B, top_k) if top_k > 1 else self.top1
        self.top_k = top_k
        self.scratch_BW = target_logits_B.new_empty(0, 0)
        # e^x is computed as 2^(x / log 2): three times as fast on a CPU, and as exact.
        self.per_bit = float(torch.tensor(1 / math.log(2), dtype=target_logits_B.dtype))

    def add(self, first_word: int, block_BW: Float[Tensor, "B W"]) -> None:
        """Add a block of words; its logits are overwritten."""
        if self.scratch_BW.shape != block_BW.shape:
            self.scratch_BW = torch.empty_like(block_BW)
        scratch_BW = self.scratch_BW
        block_largest_B = block_BW.amax(dim=1)
        # A comparison written as 0.0 and 1.0 and summed costs a quarter of one that gives bools.
        torch.gt(block_BW, self.target_logits_B[:, None], out=scratch_BW)
        self.above_B += scratch_BW.sum(dim=1)
        self.top1.update(first_word, block_BW, block_largest_B)
        if self.top is not self.top1:
            self.top.update(first_word, block_BW, block_largest_B)
        self._raise_largest(block_largest_B)
        # Where there is no finite logit yet, any shift will do.
        shift_B = torch.where(self.largest_B == -torch.inf, 0, self.largest_B)
        block_BW.sub_(shift_B[:, None]).mul_(self.per_bit)
        torch.exp2(block_BW, out=scratch_BW)
        self.z_B += wide(scratch_BW.sum(dim=1))
        self.c_B += wide(torch.linalg.vector_norm(scratch_BW, dim=1)).square()
        s_B = block_BW.mul_(scratch_BW).sum(dim=1)
        if bool(s_B.isnan().any()):
            # 0 × -inf: an impossible word has no surprise to contribute.  (A logit that is NaN
            # has made the largest NaN, which `finish` reports.)
            s_B = block_BW.nan_to_num_(nan=0.0).sum(dim=1)
        self.s_B += wide(s_B)

    def _raise_largest(self, block_largest_B: Float[Tensor, "B"]) -> None:
        largest_B = torch.maximum(self.largest_B, block_largest_B)
        # In the exponents' own arithmetic, so that the shift cancels to the last bit.
        shift_B = (wide(self.largest_B) - wide(largest_B)) * self.per_bit
        factor_B = torch.exp2(shift_B)
        begun_B = self.z_B > 0
        # S is a sum of exponents in bits: they all fall by the shift.
        self.s_B = torch.where(begun_B, (self.s_B + shift_B * self.z_B) * factor_B, 0)
        self.z_B = torch.where(begun_B, self.z_B * factor_B, 0)
        self.c_B = torch.where(begun_B, self.c_B * factor_B.square(), 0)
        self.largest_B = largest_B

    def finish(self, found: TokenStatistics, rows: slice, name: str = "the predictions") -> None:
        """Write what the sums say of the rows; raise where a row is no distribution."""
        check_rows(self.largest_B, rows.start, name)
        z_B, log_z_B, largest_B = self.z_B, self.z_B.log(), wide(self.largest_B)
        nll_B = largest_B - wide(self.target_logits_B) + log_z_B
        found.nll[rows] = nll_B.cpu().numpy()
        found.entropy[rows] = (log_z_B - self.s_B / z_B * math.log(2)).cpu().numpy()
        found.rank[rows] = self.above_B.cpu().numpy().astype(np.int64) + 1
        found.top1[rows] = self.top1.words_BK[:, 0].cpu().numpy()
        found.top1_probability[rows] = (1 / z_B).cpu().numpy()
        found.sum_of_squares[rows] = (self.c_B / z_B.square()).cpu().numpy()
        if self.top_k:
            found.top_words[rows] = self.top.words_BK.cpu().numpy()
            top_BK = wide(self.top.logits_BK) - (largest_B + log_z_B)[:, None]
            found.top_log_probabilities[rows] = top_BK.cpu().numpy()
