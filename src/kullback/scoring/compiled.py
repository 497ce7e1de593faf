"""The sums over a block of float32 logits on a CPU, in C: one sweep over a row instead of fifty.

``block_sums.c`` computes what :class:`kullback.scoring.block_sums.BlockSums` and
:class:`kullback.scoring.log_ratio_sums.LogRatioSums` compute with torch.  The system's C compiler
compiles it at the first use (about a second) into a cache (`kullback.runtime.compiled_library`).
Without a compiler, or with `KULLBACK_COMPILE=0`, torch computes the sums, with the same results up
to float32 rounding.  Calls release the GIL.

Axes: B rows, W columns of a block (columns of the vocabulary), K most probable tokens.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.runtime.compiled_library import FLAGS, INT, LONG, POINTER, load_compiled
from kullback.runtime.processor import vector_flags
from kullback.scoring.variation_sums import VariationBuffers

__all__ = ["MOST_COLUMNS", "BlockLibrary", "RatioBuffers", "block_library"]

SOURCE = Path(__file__).with_name("block_sums.c")
# As in the C source.
MOST_COLUMNS = 1024
HAS_FAR, HAS_EXCLUDED = 1, 2

Top: TypeAlias = "tuple[Float[Tensor, 'B K'], Int[Tensor, 'B K']]"
"""The logits of the most probable tokens so far, in descending order, and the tokens."""


class RatioBuffers(NamedTuple):
    """The memory that the sums over log-ratios of a block are written to, in float32."""

    moments_KB: Float[Tensor, "9 B"]
    far_SB: Float[Tensor, "10 B"]
    excluded_SB: Float[Tensor, "4 B"]


@dataclass(frozen=True, eq=False)
class BlockLibrary:
    """The C functions, called with tensors."""

    library: ctypes.CDLL

    def takes(self, *blocks_BW: Tensor) -> bool:
        """Whether the library can read all blocks: float32 on a CPU, contiguous rows."""
        return all(
            block_BW.dtype == torch.float32
            and block_BW.device.type == "cpu"
            and block_BW.stride(1) == 1
            and block_BW.shape[1] <= MOST_COLUMNS
            for block_BW in blocks_BW
        )

    def sums(
        self,
        first_column: int,
        block_BW: Float[Tensor, "B W"],
        target_logits_B: Float[Tensor, "B"],
        top: Top,
        sums_SB: Float[Tensor, "5 B"],
    ) -> None:
        """Write m, Z, S, √C and the number of tokens above the target, in float64, to `sums_SB`.

        The most probable tokens in `top` are updated.
        """
        B, W = block_BW.shape
        targets_B, (top_logits_BK, top_tokens_BK) = target_logits_B.contiguous(), top
        self.library.kullback_block_sums(
            block_BW.data_ptr(), block_BW.stride(0), B, W, first_column, targets_B.data_ptr(),
            sums_SB.data_ptr(), top_logits_BK.data_ptr(), top_tokens_BK.data_ptr(),
            top_logits_BK.shape[1],
        )  # fmt: skip

    def pair(
        self,
        first_column: int,
        blocks: tuple[Float[Tensor, "B W"], Float[Tensor, "B W"]],
        target_logits: tuple[Float[Tensor, "B"], Float[Tensor, "B"]],
        tops: tuple[Top, Top],
        state_4B: Float[Tensor, "4 B"],
        sums: tuple[Float[Tensor, "5 B"], Float[Tensor, "5 B"]],
        offset_B: Float[Tensor, "B"],
        ratios: RatioBuffers,
        variation: VariationBuffers,
    ) -> tuple[bool, bool]:
        """Write the sums of the blocks x and y of two models, and of their log-ratios.

        Returns whether there are far tokens, and excluded ones.  `state_4B` contains m and Z of the
        columns so far, of x and of y, in float64; it begins with the lowest float32 for m and 0 for
        Z.  It and the most probable tokens of `tops`, equally many of both models, are updated.
        `sums` are written as by the method `sums`, and `offset_B` is the estimate of
        log Z_p - log Z_q that was subtracted, both Z relative to the m of the state, in float64.
        The sums of `variation` are added to.
        """
        x_BW, y_BW = blocks
        B, W = x_BW.shape
        targets = [logits_B.contiguous() for logits_B in target_logits]
        flags = self.library.kullback_pair_sums(
            x_BW.data_ptr(), x_BW.stride(0), y_BW.data_ptr(), y_BW.stride(0), B, W, first_column,
            *(x.data_ptr() for x in (*targets, state_4B, *sums, *tops[0], *tops[1])),
            tops[0][0].shape[1], offset_B.data_ptr(),
            *(buffer.data_ptr() for buffer in (*ratios, *variation)),
        )  # fmt: skip
        return bool(flags & HAS_FAR), bool(flags & HAS_EXCLUDED)

    def exact_terms(
        self,
        blocks: tuple[Float[Tensor, "R W"], Float[Tensor, "R W"]],
        scales_4R: Float[Tensor, "4 R"],
    ) -> Float[Tensor, "5 R"]:
        """What a block adds to JS, and the four parts of TV, in float64.

        `scales_4R` contains m and log Z of whole rows, of x and of y, in float64.  The parts are
        those of `kullback.scoring.variation_sums.block_variation`.
        """
        x_RW, y_RW = blocks
        R, W = x_RW.shape
        terms_5R = torch.empty(5, R, dtype=torch.float64)
        self.library.kullback_exact_terms(
            x_RW.data_ptr(), x_RW.stride(0), y_RW.data_ptr(), y_RW.stride(0), R, W,
            scales_4R.data_ptr(), terms_5R.data_ptr(),
        )  # fmt: skip
        return terms_5R


@cache
def block_library() -> BlockLibrary | None:
    """The library, compiled where it is not cached; None where it is disabled or cannot be made."""
    library = load_compiled(SOURCE, (*FLAGS, *vector_flags()))
    if library is None:
        return None
    library.kullback_block_sums.argtypes = [
        POINTER, LONG, LONG, INT, LONG, *[POINTER] * 4, INT,
    ]  # fmt: skip
    library.kullback_block_sums.restype = None
    library.kullback_pair_sums.argtypes = [
        POINTER, LONG, POINTER, LONG, LONG, INT, LONG, *[POINTER] * 9, INT, *[POINTER] * 7,
    ]  # fmt: skip
    library.kullback_pair_sums.restype = INT
    library.kullback_exact_terms.argtypes = [
        POINTER, LONG, POINTER, LONG, LONG, INT, POINTER, POINTER,
    ]  # fmt: skip
    library.kullback_exact_terms.restype = None
    return BlockLibrary(library)
