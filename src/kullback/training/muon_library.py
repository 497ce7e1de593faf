"""Muon's step in C.

``muon_functions.c`` takes a block from its gradient to its new weights while it is in the caches of
a core.  128 × 352 in blocks of 32 rows, four layers of a mini-GPT, one core (Sapphire Rapids): 2.5
ms, of torch's operations 8.2 ms; with AVX2 3.6 ms.  Products of larger blocks are those of MKL, but
with AVX2 symmetric ones are C's own, of which one triangle is computed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from kullback.runtime.compiled_library import FLAGS, FLOAT, INT, LONG, POINTER, load_compiled
from kullback.runtime.mkl_products import MKLProducts
from kullback.runtime.processor import vector_flags

__all__ = ["SMALL_SIDE", "MuonFunctions", "muon_functions"]

SOURCE = Path(__file__).with_name("muon_functions.c")
# Up to this smaller side of a block the products are C's own: with 96, torch is as fast.
SMALL_SIDE = 64


@dataclass(frozen=True, eq=False)
class MuonFunctions:
    """The C function, called with tensors; float32, contiguous, on a CPU."""

    library: ctypes.CDLL

    def step(
        self,
        matrices: Sequence[tuple[Tensor, Tensor, Tensor]],
        rows: int,
        blocks: range,
        settings: Sequence[float],
        products: MKLProducts | None = None,
    ) -> None:
        """Update these blocks of so many rows, counted over all matrices, in one thread.

        A matrix is a weight, its gradient and its momentum; the settings are learning rate,
        momentum, weight decay, the coefficients of five steps and of three, and the number of
        steps.  Blocks whose smaller side is above `SMALL_SIDE` are multiplied with `products`,
        which must be given then.
        """
        addresses = (products.float32, products.bfloat16 or 0) if products else (0, 0)
        numbers = [
            number
            for matrix in matrices
            for number in (*(tensor.data_ptr() for tensor in matrix), *matrix[0].shape)
        ]
        failed = self.library.kullback_muon(
            len(matrices), (LONG * len(numbers))(*numbers), rows, blocks.start, blocks.stop,
            (FLOAT * len(settings))(*settings), (LONG * 3)(*addresses, SMALL_SIDE),
        )  # fmt: skip
        if failed:
            raise MemoryError("there is no memory for a block of Muon")


@cache
def muon_functions() -> MuonFunctions | None:
    """The function, compiled where it is not cached; None where disabled or not to be made."""
    library = load_compiled(SOURCE, (*FLAGS, *vector_flags()))
    if library is None:
        return None
    function = library.kullback_muon
    function.argtypes, function.restype = (LONG, POINTER, LONG, LONG, LONG, POINTER, POINTER), INT
    return MuonFunctions(library)
